"""`make demo`, and `forebay demo` of the Python package: the same jobs on Spark's own shuffle and on Forebay, with an executor and then a server killed in between, and in the
end a server killed for good.

Everything is real and on this machine: two `forebay-server` processes with disks of their own and a folder as their object store, a
Spark cluster of two executor processes, TPC-H data. Ends with a table, demo/report.json in the target folder, and exit code 0 only if every promise held.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from harness import benchmarks, places
from harness.application import Application, CallFailed
from harness.places import Missing, SparkLine
from harness.progress import Progress
from harness.report import human_bytes, table
from harness.run import Run, raise_on_signals, wait_until
from harness.server import Server

QUERIES = ("q5", "q9", "q18", "q21")
KINDS = {"aggregation": "aggregation", "count": "count per partition"}
MAPS = 40
# Copies of native code that Spark's own codecs unpack; a JVM that gets SIGKILL cannot take its copies along. They end with
# the run's folder. Forebay's library is not among them: its copy is unlinked as soon as it is loaded.
CODECS = ("liblz4-java-", "snappy-", "libzstd-jni")
SHARED = {
    "spark.sql.shuffle.partitions": "200",
    "spark.sql.autoBroadcastJoinThreshold": "1m",  # so that the joins shuffle, as they would at larger scale
}


class Cost:
    """Wall and CPU seconds of what both shuffles do, and of nothing in between."""

    def __init__(self, run: Run, role: str):
        self.run, self.role = run, role
        self.seconds = self.cpu = self.server_cpu = 0.0

    def _now(self):
        return time.monotonic(), self.run.cpu_seconds(self.role), self.run.cpu_seconds("server")

    @contextmanager
    def counted(self):
        before = self._now()
        yield
        after = self._now()
        seconds, spark, server = (b - a for a, b in zip(before, after, strict=True))
        self.seconds += seconds
        self.cpu += spark + server
        self.server_cpu += server


class Jobs:
    """Runs jobs on one application and keeps what they took."""

    def __init__(self, run: Run, app: Application, progress: Progress):
        self.run, self.app, self.progress = run, app, progress
        self.cost = Cost(run, app.role)
        self.done: list[dict] = []

    def query(self, query: str):
        with self.progress.step(f"TPC-H {query}") as step:
            with self.cost.counted():
                answer = self.app.call("tpch", query=query)
            step.said = f"{answer['rows']} rows in {answer['seconds']:.1f} s, answer {answer['hash']}"
        self.done.append({"name": f"TPC-H {query}", "answer": answer["hash"], "seconds": round(answer["seconds"], 2)})

    def two_stages(self, kind: str, text: str, between, cost: Cost) -> dict:
        """Map stage, `between()`, reduce stage. What happens in between is on nobody's account."""
        with self.progress.step(text) as step:
            before = self.app.maps_rerun().total()
            spent = cost.seconds
            with cost.counted():
                self.app.call("run_maps", name=text, kind=kind, maps=MAPS)
            between()
            with cost.counted():
                answer = self.app.call("run_reduces", name=text)
            seconds = cost.seconds - spent
            again = self.app.maps_rerun().total() - before
            step.said = f"{seconds:.1f} s, {again} of {MAPS} map tasks ran again"
        return {"name": text, "answer": answer, "seconds": round(seconds, 2), "maps_rerun": again}

    def killed_executor(self):
        for kind, what in KINDS.items():
            text = f"{what}, executor killed after the maps"
            self.done.append(self.two_stages(kind, text, self.app.kill_executor, self.cost))

    def killed_server(self, restart) -> list[dict]:
        apart = Cost(self.run, self.app.role)  # Spark's own shuffle has no such job to compare with
        return [
            self.two_stages(kind, f"{what}, server killed and restarted", restart, apart) for kind, what in KINDS.items()
        ]

    def lost_server(self, lose) -> dict:
        text = f"{KINDS['aggregation']}, server killed for good after write-back"
        return self.two_stages("aggregation", text, lose, Cost(self.run, self.app.role))

    def summary(self) -> dict:
        return {
            "seconds": round(self.cost.seconds, 2),
            "cpu_seconds": round(self.cost.cpu, 2),
            "maps_rerun": sum(job.get("maps_rerun", 0) for job in self.done),
            "jobs": self.done,
        }


