#!/usr/bin/env python3
"""The version of everything that is in this repository. It is in Cargo.toml; a few files must repeat it.

    version.py                 prints it
    version.py --set 0.2.0     writes it into Cargo.toml and all files that repeat it (`make version V=0.2.0`)
    version.py --check         names each place that tells another version; exit code 1 if there is one

--check reads every file that git knows, so that a place which nobody thought of is found too.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NUMBER = r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.]+)?"
WORKSPACE = re.compile(rf'(\[workspace\.package\]\nversion = ")({NUMBER})(")')
# How one of our versions looks in any file. Each has the version as its second group.
PLACES = [
    # images, archives, charts and coordinates: forebay:V, forebay-spark-V.jar, io.forebay:forebay-spark:V, forebay==V
    re.compile(rf"(\bforebay(?:-server|-spark|-bench|-core|-parent)?(?::v?|-v?|==))({NUMBER})\b()"),
    # Maven: of our own group only
    re.compile(rf"(<groupId>io\.forebay</groupId>\s*<artifactId>[a-z-]+</artifactId>\s*<version>)({NUMBER})(</version>)"),
    # Kubernetes labels of ours, and the chart
    re.compile(rf"(app\.kubernetes\.io/version: \"?)({NUMBER})\b()"),
]
JAR = re.compile(rf'(\bVERSION = ")({NUMBER})(")')  # the check that jar and native library belong together
CHART = re.compile(rf'(^(?:appVersion|version): "?)({NUMBER})\b()', re.M)
CRATE = re.compile(rf'(^name = "shuffle-[a-z]+"\nversion = ")({NUMBER})(")', re.M)
# What tells of the past, or of other people's versions.
LEFT_OUT = ("benches/results/", "tests/conformance/results/", "CHANGELOG.md")


def version() -> str:
    found = WORKSPACE.search((ROOT / "Cargo.toml").read_text())
    if not found:
        raise SystemExit("version.py: Cargo.toml has no version below [workspace.package]")
    return found.group(2)


def patterns(name: str) -> list[re.Pattern]:
    if name == "Cargo.toml":
        return [WORKSPACE]
    if name == "Cargo.lock":
        return [CRATE]
    if name.endswith("/NativeLibrary.java"):
        return [JAR, *PLACES]
    if name.startswith("deploy/helm/") and name.endswith("Chart.yaml"):
        return [CHART, *PLACES]
    return PLACES


def files() -> list[str]:
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z"], capture_output=True, check=True, text=True
    )
    return [name for name in listed.stdout.split("\0") if name and not name.startswith(LEFT_OUT)]


def texts():
    for name in files():
        try:
            yield name, (ROOT / name).read_text()
        except (UnicodeDecodeError, IsADirectoryError, FileNotFoundError):
            continue  # a picture, or a file that is removed


def differing(wanted: str) -> list[str]:
    """`file:line: what it says` for each place that tells another version."""
    found = []
    for name, text in texts():
        for pattern in patterns(name):
            for match in pattern.finditer(text):
                if match.group(2) != wanted:
                    line = text.count("\n", 0, match.start(2)) + 1
                    found.append(f"{name}:{line}: {' '.join(match.group(0).split())}")
    return found


def write(wanted: str):
    for name, text in texts():
        fresh = text
        for pattern in patterns(name):
            fresh = pattern.sub(rf"\g<1>{wanted}\g<3>", fresh)
        if fresh != text:
            (ROOT / name).write_text(fresh)
            print(f"{name}: {wanted}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", metavar="VERSION")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.set:
        if not re.fullmatch(NUMBER, options.set):
            parser.error(f"--set is {options.set!r}: write three numbers, as in 0.2.0")
        write(options.set)
        return 0
    if options.check:
        found = differing(version())
        for place in found:
            print(f"{place}, and Cargo.toml says {version()}", file=sys.stderr)
        return 1 if found else 0
    print(version())
    return 0


if __name__ == "__main__":
    sys.exit(main())
