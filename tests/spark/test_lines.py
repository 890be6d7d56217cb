"""Applications of different Spark lines use the same servers at the same time."""

import pytest

from conftest import LINES
from harness.application import Application
from harness.places import Missing, SparkLine
from harness.run import wait_until
from harness.server import Server

JOB = {"kind": "aggregation", "maps": 24}


@pytest.fixture
def lines():
    if len(LINES) < 2:
        pytest.skip("only one Spark line is wanted: SPARK_LINES names one")
    try:
        return SparkLine(LINES[0]), SparkLine(LINES[-1])
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.mark.long
def test_applications_of_two_lines_share_the_servers(run, lines):
    """Both count their shuffles from 0, both lose an executor, both see a server come back; then one ends, and takes only its own."""
    servers = [Server(run, f"shared-{number}").start() for number in (1, 2)]
    old, new = (Application(run, line, f"shared-{line.version}", servers) for line in lines)
    try:
        shuffles = [app.call("run_maps", name="shared", **JOB) for app in (old, new)]
        assert shuffles[0] == shuffles[1]
        for app in (old, new):
            app.kill_executor()
        servers[0].restart()
        reduces = [app.start_call("run_reduces", name="shared") for app in (old, new)]
        answers = [call.result() for call in reduces]
        # 100 003 keys, and rows are the same bytes on both lines.
        assert answers[0] == answers[1] and answers[0]["digest"].startswith("100003 rows")
        for kind in ("groupByKey", "combineWithJavaSerializer", "sortByKey"):
            calls = [app.start_call("pairs", job=kind, records=40_000) for app in (old, new)]
            assert calls[0].result() == calls[1].result()
        before = sum(server.shuffle_bytes() for server in servers)
        old.stop()
        wait_until(lambda: all(server.metric("forebay_apps") == 1 for server in servers), 30, "the first app did not go")
        assert 0 < sum(server.shuffle_bytes() for server in servers) < before
        assert new.call("run_reduces", name="shared") == answers[1]
        assert new.maps_rerun() == {}
    finally:
        for app in (old, new):
            app.stop()
    wait_until(lambda: not any(server.shuffle_files() for server in servers), 30, "files were left")
    assert [server.stop() for server in servers] == [0, 0]
    assert [error for server in servers for error in server.errors()] == []
