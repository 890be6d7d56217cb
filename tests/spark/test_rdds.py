"""Records of every kind: what an RDD job may shuffle, whatever its keys, serialiser, partitioner, number and size."""

import pytest

from harness.application import Application
from harness.server import Server

MIB = 1 << 20


@pytest.mark.parametrize(
    "job",
    [
        "join",
        "fullOuterJoinOfNullKeys",
        "sortByKeyDescending",
        "aggregateByKey",
        "customPartitioner",
        "dealtOut",
        "nullKeysJava",
        "nullKeysKryo",
        "nullValues",
        "kryoThatKeepsReferences",
        "relocatableSerializer",
        "closedStreamSerializer",
        "onePartition",
        "oneMap",
        "emptyRecords",
        "manyPartitions",
    ],
)
def test_rdd_job_of_unusual_shape(same, job):
    same("shape", job=job)


@pytest.mark.parametrize("job", ["noMaps", "noPartitions", "sortOfNothing", "mapsWithoutPartitions", "mapsWithoutRecords"])
def test_shuffle_of_nothing(same, job):
    assert same("nothing", moves=False, job=job).endswith(" 0 records")


@pytest.mark.parametrize(
    "job", ["groupBy", "join", "cogroup", "aggregateByKey", "customPartitioner", "nullKeys", "repartition"]
)
def test_rdd_of_python_objects(same, job):
    assert same("python_shape", job=job)["records"] > 0


def test_rdd_of_python_objects_without_records(same):
    assert same("python_shape", moves=False, job="noRecords")["records"] == 0


@pytest.mark.parametrize("job", ["aggregate", "applyInPandas", "cogroup", "leftHalfWay"])
def test_pandas_functions(same, job):
    assert same("pandas_job", job=job)["rows"] > 0


def test_sql_with_20000_partitions(same):
    same("digest", part="digest", view="groups", conf={"spark.sql.shuffle.partitions": "20000"})


@pytest.mark.long
def test_a_million_partitions(run, line, servers, own_answer):
    """Of each of which a task's output may have a row or not; Spark puts what lies side by side together for a few tasks."""
    job = {"number": 1_000_000, "rows": 1_500_000, "maps": 2}
    app = Application(run, line, f"million-{line.version}", servers, {"spark.master": "local-cluster[1,2,2048]"}, 2048)
    assert app.call("partitions", **job) == own_answer("partitions", **(job | {"number": 10}))
    app.call("settle")
    assert 1_000_000 in [event.get("partitions") for event in app.events.events()]  # of our own event of a shuffle
    app.stop()


def test_rows_of_no_columns_are_counted(same):
    assert sum(same("rows_without_columns", rows=1000)) == 1000


def test_strings_of_no_bytes(forebay):
    assert forebay.call("lengths", rows=1000, length=0, reduces=5) == [1000, 0, 499_500, 0]


def test_partition_of_more_than_2_gib(forebay):
    rows = 2100
    assert forebay.call("lengths", rows=rows, length=MIB) == [rows, rows * MIB, rows * (rows - 1) // 2, rows]


@pytest.mark.long
def test_every_one_of_20000_partitions_read_by_its_own_task(same):
    same("every_partition", partitions=20_000)


@pytest.mark.long
def test_record_of_512_mib_and_a_stored_partition_of_more_than_2_gib(run, line):
    """Not compressed, so that what counts stored bytes goes over 2^31 too."""
    server = Server(run, f"{line.version}-giants", memory="1GiB").start()
    conf = {"spark.shuffle.compress": "false", "spark.master": "local-cluster[1,1,6144]"}
    app = Application(run, line, f"giants-{line.version}", [server], conf, 6144)
    try:
        assert app.call("lengths", rows=5, length=512 * MIB, maps=1) == [5, 5 * 512 * MIB, 10, 5]
        assert server.bytes_in() > 1 << 31
    finally:
        app.stop()
    assert server.stop() == 0
    assert server.errors() == []


@pytest.mark.every_line
def test_stage_whose_other_tasks_prefer_a_host_runs_in_local_mode(run, line, servers):
    """There nothing offers a task again that waits for a host of its own, and that of a map output would be none: it waited for ever."""
    conf = {"spark.master": "local[2]", "spark.driver.host": "localhost"}
    app = Application(run, line, f"preferring-{line.version}", servers, conf)
    # 991 of the 1000 have a key below 100, and so a partner.
    assert app.call("preferring", records=1000, timeout=120) == [2000] * 4 + [1991]
    app.stop()
