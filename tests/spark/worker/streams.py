"""A structured stream that goes on until it is stopped, and what it has left in the driver meanwhile."""

import gc

_streams = {}


def start_stream(spark, name, checkpoint, rows_per_batch=2000, partitions=4):
    """Micro-batches one after the other as fast as they go, each with a stateful aggregation."""
    spark.conf.set("spark.sql.shuffle.partitions", partitions)
    source = spark.readStream.format("rate-micro-batch").option("rowsPerBatch", rows_per_batch).option("numPartitions", 3).load()
    counts = source.selectExpr("value % 101 AS k", "value AS v").groupBy("k").agg({"v": "sum", "*": "count"})
    query = (
        counts.selectExpr("k", "`count(1)` AS n", "`sum(v)` AS s")
        .writeStream.outputMode("complete")
        .format("memory")
        .queryName(name)
        .option("checkpointLocation", checkpoint)
        .trigger(processingTime="0 seconds")
        .start()
    )
    _streams[name] = query


def batches(spark, name):
    """Batches that are finished. Raises what ended the stream, if something did."""
    query = _streams[name]
    if query.exception():
        raise query.exception()
    last = query.lastProgress
    return last["batchId"] + 1 if last else 0


def stop_stream(spark, name):
    """The state that the stream ended with: how many rows were counted, the sum of their values, and the number of keys."""
    _streams.pop(name).stop()
    row = spark.sql(f"SELECT sum(n), sum(s), count(*) FROM {name}").collect()[0]
    return list(row)


def collect_garbage(spark):
    """Spark forgets a shuffle when nothing in the driver refers to it any more, which a collection finds out. What Python has of the
    driver's objects, a query that was stopped for one, is referred to until Python has collected it."""
    gc.collect()
    spark.sparkContext._jvm.System.gc()
