"""What Spark is told of a shuffle: its task metrics, and the SQL metrics and sizes that adaptive execution plans by.

Every number is compared with that of Spark's own shuffle for the same job. Compression is off for what must be equal to the
byte: then a stored row is as long on both.
"""

from collections import Counter

import pytest

from conftest import EXECUTOR_MIB, SHARED
from harness import benchmarks
from harness.application import Application

QUERIES = ["q5", "q9", "q18", "q21"]
PLANNING = {  # so small that adaptive execution has something to decide about our small tables
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "256k",
    "spark.sql.adaptive.autoBroadcastJoinThreshold": "32k",
    "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false",
    "spark.sql.adaptive.skewJoin.skewedPartitionFactor": "1.5",
    "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes": "200k",
}


def task_metrics(app, job, /, **args) -> tuple[Counter, object]:
    """The sums of the metrics of the call's tasks, and its answer."""
    app.call("settle")
    before = len(app.events.task_ends())
    answer = app.call(job, **args)
    app.call("settle")
    sums = Counter()
    for end in app.events.task_ends()[before:]:
        assert end["Task End Reason"]["Reason"] == "Success"
        read, write = end["Task Metrics"]["Shuffle Read Metrics"], end["Task Metrics"]["Shuffle Write Metrics"]
        sums += Counter(
            {
                "bytes written": write["Shuffle Bytes Written"],
                "records written": write["Shuffle Records Written"],
                "write nanos": write["Shuffle Write Time"],
                "bytes read": read["Remote Bytes Read"] + read["Local Bytes Read"],
                "local bytes read": read["Local Bytes Read"],
                "records read": read["Total Records Read"],
                "blocks read": read["Remote Blocks Fetched"] + read["Local Blocks Fetched"],
                "local blocks read": read["Local Blocks Fetched"],
                "wait millis": read["Fetch Wait Time"],
                "run millis": end["Task Metrics"]["Executor Run Time"],
            }
        )
    return sums, answer


# Of a task that reads several partitions, Spark fetches a map's blocks as one where it can, and counts one.
SINGLY = {"spark.sql.adaptive.coalescePartitions.enabled": "false"}
JOBS = {
    "rows": ("digest", {"view": "wide", "conf": SINGLY}),
    "aggregation": ("digest", {"view": "groups", "conf": SINGLY}),
    "java objects": ("pairs", {"job": "groupWithJavaSerializer", "records": 80_000}),
    "map-side combine": ("pairs", {"job": "reduceByKey", "records": 80_000}),
    "sorted": ("pairs", {"job": "sortByKey", "records": 80_000}),
    "Python": ("python_pairs", {"records": 20_000}),
}


@pytest.mark.parametrize("job", JOBS)
def test_tasks_report_what_they_report_with_sparks_own_shuffle(vanilla, forebay, job):
    name, args = JOBS[job]
    theirs, _ = task_metrics(vanilla, name, **args)
    ours, _ = task_metrics(forebay, name, **args)
    for exact in ("records written", "records read", "blocks read"):
        assert ours[exact] == theirs[exact] > 0, exact
    # All is remote. Sizes are the codec's affair: what is read more than once weighs differently in the two sums.
    assert ours["local bytes read"] == ours["local blocks read"] == 0
    assert ours["bytes read"] / ours["bytes written"] == pytest.approx(theirs["bytes read"] / theirs["bytes written"], rel=0.1)
    assert 0.5 < ours["bytes written"] / theirs["bytes written"] < 2
    assert 0 < ours["write nanos"] / 1e6 < ours["run millis"]
    assert 0 <= ours["wait millis"] < ours["run millis"]


@pytest.fixture(scope="module")
def uncompressed(run, line, servers):
    """The same application on both shuffles, without compression."""
    conf = {**SHARED, "spark.shuffle.compress": "false"}
    both = [
        Application(run, line, f"{name}-uncompressed-{line.version}", where, conf, EXECUTOR_MIB)
        for name, where in (("vanilla", None), ("forebay", servers))
    ]
    data = str(benchmarks.tpch("0.1"))
    for app in both:
        assert app.call("tables", data=data) > 600_000
    yield both
    for app in both:
        app.stop()


def test_uncompressed_rows_are_as_many_bytes_as_with_sparks_own_shuffle(uncompressed):
    vanilla, forebay = uncompressed
    theirs, _ = task_metrics(vanilla, "digest", view="wide")
    ours, _ = task_metrics(forebay, "digest", view="wide")
    assert ours["bytes written"] == theirs["bytes written"] > 40_000_000
    assert ours["bytes read"] == theirs["bytes read"] == ours["bytes written"]


@pytest.mark.parametrize("query", QUERIES)
def test_query_has_the_plan_and_the_sizes_of_sparks_own_shuffle(uncompressed, query):
    vanilla, forebay = uncompressed
    theirs, ours = (app.call("measured", query=query, conf=PLANNING) for app in (vanilla, forebay))
    assert ours["shape"] == theirs["shape"]
    for mine, its in zip(ours["shuffles"], theirs["shuffles"], strict=True):
        for exact in ("dataSize", "shuffleRecordsWritten", "shuffleBytesWritten", "recordsRead"):
            assert mine[exact] == its[exact], exact


@pytest.mark.parametrize("view", ["skew", "local_read", "rebalance", "reused"])
def test_adaptive_plan_is_that_of_sparks_own_shuffle(uncompressed, view):
    vanilla, forebay = uncompressed
    theirs, ours = (app.call("measured", view=view, conf=PLANNING) for app in (vanilla, forebay))
    assert ours["shape"] == theirs["shape"]
