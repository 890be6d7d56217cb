"""One cluster of two nodes for all tests, and Forebay on it where a test asks for nothing else.

Where nobody has built its programs it is skipped, with the command that builds them; FOREBAY_TEST_NO_SKIP=1 makes that a failure.
"""

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "spark")]

from harness import classes, places  # noqa: E402
from harness.application import Application  # noqa: E402
from harness.places import Missing, SparkLine  # noqa: E402
from harness.run import Run, raise_on_signals  # noqa: E402
from kube import forebay as chart  # noqa: E402
from kube import oci, spark  # noqa: E402
from kube.cluster import Cluster  # noqa: E402
from kube.forebay import Forebay  # noqa: E402

LINE = "4.3.0"
Application.jvm = "-XX:TieredStopAtLevel=1"  # these applications live for less time than it takes to optimise their code


def skip(reason: str):
    """Fails instead where the cluster's programs are there, so that nobody takes a part that went missing for one that never was."""
    must = os.environ.get("FOREBAY_TEST_NO_SKIP", "1" if Cluster.built() and os.geteuid() == 0 else "")
    (pytest.fail if must else pytest.skip)(reason)


@pytest.fixture(scope="session")
def run():
    for built in (places.SERVER, places.CLI, places.JAR):
        if not built.exists():
            pytest.fail(f"{built} is not built: run make build", pytrace=False)
    if reason := Cluster.missing():
        skip(reason)
    raise_on_signals()
    with Run("cluster") as run:
        yield run


@pytest.fixture(scope="session")
def line(run) -> SparkLine:
    try:
        line = SparkLine(LINE)
    except Missing as missing:
        skip(str(missing))
    Application.archives[LINE] = classes.archive(run, line)
    return line


@pytest.fixture(scope="session")
def cluster(run, line) -> Cluster:
    cluster = Cluster(run, nodes=2)
    chart.image(cluster.images / "forebay-1.tar", "1")
    oci.named(cluster.images / "forebay-2.tar", cluster.images / "forebay-1.tar", f"{chart.REPOSITORY}:2")  # what an upgrade upgrades to
    spark.image(run, line, cluster.images / "spark.tar")
    cluster.start()
    cluster.apply(spark.ACCOUNT)
    return cluster


@pytest.fixture(scope="module")
def forebay(cluster):
    """A StatefulSet of two, one on each node, each with a local volume that it finds again."""
    forebay = Forebay(cluster).install()
    yield forebay
    assert forebay.errors() == []
    forebay.uninstall()


@pytest.fixture(scope="session")
def own_answer(run, line):
    """What Spark's own shuffle answers, on this machine without the cluster."""
    app = Application(run, line, "vanilla", None, {"spark.sql.shuffle.partitions": "8"})
    yield app.call
    app.stop()
