"""The jobs: each function runs inside a Spark application, gets its session, and answers with plain values."""

import hashlib
import json
import re
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from pyspark import StorageLevel

from worker.queries import TPCH

_held = {}  # between the two halves of a job


def _rows(spark):
    return spark.sparkContext._jvm.io.forebay.jobs.Rows


def _java_context(spark):
    return spark.sparkContext._jsc


def views(spark, data):
    """Makes the tables of a folder known, each a `<name>.parquet`; answers with their numbers of rows."""
    counts = {}
    for path in sorted(Path(data).glob("*.parquet")):
        frame = spark.read.parquet(str(path))
        frame.createOrReplaceTempView(path.stem)
        counts[path.stem] = frame.count()
    return counts


def tables(spark, data):
    """Makes the TPC-H tables known and reads the largest once, so that no job pays for the first look at the files."""
    views(spark, data)
    return spark.sql("SELECT count(*), sum(l_quantity) FROM lineitem").collect()[0][0]


def answer(spark, text, path, conf=None):
    """Writes a query's rows to a file for `harness.answers`: a JSON list each, in which a number with a point is a float or double
    of Spark's and whatever JSON has no word for is text."""
    start = time.monotonic()
    with _settings(spark, conf):
        rows = spark.sql(text).collect()
    seconds = time.monotonic() - start
    with open(path, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(list(row), default=str) + "\n" for row in rows)
    return {"rows": len(rows), "seconds": round(seconds, 2)}


def tpch(spark, query):
    """A query's answer as a hash that does not depend on the order of rows that the query leaves open."""
    start = time.monotonic()
    rows = spark.sql(TPCH[query]).collect()
    seconds = time.monotonic() - start
    lines = sorted("|".join(str(value) for value in row) for row in rows)
    return {"rows": len(rows), "hash": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16], "seconds": seconds}


def exchanges(spark, query, conf=None):
    """A query's answer as `tpch` gives it, or that of a statement, and how many exchanges of each kind its final plan has."""
    with _settings(spark, conf):
        frame = spark.sql(TPCH.get(query, query))
        lines = sorted("|".join(str(value) for value in row) for row in frame.collect())
        plan = frame._jdf.queryExecution().executedPlan().toString().split("== Initial Plan ==")[0]
    kinds = Counter(re.findall(r"\b(CometExchange|CometColumnarExchange|Exchange|ReusedExchange)\b", plan))
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return {"rows": len(lines), "hash": digest, "exchanges": dict(sorted(kinds.items()))}


def measured(spark, query=None, view=None, conf=None):
    """Runs a TPC-H query or a named one and tells of its final plan and of the SQL metrics of each of its shuffles."""
    with _settings(spark, conf):
        frame = spark.sql(TPCH[query]) if query else QUERIES[view](spark)
        # Not `collect`: this is run by the plan that is looked at.
        _rows(spark).digest(_rows(spark).runMaps(frame._jdf))
        plans = spark.sparkContext._jvm.io.forebay.jobs.Plans
        shuffles = [dict(shuffle) for shuffle in plans.shuffles(frame._jdf)]
        return {"shape": list(plans.shape(frame._jdf)), "shuffles": shuffles}


def _two_stages(spark, maps, reduces, records, kind):
    numbers = spark.range(0, records, 1, maps)
    if kind == "aggregation":
        rows = numbers.selectExpr("id * 7919 % 100003 AS k", "id AS v", "xxhash64(id) AS w")
        return rows.groupBy("k").agg({"v": "sum", "w": "max", "*": "count"})
    if kind == "count":
        return numbers.selectExpr("id * 7919 % 100003 AS k", "xxhash64(id) AS w").repartition(reduces, "k")
    if kind == "marked":
        return numbers.selectExpr("id % 1009 AS k", "concat('in-the-clear-', string(id)) AS text").repartition(reduces, "k")
    if kind == "skew":  # with the application's settings, its last stage reads one partition in ranges of maps
        left = numbers.selectExpr("CASE WHEN id % 10 = 0 THEN id % 1000 ELSE 1 END AS k", "id AS v", "repeat(sha1(string(id)), 3) AS pad")
        return left.join(spark.range(0, 1000, 1, 4).selectExpr("id AS k", "sha1(string(id)) AS w"), "k")
    raise ValueError(f"no kind {kind}")


