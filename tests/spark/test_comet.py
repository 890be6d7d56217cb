"""Spark with Apache DataFusion Comet on Forebay: Spark's answers, and the exchanges that Comet has on its own shuffle manager.

The Comet jar is in the cache (`setup.sh --comet`); without it these tests are skipped.
"""

import pytest

from conftest import SHARED
from harness import benchmarks, places
from harness.application import Application
from harness.run import wait_until
from harness.server import Server

pytestmark = pytest.mark.long

LINE = "4.1.4"
MANAGER = "io.forebay.spark.ForebayCometShuffleManager"
COMETS_OWN = "org.apache.spark.sql.comet.execution.shuffle.CometShuffleManager"
COMET = {
    "spark.plugins": "org.apache.spark.CometPlugin",
    "spark.comet.enabled": "true",
    "spark.comet.shuffle.enabled": "true",
    "spark.memory.offHeap.enabled": "true",
    "spark.memory.offHeap.size": "1g",
}
SPARKS_ROWS = {"spark.comet.enabled": "false"}
# Of Spark's rows, which Comet's columnar exchange takes in: a function that Comet does not know.
COLUMNAR = """
    SELECT k, count(*) AS n, sum(v) AS s FROM (
        SELECT reflect('java.lang.Math', 'abs', CAST(id % 1009 AS INT)) AS k, id AS v FROM range(0, 200000, 1, 8)
    ) GROUP BY k"""


def application(run, name, servers, conf=None):
    try:
        line, comet = places.SparkLine(LINE), places.comet_jar()
    except places.Missing as missing:
        pytest.skip(str(missing))
    path = f"{places.JAR}:{line.jobs_jar()}:{comet}"
    settings = SHARED | COMET | {"spark.driver.extraClassPath": path, "spark.executor.extraClassPath": path}
    settings["spark.shuffle.manager"] = MANAGER if servers else COMETS_OWN
    return Application(run, line, f"comet-{name}", servers, settings | (conf or {}), 1536)


@pytest.fixture(scope="module")
def pool(run):
    both = [Server(run, f"comet-{number}").start() for number in (1, 2)]
    yield both
    assert [server.stop() for server in both] == [0, 0]
    assert [error for server in both for error in server.errors()] == []


def with_tables(app):
    assert app.call("tables", data=str(benchmarks.tpch("0.1"))) > 600_000
    return app


@pytest.fixture(scope="module")
def own(run):
    """Comet on its own shuffle manager, and Spark's rows where a call says so."""
    app = with_tables(application(run, "own", None))
    yield app
    app.stop()


@pytest.fixture(scope="module")
def forebay(run, pool):
    app = with_tables(application(run, "forebay", pool))
    yield app
    app.stop()
    wait_until(lambda: not any(server.shuffle_files() for server in pool), 30, "an application that ended left its files")


def same(own, forebay, pool, query, kind):
    """The answer of Spark's rows and the exchanges of Comet's own manager; bytes must have crossed the servers."""
    before = sum(server.bytes_in() for server in pool)
    spark, comet, ours = own.call("exchanges", query=query, conf=SPARKS_ROWS), own.call("exchanges", query=query), forebay.call("exchanges", query=query)
    assert ours["hash"] == spark["hash"] and ours["rows"] == spark["rows"] > 0
    assert ours["exchanges"] == comet["exchanges"]
    assert ours["exchanges"].get(kind, 0) > 0, f"nothing of what this is about: {ours['exchanges']}"
    assert sum(server.bytes_in() for server in pool) > before


@pytest.mark.parametrize("query", ["q5", "q9", "q18", "q21"])
def test_tpch_query_has_sparks_answer_and_the_exchanges_of_comets_own_manager(own, forebay, pool, query):
    same(own, forebay, pool, query, "CometExchange")


def test_columnar_exchange_of_sparks_rows(own, forebay, pool):
    same(own, forebay, pool, COLUMNAR, "CometColumnarExchange")


def test_no_map_runs_again_after_the_loss_of_an_executor(forebay, own):
    forebay.call("run_maps", name="kept", kind="count", maps=8, reduces=4, records=100_000)
    forebay.kill_executor()
    assert forebay.call("exchanges", query="q5")["hash"] == own.call("exchanges", query="q5", conf=SPARKS_ROWS)["hash"]
    assert forebay.maps_rerun() == {}
