"""Servers and applications that the tests of one Spark line share: starting them costs more than most tests.

SPARK_LINES names the lines, by default the oldest and the newest that are supported. A line that is not installed is
skipped with the command that installs it; a server or a jar that is not built is an error.
"""

import os

import pytest

from harness import classes, places
from harness.application import Application
from harness.places import Missing, SparkLine
from harness.run import Run, raise_on_signals, wait_until
from harness.server import Server

LINES = os.environ.get("SPARK_LINES", "3.5.9,4.3.0").split(",")
SHARED = {
    "spark.sql.autoBroadcastJoinThreshold": "-1",  # every join shuffles
    "spark.sql.shuffle.partitions": "16",
}
# Most of these applications live for less time than it takes to optimise their code; those of the demo and the benchmarks do not.
Application.jvm = "-XX:TieredStopAtLevel=1"
EXECUTOR_MIB = 1536  # a record of 100 MiB is in memory several times over


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked as long
def pytest_collection_modifyitems(items):
    for item in items:
        callspec = getattr(item, "callspec", None)
        line = callspec.params.get("line", LINES[-1]) if callspec else LINES[-1]
        if line != LINES[-1] and not item.get_closest_marker("every_line"):
            item.add_marker("long")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """What a test that fails has made itself ends with it: it would take the CPU of those that come after it."""
    before = len(Application.made)
    try:
        return (yield)
    except BaseException:
        for app in Application.made[before:]:
            app.kill_driver()
        raise


@pytest.fixture(scope="session")
def run():
    for built in (places.SERVER, places.JAR):
        if not built.exists():
            pytest.fail(f"{built} is not built: run make build", pytrace=False)
    raise_on_signals()
    with Run("test") as run:
        yield run


def installed(run, version: str) -> SparkLine:
    try:
        line = SparkLine(version)
    except Missing as missing:
        pytest.skip(str(missing))
    Application.archives[version] = classes.archive(run, line)
    return line


@pytest.fixture(scope="session", params=LINES)
def line(request, run) -> SparkLine:
    return installed(run, request.param)


@pytest.fixture(scope="session")
def newest(run) -> SparkLine:
    """For what Spark's line has no part in."""
    return installed(run, LINES[-1])


@pytest.fixture(scope="session")
def servers(run, line):
    """Two servers for all tests of a line; a test that kills one starts it again."""
    both = [Server(run, f"{line.version}-{number}").start() for number in (1, 2)]
    yield both
    assert [server.stop() for server in both] == [0, 0]


@pytest.fixture(autouse=True)
def quiet_servers(request):
    """Whatever a test does to a server, the server's log holds no error."""
    yield
    if "servers" in request.fixturenames:
        errors = [error for server in request.getfixturevalue("servers") for error in server.errors()]
        assert errors == []


@pytest.fixture(scope="session")
def vanilla(run, line):
    app = Application(run, line, f"vanilla-{line.version}", None, SHARED, EXECUTOR_MIB)
    yield app
    app.stop()


@pytest.fixture(scope="session")
def forebay(run, line, servers):
    app = Application(run, line, f"forebay-{line.version}", servers, SHARED, EXECUTOR_MIB)
    yield app
    assert sum(server.shuffle_bytes() for server in servers) > 0, "the tests left nothing that could be deleted"
    app.stop()
    try:
        wait_until(lambda: not any(server.shuffle_files() for server in servers), 30, "an application that ended left its files")
    except TimeoutError as error:
        left = [path for server in servers for path in server.shuffle_files()]
        raise TimeoutError(f"{error}: {left}; {app.id}\n" + "\n".join(server.tail() for server in servers)) from None


@pytest.fixture(scope="session")
def own_answer(vanilla):
    """The answer of Spark's own shuffle to a call; asked once per line."""
    return asked_once(vanilla)


def asked_once(app: Application):
    """Calls an application, and knows its answers from then on."""
    known = {}

    def answer(name, /, **args):
        key = name, repr(args)
        if key not in known:
            known[key] = app.call(name, **args)
        return known[key]

    return answer


@pytest.fixture
def same(own_answer, forebay, servers):
    """Makes a call on both and compares; returns Forebay's answer. `moves` says that rows must have crossed the servers."""

    def compare(name, /, moves=True, part=None, **args):
        theirs = own_answer(name, **args)
        before = sum(server.bytes_in() for server in servers)
        ours = forebay.call(name, **args)
        if part:
            assert ours[part] == theirs[part]
        else:
            assert ours == theirs
        moved = sum(server.bytes_in() for server in servers) - before
        assert (moved > 0) == moves, f"{moved} bytes reached the servers"
        return ours

    return compare
