"""Spark's settings that concern a shuffle, and Forebay's own: each does what it says, or is refused with what to write instead."""

import re
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager

import pytest

from conftest import EXECUTOR_MIB, SHARED
from harness.application import Application, CallFailed
from harness.places import JAR
from harness.run import wait_until
from harness.server import Server

MARK = b"in-the-clear-"  # in every row of the job "marked"
NOBODY = "127.0.0.1:1"  # where no server listens
SMALL = {"maps": 6, "reduces": 7, "records": 60_000}
MANAGER = "io.forebay.spark.ForebayShuffleManager"


@pytest.fixture(scope="module")
def pool(run, line):
    """A server that only these tests use: they look at its files."""
    server = Server(run, f"{line.version}-confs").start()
    yield server
    assert server.stop() == 0
    assert server.errors() == []


@pytest.fixture
def application(run, line):
    @contextmanager
    def start(name, servers, conf):
        app = Application(run, line, f"{name}-{line.version}", servers, SHARED | conf, EXECUTOR_MIB)
        try:
            yield app
        finally:
            app.stop()

    return start


@pytest.fixture
def marked(vanilla):
    """Spark's own answer."""
    vanilla.call("run_maps", name="marked", kind="marked", **SMALL)
    return vanilla.call("run_reduces", name="marked")


def stored_in_the_clear(server: Server) -> bool:
    assert server.shuffle_bytes() > 1_000_000
    return any(MARK in file.read_bytes() for file in server.shuffle_files())


@pytest.mark.long
def test_rows_are_stored_as_they_are_without_compression(application, pool, marked, own_answer):
    conf = {
        "spark.shuffle.compress": "false",
        "spark.memory.offHeap.enabled": "true",
        "spark.memory.offHeap.size": "256m",
        "spark.reducer.maxSizeInFlight": "1m",
    }
    with application("clear", [pool], conf) as app:
        app.call("run_maps", name="marked", kind="marked", **SMALL)
        assert stored_in_the_clear(pool)
        assert app.call("run_reduces", name="marked") == marked
        job = {"job": "reduceByKey", "records": 80_000}
        assert app.call("pairs", **job) == own_answer("pairs", **job)


def test_encrypted_rows_are_nowhere_in_the_clear_and_the_answers_are_the_same(application, pool, marked, own_answer):
    conf = {
        "spark.shuffle.compress": "false",
        "spark.io.encryption.enabled": "true",
        "spark.io.encryption.keySizeBits": "192",
        "spark.forebay.fallback": "true",  # and not needed
    }
    wait_until(lambda: not pool.shuffle_files(), 30, "the files of the application before are still there")
    with application("encrypted", [pool], conf) as app:
        app.call("run_maps", name="marked", kind="marked", **SMALL)
        assert not stored_in_the_clear(pool)
        assert app.call("run_reduces", name="marked") == marked
        for job in ("sortByKey", "groupWithJavaSerializer"):
            assert app.call("pairs", job=job, records=80_000) == own_answer("pairs", job=job, records=80_000)
        assert app.call("digest", view="wide")["digest"] == own_answer("digest", view="wide")["digest"]
        assert app.call("setting", key="spark.forebay.status") is None


@pytest.mark.long
def test_zstd_at_its_level_and_on_4_x_the_plugin_alone(application, line, pool, forebay, servers, own_answer):
    conf = {"spark.io.compression.codec": "zstd", "spark.io.compression.zstd.level": "9"}
    if line.version >= "4":
        conf |= {
            "spark.shuffle.manager": None,
            "spark.plugins": "io.forebay.spark.ForebayPlugin",
            "spark.jars": str(JAR),
            "spark.executor.extraClassPath": str(line.jobs_jar()),
        }
    with application("zstd", [pool], conf) as app:
        before = pool.bytes_in()
        assert app.call("digest", view="wide")["digest"] == own_answer("digest", view="wide")["digest"]
        by_zstd = pool.bytes_in() - before
        assert app.call("setting", key="spark.shuffle.manager") == MANAGER
    before = sum(server.bytes_in() for server in servers)
    forebay.call("digest", view="wide")
    by_lz4 = sum(server.bytes_in() for server in servers) - before
    assert 0 < by_zstd < by_lz4


@pytest.mark.every_line
def test_plugin_that_comes_too_late_refuses_and_says_what_to_set(run, line, pool):
    if line.version >= "4":
        pytest.skip("it is in time there: the test above")
    conf = {"spark.plugins": "io.forebay.spark.ForebayPlugin", "spark.shuffle.manager": None}
    with pytest.raises(CallFailed, match=f"cannot switch Forebay on in Spark 3.*set spark.shuffle.manager={MANAGER}"):
        Application(run, line, f"late-{line.version}", [pool], conf)


