"""Writes README's section of numbers from `benches/results`: the newest file of each kind, so that no figure is typed by hand.

`python benches/readme_numbers.py` rewrites the section, `--check` only says whether it is what the results say.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benches" / "results"
BEGINS, ENDS = "<!-- numbers: written by benches/readme_numbers.py from benches/results -->\n", "<!-- numbers end -->"
ROWS, PEERS, BLOCKS = "spark-rows*", "peers", "push-fetch"


def newest(kind: str) -> Path:
    """The last `<date>-<kind>.json`: names begin with the date."""
    found = sorted(RESULTS.glob(f"????-??-??-{kind}.json"))
    if not found:
        raise SystemExit(f"benches/results has no <date>-{kind}.json")
    return found[-1]


def link(path: Path) -> str:
    return f"[{path.name}](benches/results/{path.name})"


def rows_table(path: Path, peers_path: Path) -> list[str]:
    result, peers = json.loads(path.read_text()), json.loads(peers_path.read_text())
    lines = [
        "Rows through a shuffle, beside Spark's own, both in one run: CPU seconds of driver, executors and servers together, and time, as a",
        "share of what Spark's own shuffle took (median of the rounds' ratios; under 1 is less).",
        "",
        "| maps × reduces | Forebay: CPU | Forebay: time | Celeborn: CPU | time | Uniffle: CPU | time |",
        "|---|---|---|---|---|---|---|",
    ]
    for shape, measured in result["shapes"].items():
        rounds = measured["rounds"]
        ratio = {
            figure: statistics.median(r["forebay"][figure] / r["spark"][figure] for r in rounds)
            for figure in ("cpu_seconds", "wall_seconds")
        }
        others = [
            f"{peers['shapes'][shape][peer][figure]:.2f}" if shape in peers["shapes"] else ""
            for peer in ("celeborn", "uniffle")
            for figure in ("cpu_ratio", "wall_ratio")
        ]
        maps, reduces = shape.split("x")
        cells = [f"{maps} × {reduces}", f"**{ratio['cpu_seconds']:.2f}**", f"**{ratio['wall_seconds']:.2f}**", *others]
        lines.append(f"| {' | '.join(cells)} |")
    millions = result["rows"] / 1e6
    lines += [
        "",
        f"Spark {result['spark']}, {millions:.0f} million rows of 80 bytes that do not compress, two servers at level `disk`, everything on one machine with",
        f"2 cores ({link(path)}, `make bench-spark`). The peers were measured with another program,",
        f"each beside Spark's own shuffle on {peers['rows'] / 1e6:.0f} million rows, with one server ({link(peers_path)}).",
    ]
    return lines


def blocks_table(path: Path) -> list[str]:
    runs = json.loads(path.read_text())["runs"]
    lines = [
        "Bytes between client and server, beside the same bytes over raw TCP in the same run, in CPU seconds per 10⁹ bytes:",
        "",
        "| | level | Forebay | raw TCP | ratio | commit p50 / p99 |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        summary, latency = run["summary"], run.get("commit_latency")
        told = f"{latency['p50_ms']:.0f} / {latency['p99_ms']:.0f} ms" if latency else ""
        source = "" if run["kind"] == "push" else f" from {run.get('from') or 'server'}"
        lines.append(
            f"| {run['kind']}{source}, blocks of {run['block_bytes'] // 1024} KiB | `{run['durability']}` "
            f"| {summary['cpu_seconds_per_gb']:.2f} | {summary['tcp_cpu_seconds_per_gb']:.2f} | {summary['cpu_ratio_to_tcp']:.1f} | {told} |"
        )
    lines += ["", f"{link(path)}, `make bench`. What is counted and how: [benches/README.md](benches/README.md)."]
    return lines


def section() -> str:
    parts = [*rows_table(newest(ROWS), newest(PEERS)), "", *blocks_table(newest(BLOCKS))]
    return "\n".join(["", *parts, "", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if README differs")
    args = parser.parse_args()
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGINS, 1)
    after = rest.split(ENDS, 1)[1]
    text = before + BEGINS + section() + ENDS + after
    if text == readme.read_text():
        return
    if args.check:
        sys.exit("README.md's numbers are not those of benches/results: run python benches/readme_numbers.py")
    readme.write_text(text)


if __name__ == "__main__":
    main()