class Traffic:
    """Bytes that the servers count; their counters begin again when a server does."""

    KINDS = {
        "in": "forebay_pushed_bytes_total",
        "out": "forebay_fetched_bytes_total",
        "written_back": "forebay_written_back_bytes_total",
        "saved": "forebay_volume_saved_bytes_total",
    }

    def __init__(self, servers):
        self.servers, self.before = servers, dict.fromkeys(self.KINDS, 0)

    def now(self) -> dict:
        return {
            kind: int(before + sum(server.metric(self.KINDS[kind]) for server in self.servers if server.is_running()))
            for kind, before in self.before.items()
        }

    def forget(self, server):
        for kind, metric in self.KINDS.items():
            self.before[kind] += server.metric(metric)


def demo(options, line: SparkLine, progress: Progress, run: Run) -> dict:
    progress.title(f"Preparing (Spark {line.version}" + (f", TPC-H at scale {options.scale})" if options.scale else ")"))
    if options.scale:
        with progress.step(f"TPC-H tables, kept in {places.TARGET / 'tpch'}") as step:
            data = benchmarks.tpch(options.scale)
            step.said = human_bytes(sum(f.stat().st_size for f in data.rglob("*.parquet")))
    store = run.folder("store")
    with progress.step("two servers on loopback, each with a temporary disk, and a folder as object store") as step:
        flags = ("--remote", store.as_uri(), "--write-back-delay", "5s")
        servers = [Server(run, f"server-{n}", flags=flags).start() for n in (1, 2)]
        step.said = " and ".join(server.address for server in servers)
    traffic = Traffic(servers)

    def application(name, with_servers):
        with progress.step("a Spark cluster of two executors, one core each"):
            app = Application(run, line, name, with_servers, SHARED, executor_memory_mib=2048)
            if options.scale:
                app.call("tables", data=str(data))
        return app, Jobs(run, app, progress)

    progress.title("Spark's own shuffle")
    app, spark = application("spark", None)
    queries = QUERIES if options.scale else ()
    for query in queries:
        spark.query(query)
    spark.killed_executor()
    app.stop()

    progress.title("Forebay")
    app, forebay = application("forebay", servers)
    for query in queries:
        forebay.query(query)
    forebay.killed_executor()

    def restart():
        traffic.forget(servers[0])
        servers[0].restart()

    def lose():
        """Its process and its disk, once the servers have written all of the map stage back."""
        time.sleep(1)  # the servers look around four times a second
        backlog = "forebay_writeback_backlog_bytes"
        wait_until(lambda: not any(server.metric(backlog) for server in servers), 90, "the map stage is not written back")
        traffic.forget(servers[0])
        servers[0].kill()
        for data_dir in servers[0].data_dirs:
            shutil.rmtree(data_dir)

    answers = {job["name"].split(",")[0]: job["answer"] for job in spark.done}
    restarts = [{**job, "expected": answers[job["name"].split(",")[0]]} for job in forebay.killed_server(restart)]
    lost = forebay.lost_server(lose)
    lost["expected"] = answers[KINDS["aggregation"]]

    progress.title("Cleaning up")

    def data_files():
        objects = [path for path in store.rglob("*") if path.is_file() and not path.name.endswith("marker")]
        return objects + [path for server in servers for path in server.shuffle_files()]

    with progress.step("the application ends; the servers forget its data") as step:
        app.stop()
        deadline = time.monotonic() + 30
        while data_files() and time.monotonic() < deadline:
            time.sleep(0.05)
        left = data_files()
        step.said = f"{len(left)} files left on them and in the store"
    moved = traffic.now()
    with progress.step("the server that is left ends") as step:
        codes = [server.stop() for server in servers if server.is_running()]
        step.said = "exit codes " + ", ".join(map(str, codes))
        left += [path for path in run.folder("tmp").rglob("*") if path.is_file() and not path.name.startswith(CODECS)]
        alive = run.processes()

    return {
        "results_equal": all(a["answer"] == b["answer"] for a, b in zip(spark.done, forebay.done, strict=True))
        and all(job["answer"] == job["expected"] for job in [*restarts, lost]),
        "spark": spark.summary(),
        "forebay": {
            **forebay.summary(),
            "server_cpu_seconds": round(forebay.cost.server_cpu, 2),
            "maps_rerun_after_server_restart": sum(job["maps_rerun"] for job in restarts),
            "maps_rerun_after_server_loss": lost["maps_rerun"],
            "server_jobs": [*restarts, lost],
        },
        "bytes_through_servers": moved["in"] + moved["out"],
        "bytes_into_servers": moved["in"],
        "bytes_out_of_servers": moved["out"],
        "bytes_written_back": moved["written_back"],
        "bytes_saved_from_upload": moved["saved"],
        "left_files": len(left),
        "left_file_names": [str(path.relative_to(run.dir)) for path in left],
        "left_processes": len(alive),
        "server_exit_codes": codes,
        "server_errors": [error for server in servers for error in server.errors()],
        "two_stage_maps": MAPS,
        "machine": {
            "spark": line.version,
            "tpch_scale": options.scale,
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "commit": commit(),
        },
    }


