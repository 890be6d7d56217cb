"""Spark's own test suites, as published with its releases, on Forebay: every test passes but those in suites/exclusions.txt.

Each suite runs in a JVM of its own with ScalaTest's runner and real servers. The manager is set by system properties; suites
that do not look at them are subclassed (suites/jvm). With --own they run on Spark's own shuffle, to tell what fails there too.
A test that is excluded for the order of its rows has to pass with one server, which has but one order; one that is excluded for the
sizes of blocks has to end as on Spark's own shuffle when nothing is compressed. A run that was cut off goes on with --resume.

Run by `make conformance`. Logs and reports are kept in target/conformance/suites, results in tests/conformance/results (--record).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "spark"))

from harness.places import JAR, SERVER, Missing
from harness.progress import Progress
from harness.run import Run, raise_on_signals
from harness.server import Server
from record import origin, write
from suites import names, outcome
from suites.spark import LINES, SparkTests

PASSED, NOT_RUN = "passed", "it did not run"
LIMIT = 3600  # seconds for a suite; the longest takes some minutes on two idle cores


class Suites:
    """The suites of one line, one after the other."""

    def __init__(self, run: Run, tests: SparkTests, own: bool, resume: bool):
        self.run, self.tests, self.own, self.resume = run, tests, own, resume
        self.servers = [] if own else [Server(run, f"server-{number}").start() for number in (1, 2)]
        self.kept = tests.folder / ("own" if own else "forebay")

    def settings(self, servers: list[Server]) -> dict[str, str]:
        if self.own:
            return {}
        return {
            "spark.shuffle.manager": "io.forebay.spark.ForebayShuffleManager",
            "spark.forebay.servers": ",".join(server.address for server in servers),
            "spark.executor.extraClassPath": f"{JAR}:{self.tests.classes}",
        }

    def go(self, suite: str) -> tuple[outcome.Outcome, int]:
        """What came of it, and how many bytes it sent to the servers."""
        if self.own and suite.startswith("io.forebay."):
            suite = names.OWN[suite]
        reports, known = self.kept / suite, self.kept / f"{suite}.json"
        if self.resume and known.exists() and (before := json.loads(known.read_text()))["of"] == origin()["commit"]:
            return outcome.read(suite, reports, before["ended"]), before["bytes"]
        known.unlink(missing_ok=True)
        bytes_before = self._bytes()
        ended = self._test(suite, reports, self.settings(self.servers))
        sent = self._bytes() - bytes_before
        known.write_text(json.dumps({"of": origin()["commit"], "ended": ended, "bytes": sent}))
        return outcome.read(suite, reports, ended), sent

    def ends(self, suite: str, what: str, settings: dict[str, str], names: list[str]) -> list[str]:
        """How some tests end with other settings: `passed`, or why not."""
        reports, simple = self.kept / f"{suite}.{what}", suite.rpartition(".")[2]
        found = outcome.read(suite, reports, self._test(suite, reports, settings, names))
        passed = dict.fromkeys(found.passed, PASSED)
        return [(found.failed | passed).get(f"{simple} | {name}", NOT_RUN) for name in names]

    def not_for_order(self, suite: str, names: list[str]) -> list[str]:
        """Of these tests, those that do not pass with one server either."""
        ends = self.ends(suite, "one-server", self.settings(self.servers[:1]), names)
        return [f"'{name}' fails with one server too: {end}" for name, end in zip(names, ends, strict=True) if end != PASSED]

    def not_for_sizes(self, suite: str, names: list[str]) -> list[str]:
        """Of these tests, those that end otherwise than on Spark's own shuffle when rows are not compressed."""
        plain = {"spark.shuffle.compress": "false"}
        own = self.ends(suite, "uncompressed-own", plain, names)
        ours = self.ends(suite, "uncompressed", self.settings(self.servers) | plain, names)
        return [
            f"'{name}' without compression: {this}; on Spark's own shuffle: {that}"
            for name, this, that in zip(names, ours, own, strict=True)
            if this != that or this == NOT_RUN
        ]

    def _test(self, suite: str, reports: Path, settings: dict[str, str], only: list[str] = ()) -> str | None:
        """How its JVM ended, if not by itself."""
        shutil.rmtree(reports, ignore_errors=True)
        reports.mkdir(parents=True)
        scratch = self.run.folder("scratch", suite)
        env = {key: value for key, value in os.environ.items() if not key.startswith(("SPARK_", "FOREBAY_", "JAVA_TOOL"))}
        with open(reports.with_name(f"{reports.name}.log"), "wb") as log:
            process = self.run.spawn(
                "suite",
                self.tests.command(suite, only, settings, reports, scratch),
                env=env | self.tests.environment(),
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                return None if process.wait(LIMIT) in (0, 1) else f"the JVM ended with {process.returncode}"
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return f"not done after {LIMIT} s"
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _bytes(self) -> int:
        return sum(server.bytes_in() for server in self.servers)

    def stop(self) -> list[str]:
        """What the servers have to say at the end that they should not."""
        problems = [f"{server.name} ended with exit code {code}" for server in self.servers if (code := server.stop())]
        return problems + [f"{server.name} logged {error}" for server in self.servers for error in server.errors()]


def check_line(version: str, options, progress: Progress) -> dict:
    tests = SparkTests(version)
    progress.title(f"Spark {version}'s own suites on {'its own shuffle' if options.own else 'Forebay'}")
    chosen = [suite for suite in names.of(version) if not options.suites or suite.rpartition(".")[2] in options.suites]
    known = outcome.exclusions(outcome.EXCLUSIONS.read_text(encoding="utf-8"))
    outcomes, per_suite, problems = [], {}, []
    with Run("suites") as run:
        suites = Suites(run, tests, options.own, options.resume)
        for suite in chosen:
            with progress.step(suite) as step:
                result, sent = suites.go(suite)
                outcomes.append(result)
                counts = {"passed": len(result.passed), "failed": len(result.failed), "bytes_into_servers": sent}
                per_suite[suite.rpartition(".")[2]] = counts
                step.said = f"{counts['passed']} passed, {counts['failed']} failed, {sent} bytes into the servers"
            for kind, wrong in (("order", suites.not_for_order), ("sizes", suites.not_for_sizes)):
                names_of_kind = [
                    test.partition(" | ")[2] for test in result.failed if any(e.covers(version, test) and e.kind == kind for e in known)
                ]
                if names_of_kind and not options.own:
                    with progress.step(f"{suite}: {len(names_of_kind)} that are excluded for {kind}"):
                        problems += [f"{suite}: {problem}" for problem in wrong(suite, names_of_kind)]
        problems += suites.stop()
    report = outcome.judge(version, outcomes, known)
    if not options.own:
        problems += [f"{suite} sent nothing to the servers" for suite, counts in per_suite.items() if not counts["bytes_into_servers"]]
    return {"spark": version} | origin() | report | {"problems": problems, "suites": per_suite}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", default=",".join(LINES), help="versions of Spark, comma separated (default: %(default)s)")
    parser.add_argument("--suites", default="", help="only these, by their simple names, comma separated")
    parser.add_argument("--own", action="store_true", help="on Spark's own shuffle, to see what fails there too")
    parser.add_argument("--resume", action="store_true", help="take the outcome of suites that this commit has run already")
    parser.add_argument("--record", action="store_true", help="write the results into tests/conformance/results")
    options = parser.parse_args()
    options.suites = set(filter(None, options.suites.split(",")))
    if not (SERVER.exists() and JAR.exists()):
        raise Missing(f"{SERVER} or {JAR} is not built: run make build")
    raise_on_signals()
    progress = Progress()
    failed = False
    for version in options.lines.split(","):
        report = check_line(version, options, progress)
        name = f"suites-{version}{'-own' if options.own else ''}.json"
        write(name, report, options.record and not options.own and not options.suites)
        shown = {key: value for key, value in report.items() if key != "suites"}
        print(f"\n{json.dumps(shown, indent=2)}", flush=True)
        failed |= bool(report["failed"] or report["excluded_but_passed"] or report["problems"])
    print("\n" + ("NOT every test ended as expected" if failed else "every test ended as expected"))
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Missing as missing:
        sys.exit(str(missing))
