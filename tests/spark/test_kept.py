"""Records that Spark keeps behind a shuffle: persisted, checkpointed, and let go again."""

import pytest

from harness.application import Application
from harness.run import wait_until
from harness.server import Server

pytestmark = pytest.mark.long


@pytest.fixture
def server(run, request):
    server = Server(run, request.node.name.translate({ord(c): "-" for c in "[]"})).start()
    yield server
    if server.is_running():
        assert server.stop() == 0
    assert server.errors() == []


def test_records_that_were_kept_and_are_lost_or_let_go_are_read_from_the_shuffle_again(run, line, server, own_answer):
    app = Application(run, line, f"persisted-{line.version}", [server])
    expected = own_answer("keep", how="persist")
    assert app.call("keep", how="persist") == expected
    app.kill_executor()
    assert app.call("kept") == expected
    for _ in range(5):
        reading = app.start_call("kept")
        app.call("unkeep")
        assert reading.result() == expected
    assert app.call("kept") == expected
    assert app.maps_rerun() == {}
    assert set(app.events.task_failures()) <= {"ExecutorLostFailure"}
    app.stop()


@pytest.mark.parametrize("how", ["checkpoint", "localCheckpoint"])
def test_records_of_a_checkpoint_need_their_shuffle_no_more(run, line, server, own_answer, how):
    """It is freed, and then there is no server at all."""
    folder = str(run.folder("tmp", f"kept-{how}-{line.version}"))
    app = Application(run, line, f"{how}-{line.version}", [server])
    assert app.call("keep", how=how, folder=folder) == own_answer("keep", how="persist")
    for shuffle in app.call("shuffles"):
        app.call("remove_shuffle", shuffle=shuffle)
    wait_until(lambda: server.shuffle_files() == [], 60, "the shuffle was freed, and its files are there")
    server.kill()
    assert app.call("kept") == own_answer("keep", how="persist")
    assert app.maps_rerun() == {}
    assert app.events.task_failures() == []
    app.stop()