def commit() -> str:
    """Of the server that ran, or else of the checkout."""
    version = subprocess.run([places.SERVER, "--version"], capture_output=True, text=True, check=False).stdout
    if "unknown" not in version:
        return version.strip()
    said = subprocess.run(["git", "-C", places.ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return said.stdout.strip()


def broken_promises(report: dict) -> list[str]:
    """What was promised and did not hold, each as a sentence."""
    forebay = report["forebay"]
    checks = {
        "an answer differs from Spark's own": not report["results_equal"],
        f"{forebay['maps_rerun']} map tasks ran again after an executor was killed": forebay["maps_rerun"] > 0,
        f"{forebay['maps_rerun_after_server_restart']} map tasks ran again after a server was restarted on its disk": forebay[
            "maps_rerun_after_server_restart"
        ]
        > 0,
        f"{forebay['maps_rerun_after_server_loss']} map tasks ran again after a server was lost whose data were written back": forebay[
            "maps_rerun_after_server_loss"
        ]
        > 0,
        "nothing was written back": report["bytes_written_back"] == 0,
        "killing an executor cost Spark's own shuffle nothing, so this run shows nothing": report["spark"]["maps_rerun"] == 0,
        "no bytes went through the servers": report["bytes_through_servers"] == 0,
        f"{report['left_files']} files were left behind": report["left_files"] > 0,
        f"{report['left_processes']} processes were left behind": report["left_processes"] > 0,
        f"a server ended with exit codes {report['server_exit_codes']}": any(report["server_exit_codes"]),
        f"a server logged an error: {report['server_errors'][:1]}": bool(report["server_errors"]),
    }
    return [text for text, is_broken in checks.items() if is_broken]


def keep_logs(run: Run):
    """After a failure, what was said is worth more than a clean folder."""
    kept = places.TARGET / "demo" / "logs"
    shutil.rmtree(kept, ignore_errors=True)
    for path in run.dir.rglob("*"):
        if path.suffix == ".log" and "data" not in path.parts or path.name in ("stderr", "stdout"):
            to = kept / path.relative_to(run.dir)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
    print(f"logs are kept in {kept}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--spark", default="4.3.0", help="Spark line, installed by setup.sh (default %(default)s)")
    parser.add_argument("--scale", default="1", help="TPC-H scale factor (default %(default)s)")
    parser.add_argument("--parts", type=Path, metavar="DIR", help="forebay-server, forebay and the jar, where they are not those of this checkout")
    options = parser.parse_args()
    if options.parts:
        places.SERVER, places.CLI = options.parts / "forebay-server", options.parts / "forebay"
        places.JAR = options.parts / "forebay-spark.jar"
    for built in (places.SERVER, places.JAR):
        if not built.exists():
            raise Missing(f"{built} is not built: run make build")
    return shown(options, SparkLine(options.spark))


def main_of_package(line: SparkLine) -> int:
    """`forebay demo`: shorter, with the Spark that is installed beside it."""
    parser = argparse.ArgumentParser(prog="forebay demo", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tpch", dest="scale", metavar="SCALE", help="TPC-H queries too, at this scale (1 is 1 GB of text)")
    return shown(parser.parse_args(), line)


def shown(options, line: SparkLine) -> int:
    """The demo with its table, and the exit code."""
    raise_on_signals()
    progress = Progress()
    run = Run("demo")
    try:
        report = demo(options, line, progress, run)
    except BaseException:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not stop the clean-up
        if sys.exc_info()[0] is not KeyboardInterrupt:
            keep_logs(run)
        raise
    finally:
        run.close()
    report["left_files"] += run.dir.exists()
    broken = broken_promises(report)
    report["passed"] = not broken
    folder = places.TARGET / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{table(report)}\n")
    for text in broken:
        print(f"  BROKEN: {text}")
    if not broken:
        print(f"  Every answer is Spark's own, and nothing was computed twice. Details: {folder / 'report.json'}")
    return 1 if broken else 0


def ended(main) -> int:
    """Its exit code; what went wrong is one message."""
    try:
        return main()
    except KeyboardInterrupt as stopped:
        print(f"\nstopped ({stopped or 'Ctrl-C'}); nothing is left running", file=sys.stderr)
        return 130
    except (Missing, CallFailed, RuntimeError, TimeoutError) as failure:
        print(f"\ndemo failed: {failure}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(ended(main))