def run_maps(spark, name, kind, maps=40, reduces=16, records=2_000_000):
    """Runs the map stage only and keeps the rest for `run_reduces`. Returns the shuffles that it wrote."""
    before = {line.split()[0] for line in _rows(spark).mapLocations()}
    with _settings(spark, {"spark.sql.shuffle.partitions": reduces}):
        frame = _two_stages(spark, maps, reduces, records, kind)
        _held[name] = (kind, frame, _rows(spark).runMaps(frame._jdf))
    written = {line.split()[0] for line in _rows(spark).mapLocations()} - before
    if not written:
        raise RuntimeError("no map stage ran: only an adaptive query runs its map stages apart from the last one")
    return sorted(int(shuffle) for shuffle in written)


def run_reduces(spark, name):
    """The other half; may be asked for again, and then reads the same map outputs."""
    _cancellable(spark)
    kind, _, rdd = _held[name]
    if kind == "count":
        return {"counts": list(_rows(spark).countPerPartition(rdd))}
    return {"digest": _rows(spark).digest(rdd)}


def reduce_tasks(spark, name):
    """How many tasks the other half has."""
    return _held[name][2].getNumPartitions()


def map_locations(spark, shuffles):
    """Where each map output of the shuffles is registered: {"shuffle/map": location id}."""
    lines = (line.split() for line in _rows(spark).mapLocations())
    return {f"{shuffle}/{map_}": where for shuffle, map_, where in lines if int(shuffle) in shuffles}


def rows(spark, rows, maps, reduces):
    """What the benchmark measures: rows of nine longs that do not compress (80 bytes each) to other partitions and looked at."""
    columns = [f"xxhash64(id, {column}) AS c{column}" for column in range(9)]
    frame = spark.range(0, rows, 1, maps).selectExpr(*columns).repartition(reduces, "c0")
    return _rows(spark).digest(_rows(spark).runMaps(frame._jdf))


def tagged(spark, base):
    """Rows that say whose they are, by way of a shuffle of four maps; their number, least, greatest and sum."""
    frame = spark.range(0, 1000, 1, 4).selectExpr("id", f"{base} + id AS v").repartition(4, "id")
    return list(frame.selectExpr("count(*)", "min(v)", "max(v)", "sum(v)").collect()[0])


def reshuffled(spark, rows, maps, reduces=8, join=False):
    """Rows as those of `rows` through two shuffles, the second written while the first is read; and what they are without any. Of many
    partitions Spark puts small ones together, so that few tasks read them."""
    columns = [f"c{column}" for column in range(9)]
    own = spark.range(0, rows, 1, maps).selectExpr("id", *(f"xxhash64(id, {column}) AS c{column}" for column in range(9)))
    if join:
        first = own.join(spark.range(0, rows, 1, maps).selectExpr("id", "xxhash64(id, 8) AS d"), "id").selectExpr("id", *columns[:-1], "d AS c8")
    else:
        first = own.repartition("c0")
    # Something in between, or Spark would leave one of them out.
    first = first.selectExpr("id + 1 AS id", *columns).repartition("c1").selectExpr("id - 1 AS id", *columns)
    sums = ["count(*)", f"bit_xor(xxhash64(id, {', '.join(columns)}))"]
    with _settings(spark, {"spark.sql.shuffle.partitions": reduces}):
        return {"own": list(own.selectExpr(*sums).collect()[0]), "shuffled": list(first.selectExpr(*sums).collect()[0])}


def heavy(spark, kind):
    """What takes memory beside a shuffle: the sum over rows as they are, and over those that it gave."""
    columns = [f"c{column}" for column in range(9)]
    own = spark.range(0, 4_000_000, 1, 8).selectExpr("id", *(f"xxhash64(id, {column}) AS c{column}" for column in range(9)))
    match kind:
        case "sorted":
            made = own.orderBy("c0").selectExpr("id + 0 AS id", *columns).repartition(4, "c1").sortWithinPartitions("c2")
        case "cached":
            own = own.where("id % 2 = 0")
            kept = own.repartition(8, "c0").persist(StorageLevel.OFF_HEAP)
            kept.count()
            made = kept.repartition(8, "c1")
        case "python":
            made = own.repartition(8, "c0").mapInArrow(lambda batches: batches, own.schema).repartition(8, "c1")
        case "wide" | "giant":
            columns, length = ["body"], 50_000_000 if kind == "wide" else 100 << 20
            own = spark.range(0, 16, 1, 8).selectExpr("id", f"repeat(string(id), cast({length} / length(string(id)) AS int)) AS body")
            made = own.repartition(8, "id")
    sums = ["count(*)", f"bit_xor(xxhash64(id, {', '.join(columns)}))"]
    return {"own": list(own.selectExpr(*sums).collect()[0]), "shuffled": list(made.selectExpr(*sums).collect()[0])}


