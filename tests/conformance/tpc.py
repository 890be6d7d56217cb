"""All of TPC-H and TPC-DS on Spark's own shuffle and on Forebay, on each line of Spark: every answer must be the same.

For each line and benchmark a cluster of two executor processes answers all queries on Forebay, with two server processes. On one line
its executors are killed meanwhile, one at a time, at random moments. The answers are held against those that the newest line gave on
its own shuffle, and where they differ against those of the same line, so that half of the time is not spent on asking Spark the same.

Run by `make conformance`. Answers are kept in target/conformance, results in tests/conformance/results (with --record).
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "spark"))

from harness import answers, benchmarks, places
from harness.application import Application, CallFailed
from harness.places import Missing, SparkLine
from harness.progress import Progress
from harness.run import Run, raise_on_signals, wait_until
from harness.server import Server
from killer import Killer
from record import origin, write

LINES = "3.5.9,4.0.5,4.1.4,4.2.1,4.3.0"
CONF = benchmarks.DIALECT | {
    "spark.sql.autoBroadcastJoinThreshold": "1m",  # so that joins shuffle, as they would at larger scale
    "spark.sql.files.maxPartitionBytes": "16m",  # so that a stage has more than one or two map tasks
    "spark.sql.shuffle.partitions": "64",
}
EXECUTOR_MIB = 1536
OWN, FOREBAY = "spark", "forebay"
NAMES = {OWN: "Spark's own shuffle", FOREBAY: "Forebay"}


class Pass:
    """All queries once, on one cluster."""

    def __init__(self, run: Run, line: SparkLine, benchmark: str, manager: str, options, progress: Progress, queries=None):
        self.run, self.line, self.benchmark, self.manager = run, line, benchmark, manager
        self.options, self.progress = options, progress
        texts = options.texts[benchmark]
        self.texts = {query: texts[query] for query in texts if queries is None or query in queries}
        self.answers = places.TARGET / "conformance" / benchmark / line.version / manager
        self.answers.mkdir(parents=True, exist_ok=True)
        self.failed: dict[str, str] = {}  # query: why it gave no answer
        self.seconds: dict[str, float] = {}
        self.facts: dict = {}
        self.problems: list[str] = []

    def go(self) -> "Pass":
        servers = []
        if self.manager == FOREBAY:
            servers = [Server(self.run, f"{self.manager}-{number}").start() for number in (1, 2)]
        app = Application(self.run, self.line, self.manager, servers or None, CONF, EXECUTOR_MIB)
        app.call("views", data=str(benchmarks.TABLES[self.benchmark](self.options.scale)))
        began = time.monotonic()
        if self.manager == FOREBAY and self.line.version == self.options.kill_on:
            with Killer(app, self.options.seed) as killer:
                self._queries(app)
            self._kills(app, killer)
        else:
            self._queries(app)
        self.facts["seconds"] = round(time.monotonic() - began)
        if servers:
            self._servers(app, servers)
        else:
            app.stop()
        return self

    def _queries(self, app):
        for query, text in self.texts.items():
            path = self.path(query)
            path.unlink(missing_ok=True)
            with self.progress.step(f"{self.benchmark} {query} on {NAMES[self.manager]}") as step:
                try:
                    answer = app.call("answer", text=text, path=str(path), timeout=1800)
                    self.seconds[query] = answer["seconds"]
                    step.said = f"{answer['rows']} rows in {answer['seconds']:.1f} s"
                except CallFailed as failure:
                    self.failed[query] = str(failure)
                    step.said = "NO ANSWER"

    def _kills(self, app, killer):
        self.facts |= {"seed": self.options.seed, "executors_killed": killer.killed, "maps_rerun": app.maps_rerun().total()}
        if killer.killed == 0:
            self.problems.append("no executor was killed: the run was too short")
        if killer.failure:
            self.problems.append(f"killing executors ended early: {killer.failure}")
        if self.facts["maps_rerun"]:
            self.problems.append(f"{self.facts['maps_rerun']} map tasks ran again for executors that were killed")

    def _servers(self, app, servers):
        self.facts["bytes_into_servers"] = sum(server.bytes_in() for server in servers)
        if not self.facts["bytes_into_servers"]:
            self.problems.append("nothing went over the servers")
        app.stop()
        try:
            wait_until(lambda: not any(server.shuffle_files() for server in servers), 30, "an application that ended left its files")
        except TimeoutError as left:
            self.problems.append(str(left))
        for server in servers:
            code = server.stop()
            if code:
                self.problems.append(f"{server.name} ended with exit code {code}")
            self.problems += [f"{server.name} logged {error}" for error in server.errors()]

    def path(self, query: str) -> Path:
        return self.answers / f"{query}.jsonl"


class Own:
    """What Spark answers on its own shuffle: of the line of reference, and of another where that was asked again."""

    def __init__(self, first: Pass):
        self.failed, self.seconds = dict(first.failed), dict(first.seconds)
        self.paths = {query: first.path(query) for query in first.seconds}

    def overrule(self, again: Pass):
        for query in again.texts:
            self.failed.pop(query, None)
            self.seconds.pop(query, None)
        self.failed |= again.failed
        self.seconds |= again.seconds
        self.paths |= {query: again.path(query) for query in again.seconds}


def compare(theirs: Own, ours: Pass) -> dict:
    """The facts of a pass on Forebay, held against Spark's own."""
    different, inexact, worst, rows = {}, {}, 0.0, 0
    for query in theirs.seconds:
        if query not in ours.seconds:
            continue
        own = answers.read(theirs.paths[query])
        result = answers.compare(own, answers.read(ours.path(query)))
        rows += len(own)
        if result.difference:
            different[query] = result.difference
        elif result.inexact:
            inexact[query] = result.inexact
            worst = max(worst, result.worst)
    failed = {query: reason.strip().splitlines()[-1] for query, reason in (theirs.failed | ours.failed).items()}
    same = len(theirs.seconds.keys() & ours.seconds.keys()) - len(different)
    return {
        "queries": len(theirs.seconds) + len(theirs.failed),
        "same": same,
        "rows": rows,
        "doubles_that_differ_in_last_bits": inexact,
        "largest_relative_difference": worst,
        "different": different,
        "no_answer": failed,
        "problems": ours.problems,
    } | ours.facts


