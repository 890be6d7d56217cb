"""Short jobs that are hit while they run, and what hits them."""

from worker import jobs


def _kills(spark):
    return spark.sparkContext._jvm.io.forebay.jobs.Kills


def _context(spark):
    return spark.sparkContext._jsc.sc()


def victim(spark, kind, group="victim"):
    """A job that takes about a second if it is left alone: its answer does not depend on whether it is."""
    spark.sparkContext.setJobGroup(group, kind, interruptOnCancel=True)
    match kind:
        case "rows":  # 13 MB of each task that do not compress: more than it may be ahead of its servers, and than sockets hold
            text = "concat(sha2(string(id), 512), sha2(string(-id), 512))"
            frame = spark.range(0, 200_000, 1, 4).selectExpr("id AS k", f"{text} AS v").repartition(6, "k")
            return jobs._rows(spark).digest(jobs._rows(spark).runMaps(frame._jdf))
        case "fewRows":  # all of a task's output is sent with its commit
            frame = spark.range(0, 4000, 1, 6).selectExpr("id * 31 % 997 AS k", "id AS v").groupBy("k").agg({"v": "sum"})
            return jobs._rows(spark).digest(jobs._rows(spark).runMaps(frame._jdf))
        case "objects":  # Java's serialiser, 10 MB of each task
            return jobs.pairs(spark, "groupLongKeysWithJavaSerializer", 600_000)
        case "python":  # read by a thread that is not the task's
            pairs = spark.sparkContext.parallelize(range(20_000), 4).map(lambda n: (n % 101, n))
            return sorted(pairs.groupByKey(3).mapValues(sum).collect())
    raise ValueError(f"no kind {kind}")


def find(spark, method, millis=60_000):
    """The executor and the task that are inside of a method of ours."""
    found = _kills(spark).find(_context(spark), method, millis)
    return found and found.split()


def kill_task(spark, task):
    return _kills(spark).kill(_context(spark), task)


def running(spark):
    return list(_kills(spark).running(_context(spark)))


def busy(spark):
    return list(_kills(spark).busy(_context(spark)))


def cancel_group(spark, group):
    spark.sparkContext.cancelJobGroup(group)
