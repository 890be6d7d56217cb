"""Two attempts of one map task: the reader sees the rows of the one that Spark chose, once.

Spark never speculates onto the host of the first attempt, and `local-cluster` has one host only. So here is a standalone
cluster with workers on two loopback addresses.
"""

import itertools
import os
import re
import time

import pytest

from harness.application import Application
from harness.places import SparkLine
from harness.run import Run

SPECULATION = {
    "spark.executor.cores": "1",
    "spark.executor.memory": "1g",
    "spark.speculation": "true",
    "spark.speculation.interval": "50ms",
    "spark.speculation.minTaskRuntime": "100ms",
    "spark.speculation.multiplier": "1.1",
    "spark.speculation.quantile": "0.5",
}


NUMBERS = itertools.count()


class Cluster:
    """One master, one worker on each of two hosts."""

    def __init__(self, run: Run, line: SparkLine):
        self.run, self.line = run, line
        # Its own: what the one before said is in its logs.
        self.folder = run.folder("cluster", f"{line.version}-{next(NUMBERS)}")
        master = self._start("master", "127.0.0.1", "org.apache.spark.deploy.master.Master", "--port", "0", "--webui-port", "0")
        self.url = self._said("master", r"Starting Spark master at (spark://\S+)")
        self.processes = [master]
        for host in ("127.0.0.1", "127.0.0.2"):
            work = self.folder / f"work-{host}"
            options = ["--webui-port", "0", "--cores", "1", "--memory", "1g", "--work-dir", work, self.url]
            self.processes.append(self._start(f"worker-{host}", host, "org.apache.spark.deploy.worker.Worker", *options))
            self._said(f"worker-{host}", r"Successfully registered with master")

    def _start(self, name, host, main, *options):
        env = os.environ | {
            "SPARK_HOME": str(self.line.home),
            "SPARK_LOCAL_IP": host,
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_DAEMON_JAVA_OPTS": f"-XX:-UsePerfData -Djava.io.tmpdir={self.run.folder('tmp')}",
            "SPARK_LOCAL_DIRS": str(self.run.folder("tmp")),
        }
        with open(self.folder / f"{name}.log", "ab") as log:
            return self.run.spawn(
                "cluster",
                ["bash", self.line.home / "bin" / "spark-class", main, "--host", host, *options],
                env=env,
                cwd=self.folder,
                stdin=-3,
                stdout=log,
                stderr=log,
            )

    def _said(self, name, pattern):
        log = self.folder / f"{name}.log"
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            found = re.search(pattern, log.read_text(errors="replace"))
            if found:
                return found.groups()[0] if found.groups() else None
            time.sleep(0.1)
        raise TimeoutError(f"{name} did not say {pattern!r} in 180 s:\n{log.read_text(errors='replace')[-3000:]}")

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
            process.wait(20)


@pytest.fixture
def cluster(run, line):
    cluster = Cluster(run, line)
    yield cluster
    cluster.stop()


@pytest.mark.long
def test_speculative_attempt_wins_and_the_answer_is_sparks_own(run, line, servers, cluster, own_answer):
    conf = {**SPECULATION, "spark.master": cluster.url}
    app = Application(run, line, f"speculation-{line.version}", servers, conf)
    try:
        answer = app.call("straggle", records=80_000, sleep_millis=20_000)
        app.call("settle")
        maps = [end for end in app.events.task_ends() if end["Task Type"] == "ShuffleMapTask"]
        won = [m for m in maps if m["Task Info"]["Speculative"] and m["Task End Reason"]["Reason"] == "Success"]
        assert [m["Task Info"]["Partition ID"] for m in won] == [3], "no speculative attempt of the straggler won"
        assert answer == own_answer("straggle", records=80_000, sleep_millis=0)
    finally:
        app.stop()