@pytest.mark.every_line
def test_application_without_servers_fails_soon_and_names_them(application, line):
    conf = {"spark.forebay.servers": NOBODY, "spark.forebay.retryDeadline": "2s"}
    if line.version < "4":
        # Executors would not find the manager. The driver cannot know, and says what it sees.
        conf |= {"spark.jars": str(JAR), "spark.executor.extraClassPath": str(line.jobs_jar())}
    with application("alone", [], conf) as app:
        start = time.monotonic()
        with pytest.raises(CallFailed, match=f"no server took app.*{NOBODY}"):
            app.call("digest", view="groups")
        assert time.monotonic() - start < 60
        warned = "ClassNotFoundException: io.forebay.spark.ForebayShuffleManager" in app.log.read_text()
        assert warned == (line.version < "4")


REFUSED = [  # key, value, what to do about it
    ("durabilty", "disk", "did you mean spark.forebay.durability?"),
    ("Servers", NOBODY, "did you mean spark.forebay.servers?"),
    ("../forbay.lease", "1h", "did you mean spark.forebay.lease?"),
    ("servers", "pool:70000", "no port from 1 to 65535: write host:port"),
    ("servers", "http://pool:7400", "write host:port"),
    ("durability", "thrice", "choose memory, disk, fsync, mirror or object"),
    ("durability", "mirror", "name another in spark.forebay.servers"),
    ("lease", "soon", "write a time such as 10min"),
    ("lease", "10ms", "choose at least 1000ms"),
    ("token.file", "/nowhere/token", "it cannot be read on the driver"),
    ("executorMemory", "12345678901234567890g", "write a size such as 256m"),
    ("executorMemory", "1k", "choose at least 1048576 bytes"),
    ("writeArena", "2g", "choose 1m to 1g"),
    ("replayBuffer", "8000p", "choose at most 1024g"),
    ("fetchStreams", "0", "write a whole number, at least 1"),
    ("retryDeadline", "-1s", "choose at least 1ms"),
    ("connectTimeout", "0", "choose at least 1ms"),
    ("callTimeout", "1000d", "choose at most 365d"),
    ("writeback.policy", "sometimes", "choose lazy, eager or off"),
    ("remote", "ftp://bucket/prefix", "s3://BUCKET/PREFIX"),
    ("fallback", "yes", "write true or false"),
]


@pytest.mark.every_line
def test_setting_that_cannot_be_is_refused_with_its_key_its_value_and_the_remedy(application, pool):
    settings = [(f"spark.forebay.{name}".replace("forebay.../", ""), value) for name, value, _ in REFUSED]
    with application("refused", [pool], {"spark.master": "local[1]", "spark.eventLog.enabled": "false"}) as app:
        said = app.call("refusals", settings=settings)
    wrong = [(key, value, text) for (key, value), (_, _, remedy), text in zip(settings, REFUSED, said, strict=True) if not names(text, key, value, remedy)]
    assert wrong == []


def names(text: str, key: str, value: str, remedy: str) -> bool:
    return any(all(part in line for part in (key, value, remedy)) for line in text.splitlines())


@pytest.mark.long
def test_fallback_puts_the_whole_application_on_sparks_own_shuffle_and_says_why(application, own_answer, marked):
    conf = {"spark.forebay.servers": NOBODY, "spark.forebay.retryDeadline": "2s", "spark.forebay.fallback": "true"}
    conf |= {"spark.ui.enabled": "true", "spark.ui.port": "0"}
    with application("fallback", [], conf) as app:
        reason = rf"fallback to Spark's own shuffle: no server took app {re.escape(app.id)}-[0-9a-f]+ .*{NOBODY}"
        assert re.match(reason, app.call("setting", key="spark.forebay.status"))
        assert re.match(reason, app.call("forebay_status"))
        assert re.search(f"WARN.*Forebay is not used.*{NOBODY}", app.log.read_text())
        job = {"job": "groupWithKryo", "records": 80_000}
        assert app.call("pairs", **job) == own_answer("pairs", **job)
        app.call("settle")
        with urllib.request.urlopen(f"{app.call('ui')}/forebay/", timeout=30) as page:
            assert re.search(f"Forebay is not used.*no server took app {re.escape(app.id)}-[0-9a-f]+ .*{NOBODY}", page.read().decode(), re.S)
        # Spark knows that map outputs go with their executor: it runs them again by itself.
        app.call("run_maps", name="marked", kind="marked", **SMALL)
        app.kill_executor()
        assert app.call("run_reduces", name="marked") == marked
        assert app.maps_rerun()


@pytest.mark.long
def test_map_task_that_cannot_push_counts_as_one_of_sparks_failures(run, line, application):
    server = Server(run, f"{line.version}-gone").start()
    conf = {"spark.task.maxFailures": "2", "spark.forebay.retryDeadline": "1s"}
    with application("failing", [server], conf) as app:
        app.call("digest", view="groups")
        server.kill()
        with pytest.raises(CallFailed, match="failed 2 times") as failed:
            app.call("digest", view="wide")
        assert "start the servers, or raise spark.forebay.retryDeadline" in str(failed.value)
        app.call("settle")
        failed_tasks = [task for task in app.events.task_ends() if task["Task End Reason"]["Reason"] == "ExceptionFailure"]
        failures = Counter(task["Task Info"]["Index"] for task in failed_tasks)
        assert max(failures.values()) == 2
