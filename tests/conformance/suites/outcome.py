"""What a suite's run came to, and what of it was expected."""

import xml.etree.ElementTree as xml
from dataclasses import dataclass, field
from pathlib import Path

EXCLUSIONS = Path(__file__).resolve().parent / "exclusions.txt"


@dataclass
class Outcome:
    """Of one suite. Tests are named by the suite's simple name, a blank bar, and their own name: "FailureSuite | a test"."""

    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # with the first line of the reason
    skipped: list[str] = field(default_factory=list)


def read(suite: str, reports: Path, ended: str | None) -> Outcome:
    """`ended` says how the JVM ended if it did not end by itself. A suite that left no report or no tests has failed as a whole."""
    simple, outcome = suite.rpartition(".")[2], Outcome()
    for path in sorted(reports.glob("TEST-*.xml")):
        for case in xml.parse(path).getroot().iter("testcase"):
            name = f"{simple} | {case.get('name')}"
            problem = next((child for child in case if child.tag in ("failure", "error")), None)
            if problem is not None:
                outcome.failed[name] = first_line(problem.get("message") or problem.text or problem.get("type") or "")
            elif case.find("skipped") is not None:
                outcome.skipped.append(name)
            else:
                outcome.passed.append(name)
    if ended or not (outcome.passed or outcome.failed):
        outcome.failed[f"{simple} | (the suite)"] = ended or "no test ran: see the log"
    return outcome


def first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:300]


# Of exclusions: the first two are checked by running the test again.
KINDS = ("order", "sizes", "sometimes")


@dataclass
class Exclusion:
    lines: list[str]  # of Spark; empty for all
    test: str  # as in Outcome
    reason: str

    @property
    def kind(self) -> str:
        """`order`, `sizes` or `sometimes`, or nothing: what the file itself says of these words."""
        word, colon, _ = self.reason.partition(": ")
        return word if colon and word in KINDS else ""

    @property
    def may_pass(self) -> bool:
        return self.kind in ("order", "sometimes")

    def covers(self, version: str, test: str) -> bool:
        return test == self.test and (not self.lines or version in self.lines)


def exclusions(text: str) -> list[Exclusion]:
    """A line each: `lines of Spark or * | Suite | test | reason`; # begins a comment. A test that fails on Forebay and is meant to."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split(" | ")]
        if len(parts) != 4 or not all(parts):
            raise ValueError(f"{EXCLUSIONS}:{number}: write `lines | Suite | test | reason`")
        lines, suite, test, reason = parts
        found.append(Exclusion([] if lines == "*" else lines.split(","), f"{suite} | {test}", reason))
    return found


def judge(version: str, outcomes: list[Outcome], known: list[Exclusion]) -> dict:
    """Failures that nobody expected, expected ones that did not come, and those that did with their reasons."""
    unexpected, excluded, needless = {}, {}, []
    for outcome in outcomes:
        for test, message in outcome.failed.items():
            reason = next((e.reason for e in known if e.covers(version, test)), None)
            if reason is None:
                unexpected[test] = message
            else:
                excluded[test] = reason
        needless += [test for test in outcome.passed if any(e.covers(version, test) and not e.may_pass for e in known)]
    return {
        "passed": sum(len(outcome.passed) for outcome in outcomes),
        "skipped_by_spark": sum(len(outcome.skipped) for outcome in outcomes),
        "excluded": excluded,
        "failed": unexpected,
        "excluded_but_passed": needless,
    }