def partitions(spark, number, rows, maps):
    """Rows to so many partitions, and what comes out: Spark puts small partitions together, so that few tasks read them."""
    conf = {"spark.sql.shuffle.partitions": number, "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false"}
    with _settings(spark, conf):
        frame = spark.range(0, rows, 1, maps).selectExpr("id", "xxhash64(id) AS h").repartition("id")
        return list(frame.selectExpr("count(*)", "sum(id)", "bit_xor(h)", "bit_xor(xxhash64(id))").collect()[0])


def forget(spark, shuffle):
    _rows(spark).forget(spark.sparkContext._jsc.sc(), shuffle)


def pairs(spark, job, records):
    return spark.sparkContext._jvm.io.forebay.jobs.Pairs.run(_java_context(spark), job, records)


def straggle(spark, records, sleep_millis):
    return spark.sparkContext._jvm.io.forebay.jobs.Pairs.straggle(_java_context(spark), records, sleep_millis)


def preferring(spark, records):
    """Stages of tasks that have a host to prefer, since it has their rows in memory, and of tasks that read a shuffle: whole partitions,
    slices of them by maps (a rebalance), and map by map (a join that has become a broadcast join after its shuffles ran)."""
    numbers = spark.range(0, records, 1, 4).selectExpr("id % 101 AS k", "id AS v")
    cached = numbers.cache()
    cached.count()
    found = [cached.union(numbers.repartition(5, "v"))._jdf.rdd().count() for _ in range(3)]
    with _settings(spark, {"spark.sql.adaptive.advisoryPartitionSizeInBytes": "1k", "spark.sql.adaptive.coalescePartitions.minPartitionSize": "1b"}):
        numbers.createOrReplaceTempView("numbers")
        one = spark.sql("SELECT /*+ REBALANCE(k) */ * FROM (SELECT 0 AS k, v FROM numbers)")
        found.append(_counted(spark, cached.union(one), "skewed"))
    small = spark.range(0, 100, 1, 2).selectExpr("id AS k", "id AS w").where("w < 0 OR k >= 0")
    with _settings(spark, {"spark.sql.adaptive.autoBroadcastJoinThreshold": "10m", "spark.sql.autoBroadcastJoinThreshold": "-1"}):
        joined = numbers.where("k < 100").join(small, "k").select("k", "v")
        found.append(_counted(spark, cached.union(joined), "local"))
    return found


def _counted(spark, frame, reads):
    """The number of rows of a query whose plan reads a shuffle in that way."""
    count = frame._jdf.rdd().count()
    _rows(spark).runMaps(frame._jdf)
    plan = frame._jdf.queryExecution().executedPlan().toString()
    assert f"AQEShuffleRead {reads}" in plan, plan
    return count


def python_pairs(spark, records):
    """PySpark's own RDDs: pickled batches that cross the shuffle as byte arrays."""
    numbers = spark.sparkContext.parallelize(range(records), 6)
    sums = numbers.map(lambda n: (n % 101, n)).reduceByKey(lambda a, b: a + b, 5).collect()
    ordered = numbers.map(lambda n: (-n * 31 % 1009, n)).sortByKey(numPartitions=4).keys().collect()
    return {"sums": sorted(sums), "sorted": ordered == sorted(ordered), "count": len(ordered)}


def digest(spark, view, conf=None):
    """The digest of a named query with settings for this one job; also says how its plan read the shuffles."""
    with _settings(spark, conf):
        frame = QUERIES[view](spark)
        digest = _rows(spark).digest(_rows(spark).runMaps(frame._jdf))
        plan = frame._jdf.queryExecution().executedPlan().toString()
        return {"digest": digest, "plan": plan}


@contextmanager
def _settings(spark, conf):
    """Settings of the session for as long as the body runs."""
    saved = {}
    for key, value in (conf or {}).items():
        saved[key] = spark.conf.get(key, None)
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key, value in saved.items():
            if value is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, value)


def _giant(spark):
    # 100 MiB that do not compress: AES over zeros, with a fixed vector so that it is the same each time. (The length depends on
    # the row, or the optimiser would put the value itself into the plan.)
    noise = "aes_encrypt(repeat('0', cast(id + 104857600 AS int)), '0123456789abcdef', 'CBC', 'PKCS', unhex('000102030405060708090a0b0c0d0e0f'))"
    giant = spark.range(0, 1, 1, 1).selectExpr("7 AS k", f"{noise} AS body")
    small = spark.range(0, 1000, 1, 2).selectExpr("cast(id % 5 AS int) AS k", "cast(cast(id AS string) AS binary) AS body")
    both = giant.unionByName(small).repartition(4, "k")
    return both.selectExpr("k", "length(body) AS n", "md5(body) AS sum")