def ask(benchmark: str, options, progress: Progress) -> Pass:
    """The line of reference on Spark's own shuffle; as it was kept if nothing has changed."""
    with Run("conformance") as run:
        reference = Pass(run, SparkLine(options.reference), benchmark, OWN, options, progress)
        asked = {"scale": options.scale, "settings": CONF, "texts": reference.texts}
        kept = reference.answers / "asked.json"
        if kept.exists():
            known = json.loads(kept.read_text(encoding="utf-8"))
            if known["asked"] == asked:
                reference.failed, reference.seconds, reference.facts = known["failed"], known["seconds"], known["facts"]
                return reference
            kept.unlink()
        progress.title(f"{benchmark} on Spark {options.reference}, which the others are held against")
        reference.go()
        known = {"asked": asked, "failed": reference.failed, "seconds": reference.seconds, "facts": reference.facts}
        kept.write_text(json.dumps(known), encoding="utf-8")
        return reference


def check(line: SparkLine, benchmark: str, reference: Pass, options, progress: Progress) -> dict:
    report = {"spark": line.version, "benchmark": benchmark} | origin() | {"scale": options.scale, "settings": CONF}
    report["reference"] = reference.line.version
    progress.title(f"{benchmark} on Spark {line.version}")
    with Run("conformance") as run:
        theirs = Own(reference)
        ours = Pass(run, line, benchmark, FOREBAY, options, progress).go()
        found = compare(theirs, ours)
        again = found["different"].keys() | found["no_answer"].keys()
        if again and line.version != reference.line.version:
            theirs.overrule(Pass(run, line, benchmark, OWN, options, progress, again).go())
            found = compare(theirs, ours) | {"asked_of_this_line": sorted(again)}
    report |= {"spark_seconds": reference.facts["seconds"]} | found
    print(f"\n{json.dumps(report, indent=2)}", flush=True)
    for query, reason in ours.failed.items():
        print(f"\n{benchmark} {query} on Forebay:\n{reason}", flush=True)
    return report


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", default=LINES, help="versions of Spark, comma separated (default: %(default)s)")
    parser.add_argument("--reference", default="4.3.0", metavar="LINE", help="line whose own answers count (default: %(default)s)")
    parser.add_argument("--kill-on", default="4.3.0", metavar="LINE", help="line on which executors are killed (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments of the kills and of who is killed")
    parser.add_argument("--scale", default="1", help="GB of each benchmark (default: %(default)s)")
    parser.add_argument("--benchmarks", default="tpch,tpcds", help="comma separated (default: %(default)s)")
    parser.add_argument("--queries", default="", help="only these, comma separated: q5,q64")
    parser.add_argument("--record", action="store_true", help="write the results into tests/conformance/results")
    options = parser.parse_args()
    wanted = set(filter(None, options.queries.split(",")))
    options.texts = {
        benchmark: {name: text for name, text in benchmarks.queries(benchmark).items() if not wanted or name in wanted}
        for benchmark in options.benchmarks.split(",")
    }
    return options


def main():
    options = arguments()
    raise_on_signals()
    progress = Progress()
    lines = [SparkLine(version) for version in options.lines.split(",")]
    failed = False
    for benchmark in options.texts:
        reference = ask(benchmark, options, progress)
        for line in lines:
            report = check(line, benchmark, reference, options, progress)
            write(f"{benchmark}-{line.version}.json", report, options.record)
            failed |= bool(report["different"] or report["no_answer"] or report["problems"])
    print("\n" + ("NOT every answer was Spark's own" if failed else "every answer was Spark's own"))
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Missing as missing:
        sys.exit(str(missing))
