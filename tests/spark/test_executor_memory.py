"""Executors in containers that leave them what Spark's defaults say, their heap touched from end to end: nothing set, nobody killed."""

import re
from pathlib import Path

import pytest

from harness.application import Application
from harness.cgroup import Cgroup

HEAP_MIB, OVERHEAD_MIB = 1024, 384  # Spark's defaults


@pytest.fixture
def containers(run, request):
    """Makes those that a test asks for."""
    if missing := Cgroup.missing():
        pytest.skip(missing)
    made = []

    def container(limit_mib: int) -> Cgroup:
        made.append(Cgroup(run.folder("cgroups", f"{request.node.name.replace('/', '-')}-{len(made)}"), limit_mib))
        return made[-1]

    yield container
    for group in made:
        group.remove()


@pytest.fixture
def container(containers):
    return containers(HEAP_MIB + OVERHEAD_MIB)


def executor(run, line, servers, container, cores, conf=None, heap_mib=HEAP_MIB):
    settings = {
        "spark.master": f"local-cluster[1,{cores},{heap_mib}]",
        "spark.executorEnv.JAVA_HOME": str(container.java_home),
        "spark.sql.autoBroadcastJoinThreshold": "-1",
    }
    app = Application(run, line, f"memory-{container.path.name}", servers, settings | (conf or {}), heap_mib, f"-Xms{heap_mib}m -XX:+AlwaysPreTouch")
    (pid,) = app.executor_pids().values()
    assert str(pid) in (container.path / "cgroup.procs").read_text().split()
    return app


def check(app, container, call="reshuffled", **job):
    """Returns the largest resident memory that an executor had, in MiB."""
    (pid,) = app.executor_pids().values()
    answer = app.call(call, **job)
    peak = int(re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) >> 10
    print(f"peak {container.peak_mib()} MiB of {container.limit_mib}")
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


@pytest.mark.long
def test_tasks_of_sixteen_cores(run, line, servers, containers):
    container = containers(2048 + OVERHEAD_MIB)
    check(executor(run, line, servers, container, 16, heap_mib=2048), container, rows=8_100_000, maps=32, reduces=32)


@pytest.mark.long
def test_rows_of_100_mb(run, line, servers, containers):
    container = containers(2048 + OVERHEAD_MIB)
    check(executor(run, line, servers, container, 2, heap_mib=2048), container, "heavy", kind="giant")


OFF_HEAP = {"spark.memory.offHeap.enabled": "true", "spark.memory.offHeap.size": "512m"}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sorted", "cached", "python", "wide"])
def test_what_else_tasks_do_with_memory(run, line, servers, containers, kind):
    """Sorts that spill, partitions that Spark keeps outside the heap, Python beside the JVM, rows of 50 MB."""
    more = {"cached": OFF_HEAP, "python": {"spark.executor.pyspark.memory": "768m"}}.get(kind, {})
    container = containers(HEAP_MIB + OVERHEAD_MIB + {"cached": 512, "python": 768}.get(kind, 0))
    check(executor(run, line, servers, container, 4, more), container, "heavy", kind=kind)
