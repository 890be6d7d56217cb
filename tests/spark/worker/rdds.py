"""RDD jobs, of the JVM's and of Python's own, and rows of unusual size and number."""

import hashlib

from worker import jobs


def _shapes(spark):
    return spark.sparkContext._jvm.io.forebay.jobs.Shapes


def shape(spark, job):
    """A job of `Shapes.java`, by name."""
    return _shapes(spark).run(spark.sparkContext._jsc, job)


def nothing(spark, job):
    return _shapes(spark).nothing(spark.sparkContext._jsc, job)


def every_partition(spark, partitions):
    return _shapes(spark).everyPartition(spark.sparkContext._jsc, partitions)


def python_shape(spark, job):
    """Python's records cross a shuffle as byte arrays of pickled batches, which Spark's JVM side cannot look into."""
    numbers = spark.sparkContext.parallelize(range(20_000), 6)
    pairs = numbers.map(lambda n: (f"k{n * 31 % 997}", n))
    match job:
        case "groupBy":
            result = pairs.groupByKey(5).mapValues(sorted)
        case "join":
            result = pairs.join(pairs.filter(lambda pair: pair[1] % 17 == 0).mapValues(lambda n: -n), 7)
        case "cogroup":
            other = numbers.map(lambda n: (f"k{n}", n)).filter(lambda pair: pair[1] < 1500)
            result = pairs.cogroup(other, 4).mapValues(lambda both: (sorted(both[0]), sorted(both[1])))
        case "aggregateByKey":
            result = pairs.aggregateByKey((0, 0), lambda sum_, n: (sum_[0] + n, sum_[1] + 1), lambda a, b: (a[0] + b[0], a[1] + b[1]), 3)
        case "customPartitioner":
            result = pairs.partitionBy(6, lambda key: int(key[1:]) % 4).mapPartitionsWithIndex(lambda i, records: ((i, r) for r in records))
        case "nullKeys":
            result = pairs.map(lambda pair: (None if pair[1] % 4 else pair[0], pair[1])).groupByKey(5).mapValues(sorted)
        case "repartition":
            result = numbers.repartition(9)
        case "noRecords":
            result = pairs.filter(lambda pair: False).groupByKey(5)
        case _:
            raise ValueError(f"no job {job}")
    lines = sorted(repr(record) for record in result.collect())
    return {"records": len(lines), "hash": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]}


def pandas_job(spark, job):
    """Rows that go from a shuffle through Arrow to a Python worker: they are read by a thread that is not the task's."""
    import pandas
    from pyspark.sql.functions import pandas_udf

    rows = spark.range(0, 60_000, 1, 5).selectExpr("id * 31 % 997 AS k", "id AS v", "repeat(string(id), 20) AS w")
    match job:
        case "aggregate":

            def mean(v: pandas.Series) -> float:  # the types say that it is given a group at a time
                return v.mean()

            result = rows.groupBy("k").agg(pandas_udf(mean, "double")(rows.v).alias("m"))
        case "applyInPandas":
            first = lambda group: group.sort_values("v").head(3)
            result = rows.groupBy("k").applyInPandas(first, rows.schema)
        case "cogroup":
            other = spark.range(0, 500, 1, 3).selectExpr("id AS k", "id * id AS z")
            merge = lambda left, right: pandas.merge(left, right, on="k").nlargest(4, "v")[["k", "v", "z"]]
            result = rows.groupBy("k").cogroup(other.groupBy("k")).applyInPandas(merge, "k long, v long, z long")
        case "leftHalfWay":  # the worker stops reading long before its input ends
            result = rows.repartition(4, "k").mapInPandas(lambda batches: iter([next(iter(batches)).head(1)]), rows.schema).selectExpr("1 AS one")
        case _:
            raise ValueError(f"no job {job}")
    lines = sorted(str(row) for row in result.collect())
    return {"rows": len(lines), "hash": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]}


_kept = {}


def keep(spark, how, folder=None):
    """Records that have come out of a shuffle, kept in that way; the records."""
    context = spark.sparkContext
    rdd = context.parallelize(range(60_000), 8).map(lambda n: (n % 997, n)).groupByKey(6).mapValues(sorted)
    if how == "checkpoint":
        context.setCheckpointDir(folder)
        rdd.checkpoint()
    elif how == "localCheckpoint":
        rdd.localCheckpoint()
    else:
        rdd.persist()
    _kept["rdd"] = rdd
    return kept(spark)


def kept(spark):
    lines = sorted(repr(record) for record in _kept["rdd"].collect())
    return {"records": len(lines), "hash": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]}


def unkeep(spark):
    _kept["rdd"].unpersist()


def lengths(spark, rows, length, maps=4, reduces=1):
    """Rows of that many bytes to so many partitions: how many came out, and how many bytes by what each says of itself."""
    body = f"repeat('forebay!', cast({length} / 8 + least(id, 0) AS int))"  # on the row, or the optimiser, which knows id * 0, would make one for all
    frame = spark.range(0, rows, 1, maps).selectExpr("id", f"{body} AS body").repartition(reduces, "id")
    counts = ["count(*)", "sum(length(body))", "sum(id)", "count_if(substr(body, -8) = 'forebay!')"]
    return list(frame.selectExpr(*counts).collect()[0])


def rows_without_columns(spark, rows):
    """A row of no columns is a record of no bytes."""
    frame = spark.range(0, rows, 1, 4).select().repartition(5)
    return list(jobs._rows(spark).countPerPartition(jobs._rows(spark).runMaps(frame._jdf)))


def piped(spark, rounds):
    """A process that does not read its input to the end: the thread that feeds it goes on reading the shuffle when the task has ended."""
    texts = spark.range(0, 100, 1, 8).selectExpr("repeat(string(id), 500000) AS s")._jdf.toJSON().javaRDD().repartition(8)
    return [texts.pipe("head -c 10").count() for _ in range(rounds)]


def first_of_many(spark, rounds):
    """Python workers that look at the first rows of inputs which are opened one after the other, on the thread that feeds them."""

    def first(batches):
        yield next(iter(batches)).head(1)

    wide = spark.range(0, 200_000, 1, 16).repartition(64).coalesce(4)
    return [wide.mapInPandas(first, "id long").count() for _ in range(rounds)]


def cartesian(spark, left, right):
    """Two tasks that read their small input once for each record of the large one."""
    java = spark.sparkContext._jsc
    large = java.parallelize(list(range(left)), 1)
    small = java.parallelize(list(range(right)), 1).repartition(2)
    return large.cartesian(small).count()


def coalesced(spark, partitions, rows):
    """One task that reads a shuffle's partitions one after the other."""
    spark.conf.set("spark.sql.adaptive.enabled", "false")
    try:
        frame = spark.range(0, rows, 1, 20).selectExpr("id", "repeat(sha1(string(id)), 3) AS body")
        one = frame.repartition(partitions).coalesce(1)
        return list(one.selectExpr("count(*)", "sum(id)", "sum(length(body))").collect()[0])
    finally:
        spark.conf.unset("spark.sql.adaptive.enabled")
