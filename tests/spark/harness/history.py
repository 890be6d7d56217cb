"""Spark's history server over the event logs of one application."""

import os
import re
import subprocess
import time

from harness.places import JAR, SparkLine
from harness.run import Run


class HistoryServer:
    """With our jar on its class path, and its store on disk: what is shown has been written out and read back."""

    def __init__(self, run: Run, line: SparkLine, events):
        folder = run.folder("history", line.version)
        settings = folder / "history.conf"
        settings.write_text(
            f"spark.history.fs.logDirectory {events.as_uri()}\n"
            f"spark.history.store.path {run.folder('history', line.version, 'store')}\n"
            "spark.history.ui.port 0\n"
        )
        self.log = folder / "history.log"
        env = {key: value for key, value in os.environ.items() if not key.startswith(("SPARK_", "PYSPARK_", "JAVA_TOOL"))}
        env |= {
            "SPARK_HOME": str(line.home),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_DAEMON_CLASSPATH": str(JAR),
            "SPARK_DAEMON_JAVA_OPTS": f"-XX:-UsePerfData -Djava.io.tmpdir={run.folder('tmp')}",
        }
        command = ["bash", line.home / "bin" / "spark-class", "org.apache.spark.deploy.history.HistoryServer"]
        with open(self.log, "ab") as log:
            self.process = run.spawn(
                "history", [*command, "--properties-file", settings], env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.url = self._url()

    def _url(self) -> str:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            found = re.search(r"HistoryServer.* started at (http://\S+:\d+)", self.log.read_text(errors="replace"))
            if found:
                return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        raise RuntimeError(f"the history server did not start:\n{self.log.read_text(errors='replace')[-3000:]}")

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
