"""A task may be stopped anywhere, by an interrupt or with its executor: no answer changes, no fetch is said to have failed that did
not, nothing keeps running and nothing stays on the servers.

Where tasks wait for a server, they are made to wait by a server that hangs, and killed when a thread dump shows them there. In
between they are hit at random moments of many short jobs.
"""

import os
import random
import signal
import time

import pytest

from harness.application import Application, CallFailed
from harness.run import wait_until
from harness.server import Server

pytestmark = pytest.mark.long

SMALL_BUFFERS = {  # so that a task waits in every call, and not only in its last one
    "spark.reducer.maxSizeInFlight": "64k",
    "spark.forebay.replayBuffer": "1m",
    "spark.forebay.writeArena": "1m",
    "spark.sql.shuffle.partitions": "6",
    "spark.task.maxFailures": "8",  # the loss of an executor counts as one
}
KINDS = ["rows", "fewRows", "objects", "python"]

# Native call, and the job whose tasks are in it while the servers are silent.
WAITS = [("writerFlush", "rows"), ("writerDrain", "objects"), ("writerCommit", "fewRows"), ("readerNext", "reduces")]


@pytest.fixture(scope="module")
def pool(run, line):
    both = [Server(run, f"{line.version}-kills-{number}").start() for number in (1, 2)]
    yield both
    assert [server.stop() for server in both] == [0, 0]
    assert [error for server in both for error in server.errors()] == []


@pytest.fixture(scope="module")
def app(run, line, pool):
    app = Application(run, line, f"kills-{line.version}", pool, SMALL_BUFFERS)
    app.call("run_maps", name="killed", kind="count", maps=8, reduces=4, records=1_000_000)
    yield app
    wait_until(lambda: app.call("busy") == [], 90, "threads of executors are in our code though nothing runs")
    app.call("settle")
    assert app.maps_rerun() == {}, "a map whose output was committed ran again"
    # Anything else would be a fetch failure that was none, or Spark's complaint about memory that a task has not given back.
    assert set(app.events.task_failures()) <= {"TaskKilled", "ExecutorLostFailure"}
    app.stop()
    wait_until(lambda: not any(server.shuffle_files() for server in pool), 30, "files were left")
    for server in pool:
        for gauge in ("apps", "attempts", "memory_used_bytes", "streams", "permits_waiting", "volume_used_bytes"):
            wait_until(lambda: server.metric(f"forebay_{gauge}") == 0, 30, f"{server.name}: {gauge} is not 0")


@pytest.fixture
def hanging(pool):
    for server in pool:
        server.hang()
    yield
    for server in pool:
        server.resume()


@pytest.fixture
def answers(own_answer):
    def answer(kind):
        if kind == "reduces":
            own_answer("run_maps", name="killed", kind="count", maps=8, reduces=4, records=1_000_000)
            return own_answer("run_reduces", name="killed")
        return own_answer("victim", kind=kind)

    return answer


def start(app, kind, group="victim"):
    return app.start_call("run_reduces", name="killed") if kind == "reduces" else app.start_call("victim", kind=kind, group=group)


@pytest.mark.parametrize("call,kind", WAITS)
def test_task_interrupted_while_it_waits_for_a_silent_server(app, pool, hanging, answers, call, kind):
    job = start(app, kind)
    where = app.call("find", method=f"Native.{call}")
    assert where, f"no task was seen in {call}"
    assert app.call("kill_task", task=int(where[1]))
    # Another attempt waits in its place; this one must not, though no server has said a word since.
    wait_until(lambda: int(where[1]) not in app.call("running"), 20, f"task {where[1]} is still there")
    for server in pool:
        server.resume()
    assert job.result() == answers(kind)


@pytest.mark.parametrize("call,kind", WAITS)
def test_executor_killed_while_its_task_waits_for_a_silent_server(app, pool, hanging, answers, call, kind):
    job = start(app, kind)
    where = app.call("find", method=f"Native.{call}")
    assert where, f"no task was seen in {call}"
    os.kill(app.executor_pids()[where[0]], signal.SIGKILL)
    for server in pool:
        server.resume()
    assert job.result() == answers(kind)


def test_executor_killed_while_a_stage_with_tasks_on_it_is_cancelled(app, pool, hanging, answers):
    """The other job has tasks on it, too. Spark hears of both at once."""
    cancelled, goes_on = start(app, "rows", group="cancelled"), start(app, "objects", group="goes on")
    where = app.call("find", method="Native.writerDrain")
    assert where, "no task was seen"
    cancel = app.start_call("cancel_group", group="cancelled")
    os.kill(app.executor_pids()[where[0]], signal.SIGKILL)
    cancel.result()
    with pytest.raises(CallFailed, match="(?i)cancel"):
        cancelled.result()
    for server in pool:
        server.resume()
    assert goes_on.result() == answers("objects")


def test_kills_at_random_moments_of_short_jobs(app, pool, answers, line):
    hit_at_random(app, pool, answers, f"{line.version} short", rounds=10)


def test_kills_at_random_moments_of_many_jobs(app, pool, answers, line):
    hit_at_random(app, pool, answers, f"{line.version} long", rounds=150)


def hit_at_random(app, pool, answers, seed, rounds):
    dice = random.Random(seed)
    print(f"seed {seed!r}")
    hits = dict.fromkeys(["interrupt", "cancel", "executor", "cancel and executor", "silence"], 0)
    for number in range(rounds):
        kinds = dice.sample(KINDS, 2)
        running = {kind: start(app, kind, group=f"{kind}-{number}") for kind in kinds}
        hit, cancelled = dice.choice(sorted(hits)), set()
        time.sleep(dice.uniform(0, 1.5))
        match hit:
            case "interrupt":
                for task in app.call("running"):
                    app.call("kill_task", task=task)
            case "cancel":
                cancelled.add(kinds[0])
                app.call("cancel_group", group=f"{kinds[0]}-{number}")
            case "cancel and executor":
                cancelled.add(kinds[0])
                cancel, pids = app.start_call("cancel_group", group=f"{kinds[0]}-{number}"), app.executor_pids()
                if pids:
                    os.kill(dice.choice(sorted(pids.values())), signal.SIGKILL)
                cancel.result()
            case "executor":
                pids = app.executor_pids()
                if pids:
                    os.kill(dice.choice(sorted(pids.values())), signal.SIGKILL)
            case "silence":
                for server in pool:
                    server.hang()
                time.sleep(dice.uniform(0, 1))
                for server in pool:
                    server.resume()
        hits[hit] += 1
        for kind, job in running.items():
            try:
                assert job.result(120) == answers(kind), f"round {number}: {kind} after {hit}"
            except CallFailed as failed:
                assert kind in cancelled and "cancel" in str(failed).lower(), f"round {number}: {kind} after {hit}: {failed}"
    print(hits)
