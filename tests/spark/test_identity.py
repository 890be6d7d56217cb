"""An application is who it is, whatever its id, and its classes are who they are, whoever loaded them: in both cases the other
way is rows of somebody else, without an error.
"""

import pytest

from conftest import SHARED
from harness.application import Application
from harness.places import JAR
from harness.server import Server

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def server(run):
    """One that only these tests use: their drivers are killed, and leave their data to the lease."""
    server = Server(run, "identity").start()
    yield server
    assert server.stop() == 0
    assert server.errors() == []


def started(run, line, server, name, conf, secret):
    conf = {"spark.shuffle.compress": "false", **conf}
    if secret == "file":
        file = run.folder("tokens") / "token"
        file.write_text(TOKEN)
        conf["spark.forebay.token.file"] = str(file)
    return Application(run, line, name, [server], conf)


def test_driver_that_is_killed_and_started_again_under_its_id_gets_its_own_rows_at_once(run, newest, server):
    """Outputs of the same sizes under the same numbers lie on the server still, and with a token file the same secret opens them.
    (On Spark 3 only Kubernetes and YARN let an id come again: the line has no part in it.)"""
    conf = {"spark.master": "local[2]", "spark.test.appId": "fixed"}
    apps = server.metric("forebay_apps")
    for number, secret in enumerate(["file", "file", "random", "random"]):
        app = started(run, newest, server, f"again-{number}", conf, secret)
        assert app.id == "fixed"
        base = 1000 * (number + 1)
        assert app.call("tagged", base=base) == [1000, base, base + 999, 1000 * base + 499_500]
        app.kill_driver()
    assert server.metric("forebay_apps") == apps + 4


@pytest.mark.long
@pytest.mark.parametrize("secret", ["file", "random"])
def test_name_as_id_with_whatever_is_in_it(run, newest, server, secret):
    conf = {
        "spark.app.name": f"Nächtlicher Bericht (№ 1, {secret}) +{'x' * 150}",
        "spark.master": "local-cluster[1,2,1024]",
        "spark.master.useAppNameAsAppId.enabled": "true",
    }
    for base in (1000, 5000):
        app = started(run, newest, server, f"named-{secret}-{base}", conf, secret)
        assert app.id.startswith("nächtlicherbericht(№1,")
        assert app.call("tagged", base=base) == [1000, base, base + 999, 1000 * base + 499_500]
        app.kill_driver()


FIRST = {"spark.jars": str(JAR), "spark.executor.userClassPathFirst": "true"}


@pytest.mark.every_line
@pytest.mark.parametrize(
    "conf",
    [
        pytest.param({"spark.forebay.fallback": "true"}, id="fallback"),
        pytest.param({}, id="executor", marks=pytest.mark.long),
        pytest.param({"spark.driver.userClassPathFirst": "true"}, id="both", marks=pytest.mark.long),
        pytest.param({"spark.driver.userClassPathFirst": "true", "spark.forebay.fallback": "true"}, id="both-fallback", marks=pytest.mark.long),
    ],
)
def test_jar_on_both_class_paths_that_is_loaded_twice(run, line, server, request, conf):
    """On 3.5 an executor's shuffle manager is then of another class than the handles of its tasks (SPARK-45762)."""
    app = Application(run, line, f"twice-{line.version}-{request.node.callspec.id}", [server], SHARED | FIRST | conf)
    before = server.bytes_in()
    assert app.call("tagged", base=0) == [1000, 0, 999, 499_500]
    assert server.bytes_in() > before
    assert app.call("pairs", job="groupWithJavaSerializer", records=20_000)
    twice = [log for log in app.executor_logs() if "Forebay's classes were loaded twice" in log.read_text()]
    assert bool(twice) == (line.version < "4")
    app.stop()
