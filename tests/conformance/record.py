"""Where the results of conformance runs go, and what says which code they are of."""

import datetime
import json
import subprocess
from pathlib import Path

from harness.places import ROOT, TARGET

RESULTS = Path(__file__).resolve().parent / "results"


PRODUCT = ("Cargo.toml", "Cargo.lock", "proto", "shuffle-client", "shuffle-server", "jvm-bridge")


def origin() -> dict:
    """The day, and the last commit that changed what is tested, marked if the checkout differs from it."""

    def git(*words: str) -> str:
        said = subprocess.run(["git", "-C", str(ROOT), *words, "--", *PRODUCT], capture_output=True, text=True, check=False)
        return said.stdout.strip()

    changed = git("status", "--porcelain")
    return {
        "commit": (git("log", "-1", "--format=%h", "--abbrev=12") or "unknown") + ("-dirty" if changed else ""),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def write(name: str, report: dict, keep: bool):
    """Into target/conformance, and into the results that are kept if asked to."""
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    folders = [TARGET / "conformance", *([RESULTS] if keep else [])]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
