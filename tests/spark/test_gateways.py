"""Spark's own servers, whose sessions share one application: Spark Connect and the Thrift server, each asked by its own client."""

import json
import os
import re
import subprocess
import time

import pytest

from harness.application import Application
from harness.places import JAR
from harness.run import wait_until
from harness.server import Server, port_to_keep

CONNECT = "org.apache.spark.sql.connect.service.SparkConnectServer"
THRIFT = "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2"


class Gateway:
    """One of Spark's servers over a Forebay server, with two executors of two cores."""

    def __init__(self, run, line, main: str, server: Server, conf: dict, arguments: list[str] = ()):
        self.name = main.rsplit(".", 1)[1]
        self.folder = run.folder("gateways", f"{self.name}-{line.version}")
        self.log = self.folder / "log"
        home = self.folder / "home"
        home.mkdir()
        for entry in line.home.iterdir():
            if entry.name != "work":
                (home / entry.name).symlink_to(entry)
        scratch = run.folder("tmp")
        java = f"-Djava.io.tmpdir={scratch} -XX:-UsePerfData {Application.jvm}"
        settings = {
            "spark.master": "local-cluster[2,2,1024]",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.extraJavaOptions": f"{java} -Dderby.system.home={self.folder}",
            "spark.executor.extraJavaOptions": java,
            "spark.local.dir": str(scratch),
            "spark.shuffle.manager": "io.forebay.spark.ForebayShuffleManager",
            "spark.forebay.servers": server.address,
            "spark.sql.shuffle.partitions": "6",
            "spark.sql.warehouse.dir": str(self.folder / "warehouse"),
            "spark.ui.enabled": "false",
            **conf,
        }
        words = [word for key, value in settings.items() for word in ("--conf", f"{key}={value}")]
        env = {key: value for key, value in os.environ.items() if not key.startswith(("SPARK_", "PYSPARK_"))}
        env |= {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": str(line.python)}
        with open(self.log, "ab") as log:
            self.process = run.spawn(
                self.name,
                ["bash", home / "bin" / "spark-submit", "--class", main, *words, "spark-internal", *arguments],
                env=env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def said(self, pattern: str, seconds: float = 180):
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.log.read_text(errors="replace")):
            assert self.process.poll() is None, f"{self.name} ended:\n{self.tail()}"
            assert time.monotonic() < deadline, f"{self.name} did not say {pattern!r}:\n{self.tail()}"
            time.sleep(0.1)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def server(run, request):
    server = Server(run, request.node.name.translate({ord(c): "-" for c in "[]"})).start()
    yield server
    assert server.stop() == 0
    assert server.errors() == []


# === Spark Connect ===

SESSION = """
import json, os, sys, threading
from pyspark.sql import SparkSession

url, told = sys.argv[1:]
create = lambda: SparkSession.builder.remote(url).create()

def query(spark, base):
    frame = spark.range(0, 20000, 1, 4).selectExpr("id % 97 AS k", f"{base} + id AS v").repartition(5, "k")
    return [tuple(row) for row in frame.groupBy("k").sum("v").orderBy("k").collect()]

def expected(base):
    sums = {}
    for n in range(20000):
        sums[n % 97] = sums.get(n % 97, 0) + base + n
    return sorted(sums.items())

def interrupted(spark):
    try:
        query(spark, 0)
        return "an answer"
    except Exception as e:
        return type(e).__name__ + ": " + str(e)

first = create()
if told == "interrupt":
    # The servers do not answer: the first query of the application waits for them, and is not wanted any more.
    said = []
    thread = threading.Thread(target=lambda: said.append(interrupted(first)))
    thread.start()
    while thread.is_alive():
        thread.join(10)
        first.interruptAll()
    print(json.dumps(said))
else:
    second = create()
    def plus(batches):
        for batch in batches:
            yield batch.assign(v=batch.v + 1)
    for base in (1000, 2000):
        assert query(first, base) == expected(base)
        assert query(second, 2 * base) == expected(2 * base)
    python = second.range(0, 20000, 1, 4).selectExpr("id % 97 AS k", "id AS v").repartition(5, "k").mapInPandas(plus, "k long, v long")
    assert [tuple(row) for row in python.groupBy("k").sum("v").orderBy("k").collect()] == expected(1)
    print(json.dumps("right"))
sys.stdout.flush()
os._exit(0)  # its client waits at its end for threads of sessions that are not needed any more
"""


def client(line, url: str, told: str) -> object:
    command = [line.python, "-c", SESSION, url, told]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SPARK_", "PYSPARK_"))}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_sessions_of_spark_connect(run, newest, server):
    """Its executors get the jar as any other of a session's, and its first query is interrupted while the application registers."""
    port = port_to_keep()
    conf = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.jars": str(JAR),
        "spark.forebay.retryDeadline": "60s",
    }
    connect = Gateway(run, newest, CONNECT, server, conf)
    connect.said(r"Spark Connect server started")
    url = f"sc://127.0.0.1:{port}"
    server.hang()
    (said,) = client(newest, url, "interrupt")
    server.resume()
    assert "OPERATION_CANCELED" in said or "interrupted" in said.lower(), said
    assert client(newest, url, "ask") == "right"
    assert server.bytes_in() > 0
    connect.stop()
    wait_until(lambda: server.metric("forebay_apps") == 0, 30, "the application is known still")


# === the Thrift server ===


def test_statements_of_the_thrift_server(run, line, server):
    port = port_to_keep()
    conf = {
        "spark.driver.extraClassPath": str(JAR),
        "spark.executor.extraClassPath": str(JAR),
        "spark.hadoop.javax.jdo.option.ConnectionURL": "jdbc:derby:memory:metastore;create=true",
    }
    arguments = ["--hiveconf", f"hive.server2.thrift.port={port}", "--hiveconf", "hive.server2.thrift.bind.host=127.0.0.1"]
    thrift = Gateway(run, line, THRIFT, server, conf, arguments)
    thrift.said(r"ThriftBinaryCLIService on port|HiveThriftServer2 started")
    text = "SELECT k, sum(v), count(*) FROM (SELECT /*+ REPARTITION(5, k) */ id % 7 AS k, id AS v FROM range(0, 70000, 1, 4)) GROUP BY k ORDER BY k"
    env = {key: value for key, value in os.environ.items() if not key.startswith("SPARK_")} | {"SPARK_HOME": str(line.home)}
    command = ["bash", line.home / "bin" / "beeline", "-u", f"jdbc:hive2://127.0.0.1:{port}", "--silent=true", "--showHeader=false"]
    command += ["--outputformat=csv2", "-e", text]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=180, env=env, cwd=thrift.folder, check=False)
    rows = [tuple(map(int, row.split(","))) for row in ran.stdout.split() if row.count(",") == 2]
    assert rows == [(k, sum(range(k, 70_000, 7)), 10_000) for k in range(7)], ran.stdout + ran.stderr
    assert server.bytes_in() > 0
    thrift.stop()
    wait_until(lambda: server.metric("forebay_apps") == 0, 30, "the application is known still")
