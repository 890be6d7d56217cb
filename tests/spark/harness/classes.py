"""Spark's classes as a JVM has them when they are loaded and verified, in a file that later JVMs map into memory.

Most of what a short application costs is loading some 15 000 classes in each of three JVMs: from its start over a join to its end
it takes 21 s on two cores without this file and 14 s with it. A JVM uses it if its class path begins with the same jars, unchanged;
a JVM that finds it unfit goes on without.
"""

import os
import subprocess
from hashlib import sha256
from pathlib import Path

from harness import benchmarks
from harness.application import Application
from harness.places import CACHE, SparkLine
from harness.run import Run

# What only a process of a cluster loads: the archive is made in one that is its own cluster.
CLUSTER = [
    "org.apache.spark.deploy.LocalSparkCluster",
    "org.apache.spark.deploy.client.StandaloneAppClient$ClientEndpoint",
    "org.apache.spark.deploy.master.Master",
    "org.apache.spark.deploy.worker.ExecutorRunner",
    "org.apache.spark.deploy.worker.Worker",
    "org.apache.spark.executor.CoarseGrainedExecutorBackend",
    "org.apache.spark.scheduler.cluster.StandaloneSchedulerBackend",
]


def archive(run: Run, line: SparkLine) -> Path:
    """The file for a line and this machine's JVM; made when it is first asked for, by running what the tests will, in 40 s."""
    file = CACHE / f"pyspark-{line.version}" / f"classes-{_jvm()}.jsa"
    if file.exists():
        return file
    print(f"\nmaking {file}: Spark {line.version}'s classes, for applications that start sooner (once, about 40 s)", flush=True)
    for unfit in file.parent.glob("classes-*.jsa"):
        unfit.unlink()  # of a JVM that was here before
    fresh = file.with_suffix(f".{os.getpid()}")
    conf = {
        "spark.master": "local[2]",
        "spark.driver.extraClassPath": f"{line.home}/jars/*",
        "spark.driver.extraJavaOptions": f"-XX:ArchiveClassesAtExit={fresh} -Xlog:cds*=off {Application.jvm}",
        "spark.executor.extraClassPath": None,
        "spark.executor.extraJavaOptions": None,
    }
    app = Application(run, line, f"classes-{line.version}", None, conf)
    app.call("tables", data=str(benchmarks.tpch("0.1")))
    for query in ("q5", "q18", "q21"):
        app.call("tpch", query=query)
    app.call("python_shape", job="groupBy")
    app.call("load_classes", names=CLUSTER)
    app.stop()
    fresh.rename(file)
    return file


def _jvm() -> str:
    java = Path(os.environ["JAVA_HOME"], "bin", "java") if "JAVA_HOME" in os.environ else "java"
    version = subprocess.run([java, "-Xinternalversion"], stdout=subprocess.PIPE, check=True).stdout
    return sha256(version).hexdigest()[:12]
