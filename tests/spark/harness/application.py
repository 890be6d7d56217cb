"""A Spark application in processes of its own: driver and executors of one Spark line, driven by calls."""

import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

from harness import places
from harness.eventlog import EventLog
from harness.places import HERE, SparkLine
from harness.run import Run, command_of, descendants
from harness.server import Server

START_SECONDS = 300


class CallFailed(Exception):
    """The call raised; the text is the whole trace, with Spark's reasons in it."""


class Call:
    def __init__(self, application, name):
        self.application = application
        self.name = name
        self.answer = queue.Queue(1)

    def result(self, timeout: float = 600):
        try:
            message = self.answer.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"{self.name} gave no answer in {timeout:.0f} s\n{self.application.tail()}") from None
        if "error" in message:
            raise CallFailed(message["error"])
        return message["result"]


class Application:
    """Starts with the settings that both shuffles share; `servers` switches Forebay on. A setting that is None is left out."""

    jvm = ""  # more options for the driver and the executors of all applications
    archives: dict[str, Path] = {}  # of `harness.classes`, by Spark's version
    address = "127.0.0.1"  # of the driver
    prefix: list = []  # what the driver's command begins with
    made: list["Application"] = []  # all of them, in their order

    def __init__(
        self,
        run: Run,
        line: SparkLine,
        name: str,
        servers: list[Server] | None = None,
        conf: dict | None = None,
        executor_memory_mib: int = 1024,
        executor_jvm: str = "",
        java: Path | None = None,  # a JDK that is not the one of the environment
    ):
        self.run = run
        self.java = java
        self.name = name
        self.role = f"spark-{name}"
        self.folder = run.folder("spark", name)
        events = run.folder("spark", name, "events")
        self.events = EventLog(events)
        self.log = self.folder / "driver.log"
        self.home = self._home(line)
        self.calls: dict[int, Call] = {}
        self.next_id = 0
        settings = self._settings(line, events, executor_memory_mib)
        settings["spark.executor.extraJavaOptions"] += f" {executor_jvm}"
        if servers is not None:
            settings["spark.shuffle.manager"] = "io.forebay.spark.ForebayShuffleManager"
            settings["spark.forebay.servers"] = ",".join(server.address for server in servers)
        settings.update(conf or {})
        self._start(line, {key: value for key, value in settings.items() if value is not None})

    def _home(self, line: SparkLine):
        """A folder that looks like the installation: `local-cluster` keeps its executors' files under SPARK_HOME/work."""
        home = self.folder / "home"
        home.mkdir()
        for entry in line.home.iterdir():
            if entry.name != "work":
                (home / entry.name).symlink_to(entry)
        return home

    def _settings(self, line, events, executor_memory_mib):
        scratch = self.run.folder("tmp")
        # Java and Spark put their files where we look for what is left.
        options = f"-Djava.io.tmpdir={scratch} -XX:-UsePerfData -XX:+UseParallelGC {self.jvm}"
        # On Spark 3.5 a shuffle manager must be on the executors' own class path: `spark.jars` comes too late there.
        class_path = f"{places.JAR}:{line.jobs_jar()}"
        if line.version in self.archives and not self.java:
            # Those jars first, and where they are installed: `home` has another path for every application.
            class_path = f"{line.home}/jars/*:{class_path}"
            options += f" -XX:SharedArchiveFile={self.archives[line.version]} -Xlog:cds*=off"
        return {
            "spark.app.name": self.name,
            "spark.master": f"local-cluster[2,1,{executor_memory_mib}]",
            "spark.driver.bindAddress": self.address,
            "spark.driver.host": self.address,
            "spark.driver.memory": "1g",
            "spark.driver.extraClassPath": class_path,
            "spark.driver.extraJavaOptions": options,
            "spark.eventLog.compress": "false",
            "spark.eventLog.dir": events.as_uri(),
            "spark.eventLog.enabled": "true",
            "spark.eventLog.rolling.enabled": "false",
            "spark.executor.extraClassPath": class_path,
            "spark.executor.extraJavaOptions": options,
            "spark.executor.memory": f"{executor_memory_mib}m",
            "spark.local.dir": str(scratch),
            "spark.sql.warehouse.dir": str(self.folder / "warehouse"),
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.unsafe.exceptionOnMemoryLeak": "true",
        }

    def _start(self, line, settings):
        env = {key: value for key, value in os.environ.items() if not key.startswith(("SPARK_", "PYSPARK_", "JAVA_TOOL"))}
        env |= {"SPARK_HOME": str(self.home), "SPARK_LOCAL_IP": self.address, "PYSPARK_PYTHON": str(line.python)}
        if self.java:
            env["JAVA_HOME"] = str(self.java)
        reading, writing = os.pipe()
        with open(self.log, "ab") as log:
            self.process = self.run.spawn(
                self.role,
                [*self.prefix, line.python, HERE / "worker" / "main.py", json.dumps(settings), writing],
                env=env,
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
            )
        Application.made.append(self)
        os.close(writing)
        started = self.calls[0] = Call(self, "start")
        threading.Thread(target=self._listen, args=(reading,), daemon=True).start()
        self.id = started.result(START_SECONDS)

    def _listen(self, reading):
        with os.fdopen(reading) as answers:
            for line in answers:
                message = json.loads(line)
                self.calls.pop(message["id"]).answer.put(message)
        for call in list(self.calls.values()):
            call.answer.put({"error": f"the driver is gone (exit code {self.process.poll()})\n{self.tail()}"})

    def start_call(self, name: str, /, **args) -> Call:
        self.next_id += 1
        call = self.calls[self.next_id] = Call(self, name)
        order = json.dumps({"id": self.next_id, "name": name, "args": args}) + "\n"
        self.process.stdin.write(order.encode())
        self.process.stdin.flush()
        return call

    def call(self, name: str, /, timeout: float = 600, **args):
        return self.start_call(name, **args).result(timeout)

    # === what is done to it ===

    def executor_pids(self) -> dict[str, int]:
        """The executors' processes by executor id."""
        found = {}
        for pid in descendants(self.process.pid):
            command = command_of(pid)
            if "--executor-id" in command and any("CoarseGrainedExecutorBackend" in word for word in command):
                found[command[command.index("--executor-id") + 1]] = pid
        return found

    def kill_executor(self) -> str:
        """SIGKILL for the executor with the lowest id; returns when the driver has noticed and another one is registered."""
        wanted = self.call("executors")
        number, pid = min(self.executor_pids().items(), key=lambda item: int(item[0]))
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            self.call("settle")
            if number in self.events.executors_removed() and self.call("executors") >= wanted:
                return number
            time.sleep(0.1)
        raise TimeoutError(f"Spark did not replace executor {number} in 180 s\n{self.tail()}")

    def executor_logs(self) -> list:
        """What executors, and the native library in them, wrote to standard error."""
        return sorted(self.home.glob("work/*/*/stderr"))

    def maps_rerun(self):
        """Map tasks that have run more than once so far, with the number of runs beyond the first."""
        self.call("settle")
        return self.events.maps_rerun()

    def kill_driver(self):
        """SIGKILL for the driver's whole tree: nothing of the application gets to say goodbye."""
        for pid in self.run.processes(self.role):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(180)
            except subprocess.TimeoutExpired:
                self.kill_driver()
                raise RuntimeError(f"{self.name} did not stop within 180 s\n{self.tail()}") from None
        # Its JVM and the executors end on their own a moment after the driver's Python.
        deadline = time.monotonic() + 20
        while self.run.processes(self.role) and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(self.home, ignore_errors=True)

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