def _skewed_side(spark):
    # Nine tenths of it fall on one key.
    return spark.range(0, 400_000, 1, 8).selectExpr(
        "CASE WHEN id % 10 = 0 THEN id % 1000 ELSE 1 END AS k", "id AS v", "repeat(sha1(string(id)), 3) AS pad"
    )


def _skew(spark):
    right = spark.range(0, 1000, 1, 4).selectExpr("id AS k", "sha1(string(id)) AS w")
    return _skewed_side(spark).join(right, "k").selectExpr("k", "v", "pad", "w")


def _reused(spark):
    # The shuffle of the skewed side is needed twice: the join reads its largest partition in ranges of maps, the window reads it
    # whole.
    # (A key that could be null would be filtered for the join only, and there would be two shuffles.)
    _skewed_side(spark).selectExpr("coalesce(k, 0) AS k", "v", "pad").createOrReplaceTempView("skewed_side")
    spark.range(0, 1000, 1, 4).selectExpr("id AS k", "sha1(string(id)) AS w").createOrReplaceTempView("names")
    return spark.sql(
        "SELECT l.k, v, pad, w FROM skewed_side l JOIN names r ON l.k = r.k UNION ALL "
        "SELECT k, v, pad, string(row_number() OVER (PARTITION BY k ORDER BY v)) AS w FROM skewed_side"
    )


def _local_read(spark):
    # The filter leaves so little that the join, planned as a sort-merge join, becomes a broadcast join after its shuffles
    # have run: the large side is then read map by map.
    large = spark.range(0, 200_000, 1, 6).selectExpr("id % 5000 AS k", "id AS v")
    small = spark.range(0, 100_000, 1, 4).selectExpr("id AS k", "sha1(string(id)) AS w").where("substr(w, 1, 3) = 'abc'")
    return large.join(small, "k").selectExpr("k", "v", "w")


QUERIES = {
    "groups": lambda spark: spark.range(0, 600_000, 1, 6)
    .selectExpr("id * 31 % 150000 AS k", "id AS v")
    .groupBy("k")
    .agg({"v": "sum", "*": "count"}),
    "giant": _giant,
    "empty": lambda spark: spark.range(0, 1000, 1, 4).where("id < 0").selectExpr("id % 7 AS k").groupBy("k").count(),
    "no_maps": lambda spark: spark.range(0, 0, 1, 1).selectExpr("id AS k").repartition(5, "k"),
    "skew": _skew,
    "local_read": _local_read,
    "rebalance": lambda spark: spark.sql(
        "SELECT /*+ REBALANCE(k) */ CASE WHEN id % 3 = 0 THEN 0 ELSE id END AS k, repeat(string(id), 5) AS v "
        "FROM range(0, 300000, 1, 6)"
    ),
    "reused": _reused,
    "wide": lambda spark: spark.range(0, 40_000, 1, 4)
    .selectExpr("id % 97 AS k", "repeat(sha1(string(id)), cast(id % 60 AS int)) AS v", "array(id, id + 1) AS a")
    .repartition(11, "k"),
}


def _cancellable(spark):
    spark.sparkContext.setJobGroup("cancellable", "a job that may be cancelled", interruptOnCancel=True)


def slow_maps(spark, records=4_000_000):
    """A job that shuffles for as long as it is let: for the tests that kill it."""
    _cancellable(spark)
    frame = spark.range(0, records, 1, 4).selectExpr("id AS k", "repeat(sha1(string(id)), 8) AS v").repartition(20, "k")
    return {"digest": _rows(spark).digest(_rows(spark).runMaps(frame._jdf))}


def cancel(spark):
    spark.sparkContext.cancelJobGroup("cancellable")


def active_tasks(spark):
    tracker = spark.sparkContext._jsc.sc().statusTracker()
    return sum(executor.numRunningTasks() for executor in tracker.getExecutorInfos())


def java_version(spark):
    """Of the driver's JVM; executors run the same."""
    return spark.sparkContext._jvm.System.getProperty("java.version")


def executors(spark):
    """How many executors are registered (the driver is one of the block managers)."""
    return spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size() - 1


def settle(spark):
    """Everything that has happened is in the event log afterwards."""
    spark.sparkContext._jsc.sc().listenerBus().waitUntilEmpty()


def load_classes(spark, names):
    for name in names:
        spark._jvm.java.lang.Class.forName(name)


def ui(spark):
    return spark.sparkContext.uiWebUrl


def setting(spark, key):
    return spark.sparkContext.getConf().get(key)


def shuffles(spark):
    """The shuffles that Spark knows."""
    return sorted({int(line.split()[0]) for line in _rows(spark).mapLocations()})


def forebay_status(spark):
    return spark.sparkContext._jvm.io.forebay.spark.ForebayStatus.current().get().toString()
