"""A process that stands still for longer than others wait for it, and then goes on as if nothing had been: a machine that was suspended,
a debugger, a JVM that swaps. Nobody's rows may be others for that, and no job may end.
"""

import os
import signal
from contextlib import contextmanager

import pytest

from harness.application import Application
from harness.run import command_of, descendants, wait_until
from harness.server import Server
from test_one_loss import Loss

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
def many_disks(run, line):
    server = Server(run, f"{line.version}-lapsed", disks=6).start()
    yield server
    assert server.stop() == 0
    assert server.errors() == []


def test_driver_that_stands_still_for_longer_than_its_lease_between_two_stages(run, line, many_disks, own_answer):
    """Everything is gone then, on every disk at once: that is one loss, and the one reducer's stage has four attempts."""
    app = Application(run, line, f"lapsed-{line.version}", [many_disks], CONF)
    loss = Loss(app, own_answer, "lapsed", reduces=1)
    assert len(loss.volumes()) > 4, loss.where
    with standing_still(driver(app)):
        wait_until(lambda: many_disks.metric("shuffle_server_apps") == 0, 20 * LEASE, "the lease does not run out")
    assert app.call("run_reduces", name="lapsed") == loss.expected
    assert {number for _, number in app.maps_rerun() - loss.before} == set(range(72))
    app.stop()
