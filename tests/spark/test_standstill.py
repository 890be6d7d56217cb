"""A process that stands still for longer than others wait for it, and then goes on as if nothing had been: a machine that was suspended,
a debugger, a JVM that swaps. Nobody's rows may be others for that, and no job may end.
"""

import os
import signal
import time
from contextlib import contextmanager

import pytest

from harness.application import Application, CallFailed
from harness.run import command_of, descendants, wait_until
from harness.server import Server
from test_one_loss import Loss
from test_speculation import SPECULATION, cluster  # the latter is a fixture

LEASE = 5
CONF = {
    "spark.master": "local-cluster[2,2,1024]",
    "spark.forebay.lease": f"{LEASE}s",
    "spark.forebay.retryDeadline": "8s",
    "spark.sql.autoBroadcastJoinThreshold": "-1",
}


@contextmanager
def standing_still(*pids: int):
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def driver(app) -> int:
    (pid,) = [pid for pid in descendants(app.process.pid) if any("SparkSubmit" in word for word in command_of(pid))]
    return pid


@pytest.fixture
def many_disks(run, request):
    server = Server(run, request.node.name.translate({ord(c): "-" for c in "[]"}), disks=6).start()
    yield server
    assert server.stop() == 0
    assert server.errors() == []


def test_driver_that_stands_still_for_longer_than_its_lease_between_two_stages(run, line, many_disks, own_answer):
    """Everything is gone then, on every disk at once: that is one loss, and the one reducer's stage has four attempts."""
    app = Application(run, line, f"lapsed-{line.version}", [many_disks], CONF)
    loss = Loss(app, own_answer, "lapsed", reduces=1)
    assert len(loss.volumes()) > 4, loss.where
    with standing_still(driver(app)):
        wait_until(lambda: many_disks.metric("forebay_apps") == 0, 20 * LEASE, "the lease does not run out")
    assert app.call("run_reduces", name="lapsed") == loss.expected
    assert {number for _, number in app.maps_rerun() - loss.before} == set(range(72))
    app.stop()


@pytest.mark.long
def test_driver_that_stands_still_for_longer_than_its_lease_in_a_stage(run, line, many_disks, own_answer):
    """What its executors push meanwhile keeps the lease; then they have nothing to do, and it runs out. So of one shuffle some outputs
    are lost and some not, side by side on every disk."""
    app = Application(run, line, f"stopped-{line.version}", [many_disks], CONF)
    job = {"kind": "marked", "maps": 24, "reduces": 1, "records": 3_000_000}
    own_answer("run_maps", name="stopped", **job)
    expected = own_answer("run_reduces", name="stopped")
    maps = app.start_call("run_maps", name="stopped", **job)
    wait_until(lambda: many_disks.bytes_in() > 1 << 20, 60, "nothing is written")
    with standing_still(driver(app)):
        wait_until(lambda: many_disks.metric("forebay_apps") == 0, 20 * LEASE, "the lease does not run out")
    maps.result()
    assert app.call("run_reduces", name="stopped") == expected
    assert 0 < len(app.maps_rerun()) < 24
    assert set(app.maps_rerun().values()) == {1}
    app.stop()


WRITING = "ForebayShuffleWriter.write"


@pytest.mark.long
def test_executor_that_stands_still_in_a_write_until_another_attempt_has_won(run, line, servers, cluster, own_answer):
    """It goes on when the stage is over, and may commit its output beside the one that Spark has chosen."""
    conf = {**SPECULATION, "spark.master": cluster.url}
    app = Application(run, line, f"still-{line.version}", servers, conf)
    job = {"kind": "marked", "maps": 4, "reduces": 6, "records": 4_000_000}
    own_answer("run_maps", name="still", **job)
    expected = own_answer("run_reduces", name="still")
    wait_until(lambda: app.call("executors") == 2, 60, "there are not two executors")
    maps = app.start_call("run_maps", name="still", **job)
    executor, task = app.call("find", method=WRITING)
    with standing_still(executor_pid(run, executor)):
        maps.result()
        first = app.call("run_reduces", name="still")
    time.sleep(3)
    assert first == app.call("run_reduces", name="still") == expected
    app.call("settle")
    won = [end for end in app.events.task_ends() if end["Task Info"]["Speculative"] and end["Task End Reason"]["Reason"] == "Success"]
    assert won, "no speculative attempt won"
    app.stop()


def executor_pid(run, number: str) -> int:
    (pid,) = [
        pid
        for pid in run.processes("cluster")
        for command in [command_of(pid)]
        if "--executor-id" in command and command[command.index("--executor-id") + 1] == number
    ]
    return pid


@pytest.mark.long
def test_application_that_is_stopped_in_the_middle_of_a_stage_leaves_nothing(run, line, many_disks):
    app = Application(run, line, f"ended-{line.version}", [many_disks], CONF)
    job = app.start_call("slow_maps", records=20_000_000)
    wait_until(lambda: many_disks.bytes_in() > 5 << 20, 60, "nothing is written")
    assert app.call("stop_context") < 20_000
    with pytest.raises(CallFailed, match="shut down|stopped"):
        job.result()
    app.stop()
    wait_until(lambda: many_disks.metric("forebay_apps") == 0 and not many_disks.shuffle_files(), 60, "something was left")


@pytest.mark.long
def test_jobs_that_are_cancelled_when_all_servers_are_dead_end_at_once(run, line, many_disks):
    app = Application(run, line, f"cancelled-{line.version}", [many_disks], CONF | {"spark.forebay.retryDeadline": "120s"})
    app.call("run_maps", name="cancelled", kind="count", maps=4)
    writes = app.start_call("slow_maps", records=20_000_000)
    wait_until(lambda: many_disks.bytes_in() > 5 << 20, 60, "nothing is written")
    many_disks.kill()
    time.sleep(5)
    for job in (writes, app.start_call("run_reduces", name="cancelled")):
        time.sleep(2)
        app.call("cancel")
        with pytest.raises(CallFailed, match="cancelled"):
            job.result()
        wait_until(lambda: app.call("running") == [], 30, "tasks run still")
    assert app.call("stop_context") < 20_000
    app.stop()
    many_disks.start()
