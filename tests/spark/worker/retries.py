"""Jobs of which something is lost or tried again while they run: what they wait for is in the test's folder of gates."""

from worker import jobs


def _retries(spark):
    return spark.sparkContext._jvm.io.forebay.jobs.Retries


def retry(spark, job, gates=None):
    """A job of `Retries.java`, by name."""
    return _retries(spark).run(spark.sparkContext._jsc, job, gates)


def random_rows(spark, gates, records):
    """Rows whose partition is another one each time their map runs."""
    ids = _retries(spark).randomRows(spark._jsparkSession, gates, records)
    return {"rows": len(ids), "distinct": len(set(ids))}


def paused_reduces(spark, name, gates=None, after=2000):
    """As `run_reduces`, but each task's first attempt waits after so many rows."""
    return _retries(spark).pausedDigest(jobs._held[name][2], gates, after)


def remove_shuffle(spark, shuffle):
    """Frees a shuffle's storage and leaves its outputs registered, as a query does at its end with
    `spark.sql.classic.shuffleDependency.fileCleanup.enabled` (4.1): read again, it has to be written again."""
    spark.sparkContext._jsc.sc().shuffleDriverComponents().removeShuffle(shuffle, True)
