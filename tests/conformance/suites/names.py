"""Which of Spark's own test suites run on Forebay: those that move rows through a shuffle or watch what happens to one."""

CORE = [
    # Spark's own of these names, with our settings put in.
    "io.forebay.conformance.ForebayShuffleSuite",
    "io.forebay.conformance.ForebayContextCleanerSuite",
    "io.forebay.conformance.ForebayPairRDDFunctionsSuite",
    "io.forebay.conformance.ForebaySortingSuite",
    "io.forebay.conformance.ForebayRDDSuite",
    "io.forebay.conformance.ForebayPartitioningSuite",
    "org.apache.spark.DistributedSuite",
    "org.apache.spark.rdd.LocalCheckpointSuite",
    "org.apache.spark.FailureSuite",
    "org.apache.spark.JobCancellationSuite",
    "org.apache.spark.InternalAccumulatorSuite",
    "org.apache.spark.CheckpointSuite",
    "org.apache.spark.scheduler.AdaptiveSchedulingSuite",
    "org.apache.spark.scheduler.BarrierTaskContextSuite",
    "org.apache.spark.scheduler.SparkListenerSuite",
]

# What runs in their place on Spark's own shuffle.
OWN = {
    "io.forebay.conformance.ForebayShuffleSuite": "org.apache.spark.SortShuffleSuite",
    "io.forebay.conformance.ForebayContextCleanerSuite": "org.apache.spark.ContextCleanerSuite",
    "io.forebay.conformance.ForebayPairRDDFunctionsSuite": "org.apache.spark.rdd.PairRDDFunctionsSuite",
    "io.forebay.conformance.ForebaySortingSuite": "org.apache.spark.rdd.SortingSuite",
    "io.forebay.conformance.ForebayRDDSuite": "org.apache.spark.rdd.RDDSuite",
    "io.forebay.conformance.ForebayPartitioningSuite": "org.apache.spark.PartitioningSuite",
}

SQL = [
    "org.apache.spark.sql.JoinSuite",
    "org.apache.spark.sql.DataFrameJoinSuite",
    "org.apache.spark.sql.execution.joins.InnerJoinSuite",
    "org.apache.spark.sql.execution.joins.OuterJoinSuite",
    "org.apache.spark.sql.execution.joins.ExistenceJoinSuite",
    "org.apache.spark.sql.DataFrameAggregateSuite",
    "org.apache.spark.sql.DatasetAggregatorSuite",
    "org.apache.spark.sql.DataFrameSetOperationsSuite",
    "org.apache.spark.sql.DataFrameWindowFunctionsSuite",
    "org.apache.spark.sql.DataFrameSuite",
    "org.apache.spark.sql.DatasetSuite",
    "org.apache.spark.sql.SQLQuerySuite",
    "org.apache.spark.sql.SubquerySuite",
    "org.apache.spark.sql.execution.SortSuite",
    "org.apache.spark.sql.execution.ExchangeSuite",
    "org.apache.spark.sql.execution.CoalesceShufflePartitionsSuite",
    "org.apache.spark.sql.execution.adaptive.AdaptiveQueryExecSuite",
    "org.apache.spark.sql.execution.metric.SQLMetricsSuite",
    "org.apache.spark.sql.streaming.StreamingAggregationSuite",
    "org.apache.spark.sql.streaming.StreamingInnerJoinSuite",
    "org.apache.spark.sql.streaming.StreamingInnerJoinWithVCFSuite",
    # From 4.2 on: what a map's status says of its rows, end to end.
    "org.apache.spark.sql.MapStatusEndToEndSuite",
]

SINCE = {
    "org.apache.spark.sql.MapStatusEndToEndSuite": "4.2.0",
    "org.apache.spark.sql.streaming.StreamingInnerJoinWithVCFSuite": "4.2.0",
}
# The first line without it. This one is only a base of others from then on.
UNTIL = {"org.apache.spark.sql.streaming.StreamingInnerJoinSuite": "4.2.0"}


def of(version: str) -> list[str]:
    """The suites that a line has."""

    def number(text: str) -> list[int]:
        return [int(part) for part in text.split(".")]

    def is_there(suite: str) -> bool:
        return number(SINCE.get(suite, "0")) <= number(version) < number(UNTIL.get(suite, "99"))

    return [suite for suite in CORE + SQL if is_there(suite)]
