"""What is no longer needed goes away, and what hangs can be left.

That an application which ends leaves nothing is looked at in conftest.py, where the one that all tests share ends.
"""

import time

import pytest

from harness.application import Application, CallFailed
from harness.run import wait_until
from harness.server import Server


PROMPTLY = 20  # seconds, on a machine with other things to do; a client that waited for its server would take 30 and more


def held(servers) -> int:
    return sum(server.shuffle_bytes() for server in servers)


def test_shuffle_that_spark_forgets_frees_its_bytes(forebay, servers):
    before = held(servers)
    shuffles = forebay.call("run_maps", name="forgotten", kind="count")
    wait_until(lambda: held(servers) > before + 1_000_000, 30, "no rows on the disks")
    for shuffle in shuffles:
        forebay.call("forget", shuffle=shuffle)
    wait_until(lambda: held(servers) <= before, 30, "its bytes were not freed")


@pytest.mark.long
def test_killed_driver_leaves_no_bytes_when_its_lease_is_over(run, line):
    server = Server(run, f"{line.version}-lease").start()
    app = Application(run, line, f"killed-{line.version}", [server], {"spark.forebay.lease": "10s"})
    app.call("run_maps", name="left", kind="count")
    time.sleep(12)  # longer than the lease: a live driver keeps its data
    assert app.call("run_reduces", name="left")["counts"]
    app.kill_driver()
    assert server.shuffle_bytes() > 0
    wait_until(lambda: server.shuffle_files() == [], 60, "its files were not deleted")
    assert server.stop() == 0


@pytest.fixture
def hanging(servers):
    """Both servers stop answering when called, and go on after the test."""

    def hang():
        for server in servers:
            server.hang()

    yield hang
    for server in servers:
        server.resume()


def cancelled(app, call) -> float:
    """Cancels the job that the call waits for; seconds until no task of it runs any more."""
    start = time.monotonic()
    app.call("cancel")
    with pytest.raises(CallFailed, match="(?i)cancel"):
        call.result(timeout=60)
    wait_until(lambda: app.call("active_tasks") == 0, 60, "tasks still run")
    return time.monotonic() - start


def test_cancelled_maps_end_promptly_though_the_servers_hang(forebay, servers, hanging):
    call = forebay.start_call("slow_maps")
    wait_until(lambda: forebay.call("active_tasks") == 2, 30, "the job has not started")
    time.sleep(1.5)
    hanging()
    time.sleep(1)
    assert cancelled(forebay, call) < PROMPTLY


def test_cancelled_reduces_end_promptly_though_the_servers_hang(forebay, servers, hanging):
    forebay.call("run_maps", name="hanging", kind="aggregation")
    hanging()
    call = forebay.start_call("run_reduces", name="hanging")
    wait_until(lambda: forebay.call("active_tasks") == 2, 30, "the job has not started")
    time.sleep(1)
    assert cancelled(forebay, call) < PROMPTLY
    for server in servers:
        server.resume()
    assert forebay.call("run_reduces", name="hanging")["digest"].startswith("100003 rows")
