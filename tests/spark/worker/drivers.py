"""Queries on threads of the driver that are interrupted, and a driver that is stopped while they wait."""


def _drivers(spark):
    return spark.sparkContext._jvm.io.forebay.jobs.Drivers


def start_query(spark, name):
    _drivers(spark).start(spark.sparkContext._jsc, name)


def query_outcome(spark, name):
    return _drivers(spark).outcome(name)


def interrupt_query(spark, name):
    _drivers(spark).interrupt(name)


def queries_inside(spark, method):
    return sorted(_drivers(spark).inside(method))


def stop_context(spark):
    """Milliseconds that it took."""
    return _drivers(spark).stop(spark.sparkContext._jsc)


def contexts(spark, number):
    """Makes, uses and stops so many contexts one after the other."""
    _drivers(spark).contexts(spark.sparkContext._jsc, number)


def refusals(spark, settings):
    """What is said of each of these settings, [key, value], if it alone is set besides."""
    return list(_drivers(spark).refusals(spark.sparkContext._jsc, settings))


def exhaust(spark):
    _drivers(spark).exhaust()


def left_behind(spark):
    """Threads of ours on the Java side, open files, and threads of the process."""
    return [int(word) for word in _drivers(spark).leftBehind().split()]
