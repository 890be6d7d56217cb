"""Readers: read by threads that Spark does not wait for, and thousands of them in one task."""

import re
import subprocess
import time

import pytest

from harness.application import Application


@pytest.mark.every_line
def test_threads_that_read_on_after_their_task(run, line, servers):
    """Not compressed, so that blocks are lent as they were received: what is freed is unmapped, and reading it would end the JVM."""
    conf = {"spark.master": "local-cluster[2,2,1024]", "spark.shuffle.compress": "false"}
    app = Application(run, line, f"threads-{line.version}", servers, conf)
    assert app.call("piped", rounds=25) == [8] * 25
    assert app.call("first_of_many", rounds=4) == [4] * 4
    app.call("settle")
    assert app.events.executors_removed() == []
    assert app.events.task_failures() == []
    logs = "".join(log.read_text(errors="replace") for log in app.executor_logs())
    assert "SIGSEGV" not in logs and "does not hold the rows it says" not in logs
    app.stop()


def test_task_that_reads_thousands_of_inputs_keeps_a_handful(run, line, servers):
    conf = {"spark.master": "local-cluster[1,2,1024]"}
    app = Application(run, line, f"inputs-{line.version}", servers, conf)
    cartesian = app.start_call("cartesian", left=8000, right=10)
    most = 0
    while cartesian.answer.empty():
        (executor,) = app.executor_pids().values() or [None]
        most = max(most, live(executor, "io.forebay.core.BlockReader"))
        time.sleep(0.5)
    assert cartesian.result() == 80_000
    # Two tasks, eight last blocks each, and the readers that are in use.
    assert 0 < most <= 24
    assert app.call("coalesced", partitions=500, rows=20_000) == [20_000, 199_990_000, 20_000 * 120]
    (executor,) = app.executor_pids().values()
    assert live(executor, "io.forebay.core.BlockReader") == 0
    app.stop()


def live(pid, name):
    """Objects of a class that are reachable in a JVM."""
    done = subprocess.run(["jcmd", str(pid), "GC.class_histogram"], capture_output=True, text=True, timeout=60)
    found = re.search(rf"^\s*\d+:\s+(\d+)\s+\d+\s+{re.escape(name)}\s*(\(|$)", done.stdout, re.M)
    return int(found.group(1)) if found else 0
