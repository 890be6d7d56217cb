"""Executors in containers that leave them what Spark's defaults say, their heap touched from end to end: nothing set, nobody killed."""

import pytest

from harness.application import Application
from harness.cgroup import Cgroup

HEAP_MIB, OVERHEAD_MIB = 1024, 384  # Spark's defaults


@pytest.fixture
def container(run, request):
    if missing := Cgroup.missing():
        pytest.skip(missing)
    group = Cgroup(run.folder("cgroups", request.node.name.replace("/", "-")), HEAP_MIB + OVERHEAD_MIB)
    yield group
    group.remove()


def executor(run, line, servers, container, cores, conf=None):
    settings = {
        "spark.master": f"local-cluster[1,{cores},{HEAP_MIB}]",
        "spark.executorEnv.JAVA_HOME": str(container.java_home),
        "spark.sql.autoBroadcastJoinThreshold": "-1",
    }
    app = Application(run, line, f"memory-{container.path.name}", servers, settings | (conf or {}), HEAP_MIB, f"-Xms{HEAP_MIB}m -XX:+AlwaysPreTouch")
    (pid,) = app.executor_pids().values()
    assert str(pid) in (container.path / "cgroup.procs").read_text().split()
    return app


def check(app, container, **job):
    answer = app.call("reshuffled", **job)
    print(f"peak {container.peak_mib()} MiB of {HEAP_MIB + OVERHEAD_MIB}")
    assert container.kills() == 0
    assert answer["shuffled"] == answer["own"]
    app.call("settle")
    assert app.events.executors_removed() == []
    assert app.events.task_failures() == []
    app.stop()


def test_tasks_of_four_cores_fit_sparks_default_overhead(run, line, servers, container):
    check(executor(run, line, servers, container, 4), container, rows=4_000_000, maps=4)


@pytest.mark.long
@pytest.mark.parametrize("cores", [1, 4, 8])
def test_two_shuffles_of_650_mb_on_so_many_cores(run, line, servers, container, cores):
    check(executor(run, line, servers, container, cores), container, rows=8_100_000, maps=8)


@pytest.mark.long
def test_join_that_reads_two_shuffles_and_writes_one(run, line, servers, container):
    check(executor(run, line, servers, container, 4), container, rows=3_000_000, maps=8, join=True)


@pytest.mark.long
def test_20000_partitions(run, line, servers, container):
    conf = {"spark.sql.adaptive.advisoryPartitionSizeInBytes": "32m"}
    check(executor(run, line, servers, container, 4, conf), container, rows=4_000_000, maps=4, reduces=20_000)


@pytest.mark.long
def test_level_mirror(run, line, servers, container):
    conf = {"spark.forebay.durability": "mirror"}
    check(executor(run, line, servers, container, 4, conf), container, rows=4_000_000, maps=4)
