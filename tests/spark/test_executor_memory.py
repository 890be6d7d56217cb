"""Executors in containers that leave them what Spark's defaults say, their heap touched from end to end: nothing set, nobody killed."""

import re
from pathlib import Path

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
    """Returns the largest resident memory that an executor had, in MiB."""
    (pid,) = app.executor_pids().values()
    answer = app.call("reshuffled", **job)
    peak = int(re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) >> 10
    print(f"peak {container.peak_mib()} MiB of {HEAP_MIB + OVERHEAD_MIB}")
    assert container.kills() == 0
    assert answer["shuffled"] == answer["own"]
    app.call("settle")
    assert app.events.executors_removed() == []
    assert app.events.task_failures() == []
    app.stop()
    return peak


def test_tasks_of_four_cores_fit_sparks_default_overhead(run, line, servers, container):
    check(executor(run, line, servers, container, 4), container, rows=4_000_000, maps=4)


def test_executor_of_a_gigabyte_and_two_cores_is_warned_of_with_more_than_it_takes(run, line, servers, container):
    app = executor(run, line, servers, container, 2)
    peak = check(app, container, rows=4_000_000, maps=4)
    warnings = [text for text in app.log.read_text(errors="replace").splitlines() if "an executor may need" in text]
    assert len(warnings) == 1, warnings
    (warning,) = warnings
    assert " WARN " in warning
    need, heap, overhead = re.search(r"may need (\d+) MiB: (\d+) of heap.* set spark.executor.memoryOverhead=(\d+)m", warning).groups()
    print(f"peak {peak} MiB resident of {need} that it is told to have")
    assert int(heap) == HEAP_MIB and int(need) == HEAP_MIB + int(overhead)
    assert int(need) >= peak


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
