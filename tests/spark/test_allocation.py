"""Executors come and go, batches come and go: nothing is computed again, and nothing stays."""

import os
import signal
import time

import pytest

from harness.application import Application
from harness.run import wait_until
from harness.server import Server

pytestmark = pytest.mark.long

DYNAMIC = {
    "spark.dynamicAllocation.enabled": "true",
    "spark.dynamicAllocation.executorIdleTimeout": "2s",
    "spark.dynamicAllocation.initialExecutors": "1",
    "spark.dynamicAllocation.maxExecutors": "2",
    "spark.dynamicAllocation.minExecutors": "0",
}
DECOMMISSION = {
    "spark.decommission.enabled": "true",
    "spark.storage.decommission.enabled": "true",
    "spark.storage.decommission.rddBlocks.enabled": "true",
    "spark.storage.decommission.shuffleBlocks.enabled": "true",
}


@pytest.mark.parametrize("conf", [DYNAMIC, DYNAMIC | DECOMMISSION], ids=["plain", "decommissioning"])
def test_idle_executors_are_released_and_nothing_is_computed_again(run, line, servers, own_answer, conf):
    """No shuffle service, no shuffle tracking, nothing set besides what switches dynamic allocation on."""
    job = {"kind": "aggregation", "maps": 12}
    app = Application(run, line, f"dynamic-{len(conf)}-{line.version}", servers, conf)
    try:
        for name in ("first", "second"):
            app.call("run_maps", name=name, **job)
            # Data that nobody has read yet does not keep them.
            wait_until(lambda: app.call("executors") == 0, 180, "idle executors were kept")
            own_answer("run_maps", name="allocation", **job)
            assert app.call("run_reduces", name=name) == own_answer("run_reduces", name="allocation")
        wait_until(lambda: app.call("executors") == 0, 180, "idle executors were kept")
        assert app.call("run_reduces", name="first") == own_answer("run_reduces", name="allocation")
        assert app.maps_rerun() == {}
        assert app.events.task_failures() == []
        assert len(set(app.events.executors_removed())) >= 3
    finally:
        app.stop()


def test_executor_that_is_decommissioned_while_its_tasks_run(run, line, servers, own_answer):
    """As Kubernetes does before it takes a node away. Its tasks end, what they wrote stays where it is, and nobody is sent another way."""
    job = {"kind": "marked", "maps": 24, "reduces": 6, "records": 3_000_000}
    own_answer("run_maps", name="decommissioned", **job)
    expected = own_answer("run_reduces", name="decommissioned")
    fallback = run.folder("tmp", f"fallback-{line.version}")
    conf = DECOMMISSION | {"spark.storage.decommission.fallbackStorage.path": f"{fallback.as_uri()}/"}
    app = Application(run, line, f"decommissioned-{line.version}", servers, conf)
    maps = app.start_call("run_maps", name="decommissioned", **job)
    number = decommissioned(app)
    assert app.call("run_maps", name="second", kind="count", maps=4) and maps.result()
    assert app.call("run_reduces", name="decommissioned") == expected
    wait_until(lambda: app.call("settle") or number in app.events.executors_removed(), 60, "it is there still")
    assert app.maps_rerun() == {}
    assert app.events.task_failures() == []
    assert list(fallback.iterdir()) == []
    app.stop()


def decommissioned(app) -> str:
    """Sends the signal to an executor that runs a task."""
    where = app.call("find", method="ForebayShuffleWriter.write")
    assert where, "no task was seen"
    os.kill(app.executor_pids()[where[0]], signal.SIGPWR)
    return where[0]


BATCHES = 10  # between two looks


def test_stream_leaves_nothing_of_its_batches(run, line):
    """Hours of a stream in small: what the servers hold goes up and down with the batches, and not up.

    Bytes are looked at when it has ended: outputs as small as these stand in a commit log, whose file goes as a whole, when all in
    it is deleted, and is closed for that at 256 MiB.
    """
    server = Server(run, f"{line.version}-stream").start()
    app = Application(run, line, f"stream-{line.version}", [server], {"spark.cleaner.referenceTracking.blocking.shuffle": "true"})
    try:
        app.call("start_stream", name="counts", checkpoint=str(run.folder("tmp", f"checkpoint-{line.version}")))
        looks = [look_after(app, server, BATCHES * number) for number in range(1, 5)]
        rows, total, keys = app.call("stop_stream", name="counts")
        assert (total, keys) == (rows * (rows - 1) // 2, 101)
        assert rows >= 4 * BATCHES * 2000
        # Twenty batches lie between the two halves; a few come and go while we look.
        for name, slack in {"shuffles": 3, "attempts": 15, "descriptors": 5}.items():
            first, second = (max(look[name] for look in half) for half in (looks[:2], looks[2:]))
            assert second <= first + slack, f"{name} of {looks}"

        def nothing_left():
            app.call("collect_garbage")
            return server.shuffle_files() == []

        wait_until(nothing_left, 120, "the stream has ended and its files are there")
        assert server.bytes_in() > 0
    finally:
        app.stop()
    assert server.stop() == 0
    assert server.errors() == []


def look_after(app, server, batches) -> dict:
    """What is held when so many batches are done and Spark has found out which of their shuffles it needs no more: the lowest of
    some moments, because the stream goes on meanwhile."""
    wait_until(lambda: app.call("batches", name="counts") >= batches, 300, f"{batches} batches were not finished")
    moments = []
    for _ in range(6):
        app.call("collect_garbage")
        time.sleep(0.3)
        moments.append(
            {
                "shuffles": len({path.parent for path in server.shuffle_files() if path.suffix == ".seg"}),
                "attempts": server.metric("forebay_attempts"),
                "descriptors": len(os.listdir(f"/proc/{server.process.pid}/fd")),
            }
        )
    return {name: min(moment[name] for moment in moments) for name in moments[0]}
