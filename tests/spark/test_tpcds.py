"""A few queries of TPC-DS, each for what it does to a shuffle. All 99 and TPC-H, on every line: `make conformance`."""

import pytest

from harness import answers, benchmarks

QUERIES = {
    "q14": "an intersection of three channels, used twice, and a rollup",
    "q39": "deviations: doubles that depend on the order of rows in their last bits",
    "q51": "windows over a full outer join",
    "q67": "a rollup of eight columns, ranked",
    "q97": "a full outer join of two aggregations",
}


@pytest.fixture(scope="module")
def tables(vanilla, forebay):
    data = str(benchmarks.tpcds("0.1"))
    counts = vanilla.call("views", data=data)
    assert len(counts) == 24
    assert forebay.call("views", data=data) == counts


@pytest.fixture(scope="module")
def texts():
    return benchmarks.queries("tpcds")


@pytest.mark.parametrize("query", QUERIES)
def test_tpcds_query_answers_as_on_sparks_own_shuffle(query, tables, texts, vanilla, forebay, servers, tmp_path):
    before = sum(server.bytes_in() for server in servers)
    for app in (vanilla, forebay):
        app.call("answer", text=texts[query], path=str(tmp_path / app.name), conf=benchmarks.DIALECT)
    theirs, ours = (answers.read(tmp_path / app.name) for app in (vanilla, forebay))
    assert answers.compare(theirs, ours).difference is None
    assert theirs, "an answer without rows says little"
    assert sum(server.bytes_in() for server in servers) > before, "nothing went over the servers"
