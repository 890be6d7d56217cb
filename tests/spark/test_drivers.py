"""The driver's threads wait for servers no longer than they must: interrupted, many at a time, and while everything ends."""

import re
import time

import pytest

from harness.application import Application, CallFailed
from harness.run import wait_until
from harness.server import Server

OPENING = "ForebayClient.openApp"


@pytest.fixture
def server(run, request):
    """One that knows nothing of another test's applications: some tests kill it, and they stay with it for their lease."""
    server = Server(run, request.node.name.translate({ord(c): "-" for c in "[]"})).start()
    yield server
    if server.is_running():
        assert server.stop() == 0
        assert server.errors() == []


def outcome(app, name, seconds=60) -> str:
    wait_until(lambda: app.call("query_outcome", name=name), seconds, f"{name} goes on")
    return app.call("query_outcome", name=name)


@pytest.mark.every_line
def test_query_that_is_interrupted_while_the_application_registers_leaves_that_to_the_next(run, line, server):
    """As a stream that is stopped in its first batch, a Connect session or a Thrift statement that is cancelled."""
    conf = {"spark.master": "local[2]", "spark.forebay.retryDeadline": "60s"}
    app = Application(run, line, f"interrupted-{line.version}", [server], conf)
    server.hang()
    for name in ("first", "second"):
        app.call("start_query", name=name)
        wait_until(lambda: app.call("queries_inside", method=OPENING) == [name], 60, f"{name} does not register")
        app.call("interrupt_query", name=name)
        assert outcome(app, name).startswith("java.lang.InterruptedException")
    for name in ("third", "fourth"):
        app.call("start_query", name=name)
    wait_until(lambda: app.call("queries_inside", method=OPENING) == ["fourth", "third"], 60, "they do not wait both")
    server.resume()
    answers = {outcome(app, name) for name in ("third", "fourth")}
    assert len(answers) == 1 and answers.pop().startswith("answer: ")
    app.stop()
    wait_until(lambda: server.metric("forebay_apps") == 0, 30, "the application is known still")


@pytest.mark.long
def test_queries_without_servers_wait_once_and_not_one_after_another(run, line, server):
    """And who stops the application meanwhile waits for none of them."""
    conf = {"spark.master": "local[2]", "spark.forebay.retryDeadline": "20s"}
    app = Application(run, line, f"crowd-{line.version}", [server], conf)
    server.kill()
    names = [f"query-{number}" for number in range(10)]
    start = time.monotonic()
    for name in names:
        app.call("start_query", name=name)
    for name in names:
        assert re.search(r"no server took app", outcome(app, name))
    assert time.monotonic() - start < 60, "ten times 20 s are 200"
    app.call("start_query", name="last")
    wait_until(lambda: app.call("queries_inside", method=OPENING) == ["last"], 60, "it does not register")
    assert app.call("stop_context") < 15_000
    assert "is being stopped" in outcome(app, "last")
    app.stop()


@pytest.mark.long
@pytest.mark.parametrize("how", ["hang", "kill"])
def test_application_whose_servers_are_all_gone_stops_in_seconds(run, line, server, how):
    app = Application(run, line, f"stops-{how}-{line.version}", [server], {"spark.master": "local[2]"})
    app.call("start_query", name="query")
    assert outcome(app, "query").startswith("answer: ")
    getattr(server, how)()
    assert app.call("stop_context") < 20_000
    app.stop()
    if how == "hang":
        server.resume()


class Exiting(Application):
    """As drivers are started that had rather be started again."""

    jvm = "-XX:TieredStopAtLevel=1 -XX:+ExitOnOutOfMemoryError"


@pytest.mark.long
def test_driver_that_ends_when_it_is_out_of_memory_leaves_nothing(run, line, server):
    """Nothing of it says goodbye. One that went on would be stopped by Spark, or not, by which of its threads was refused memory."""
    conf = {"spark.driver.memory": "512m", "spark.forebay.lease": "5s"}
    app = Exiting(run, line, f"exhausted-{line.version}", [server], conf)
    app.call("run_maps", name="exhausted", kind="count", maps=8)
    assert server.shuffle_files()
    with pytest.raises(CallFailed):
        app.call("exhaust")
    wait_until(lambda: app.executor_pids() == {}, 60, "the driver's JVM goes on")
    app.kill_driver()
    wait_until(lambda: server.metric("forebay_apps") == 0 and not server.shuffle_files(), 60, "something was left")


@pytest.mark.long
def test_many_contexts_one_after_the_other_in_one_process_leave_nothing_behind(run, line, server):
    conf = {"spark.master": "local[2]", "spark.eventLog.enabled": "false"}
    app = Application(run, line, f"contexts-{line.version}", [server], conf)
    left = []
    for number in (3, 30):
        app.call("contexts", number=number)
        time.sleep(25)  # Spark's event loops end 15 s after their context at the latest
        left.append(app.call("left_behind"))
    (ours, files, threads), (ours_later, files_later, threads_later) = left
    assert ours == ours_later == 0
    assert files_later <= files + 15 and threads_later <= threads + 15, left
    wait_until(lambda: server.metric("forebay_apps") == 0, 30, "applications that ended are known still")
    app.stop()
