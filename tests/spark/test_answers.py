"""Every way in which Spark uses a shuffle gives the answer that it gives on Spark's own."""

import pytest

from harness import benchmarks

SMALL_PARTITIONS = {  # so small that AQE cuts up what our small data gives it
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "100k",
    "spark.sql.adaptive.skewJoin.skewedPartitionFactor": "1.5",
    "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes": "200k",
}


@pytest.fixture(scope="module")
def tpch_tables(vanilla, forebay):
    data = str(benchmarks.tpch("0.1"))
    assert vanilla.call("tables", data=data) == forebay.call("tables", data=data) > 600_000


@pytest.mark.parametrize("query", ["q5", "q9", "q18", "q21"])
def test_tpch_query_answers_as_on_sparks_own_shuffle(same, tpch_tables, query):
    assert same("tpch", part="hash", query=query)["rows"] > 0


@pytest.mark.every_line
@pytest.mark.parametrize(
    "job",
    [
        "groupByKey",
        "reduceByKey",
        "sortByKey",
        "sortWithinPartitions",
        "repartition",
        "cogroup",
        "combineWithJavaSerializer",
        "combineWithKryo",
        "groupWithJavaSerializer",
        "groupWithKryo",
    ],
)
def test_rdd_of_jvm_objects(same, job):
    same("pairs", job=job, records=80_000)


@pytest.mark.every_line
def test_rdd_without_records(same):
    same("pairs", moves=False, job="noRecords", records=8_000)


@pytest.mark.every_line
def test_python_rdds(same):
    assert same("python_pairs", records=20_000)["sorted"]


def test_group_by_with_500_partitions(same):
    conf = {"spark.sql.shuffle.partitions": "500", "spark.sql.adaptive.coalescePartitions.enabled": "false"}
    same("digest", part="digest", view="groups", conf=conf)


def test_partitions_coalesced_by_aqe(same):
    plan = same("digest", part="digest", view="groups")["plan"]
    assert "AQEShuffleRead coalesced" in plan


def test_record_of_100_mib(same):
    same("digest", part="digest", view="giant")


def test_rows_of_very_different_sizes(same):
    same("digest", part="digest", view="wide")


@pytest.mark.every_line
def test_shuffle_without_rows(same):
    assert same("digest", part="digest", moves=False, view="empty")["digest"].startswith("0 rows")


def test_shuffle_without_rows_from_one_map(same):
    assert same("digest", part="digest", moves=False, view="no_maps")["digest"].startswith("0 rows")


@pytest.mark.every_line
def test_skewed_join_is_split_by_map_ranges(same):
    plan = same("digest", part="digest", view="skew", conf=SMALL_PARTITIONS)["plan"]
    assert "skew=true" in plan


def test_rebalance_splits_a_partition_by_map_ranges(same):
    plan = same("digest", part="digest", view="rebalance", conf=SMALL_PARTITIONS)["plan"]
    assert "AQEShuffleRead" in plan and "skewed" in plan


def test_local_reader_reads_all_partitions_of_single_maps(same):
    conf = {"spark.sql.adaptive.autoBroadcastJoinThreshold": "10m", "spark.sql.adaptive.localShuffleReader.enabled": "true"}
    plan = same("digest", part="digest", view="local_read", conf=conf)["plan"]
    assert "AQEShuffleRead local" in plan


def test_shuffle_that_is_reused_is_read_whole_and_by_map_ranges(same):
    plan = same("digest", part="digest", view="reused", conf=SMALL_PARTITIONS)["plan"]
    assert "skew=true" in plan and "Reused" in plan
