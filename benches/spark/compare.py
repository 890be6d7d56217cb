"""Forebay beside Spark's own sort shuffle: the same rows, in one run, round by round.

Rows are nine longs that do not compress (an UnsafeRow of 80 bytes). CPU is that of every process that takes part: driver,
executors, servers. Walls on a shared machine are noisy; CPU seconds and the ratio within a round are what to quote.

Run with the Python that setup.sh prepares: `make bench-spark ARGS="--rows 30000000 --shapes 200x201,1000x1000 --rounds 3"`.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "spark"))

from harness.application import Application
from harness.places import ROOT, SparkLine
from harness.run import Run, raise_on_signals
from harness.server import Server

SERVERS = 2


def measure(line, manager, shape, rows, memory):
    """One application: a small job to warm up, then the measured one. Fresh processes each time, so nothing carries over."""
    maps, reduces = shape
    with Run("bench") as run:
        servers = []
        if manager == "forebay":
            servers = [Server(run, f"server-{i}", memory=memory).start() for i in range(SERVERS)]
        app = Application(run, line, manager, servers or None, {"spark.sql.adaptive.enabled": "false"}, 4096)
        app.call("rows", rows=200_000, maps=20, reduces=20)
        cpu = {role: run.cpu_seconds(role) for role in (app.role, "server")}
        start = time.monotonic()
        answer = app.call("rows", rows=rows, maps=maps, reduces=reduces, timeout=900)
        wall = time.monotonic() - start
        spent = {role: run.cpu_seconds(role) - before for role, before in cpu.items()}
        result = {
            "answer": answer,
            "wall_seconds": wall,
            "cpu_seconds": sum(spent.values()),
            "server_cpu_seconds": spent["server"],
        }
        app.stop()
        for server in servers:
            server.stop()
        return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=30_000_000)
    parser.add_argument("--shapes", default="200x201,1000x1000", help="maps x reduces, comma separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spark", default="4.3.0")
    parser.add_argument("--server-memory", default="2GiB")
    parser.add_argument("--json", type=Path, default=ROOT / "target" / "bench" / "spark.json")
    args = parser.parse_args()
    raise_on_signals()
    line = SparkLine(args.spark)
    report = {"rows": args.rows, "spark": args.spark, "shapes": {}}
    for text in args.shapes.split(","):
        shape = tuple(int(n) for n in text.split("x"))
        rounds = []
        for number in range(args.rounds):
            order = ["spark", "forebay"] if number % 2 == 0 else ["forebay", "spark"]
            pair = {manager: measure(line, manager, shape, args.rows, args.server_memory) for manager in order}
            if pair["spark"]["answer"] != pair["forebay"]["answer"]:
                sys.exit(f"{text}: answers differ: {pair}")
            rounds.append(pair)
            spark, forebay = pair["spark"], pair["forebay"]
            print(
                f"{text} round {number + 1}: Spark {spark['cpu_seconds']:.1f} CPU s, {spark['wall_seconds']:.1f} s"
                f" | Forebay {forebay['cpu_seconds']:.1f} CPU s (servers {forebay['server_cpu_seconds']:.1f}),"
                f" {forebay['wall_seconds']:.1f} s | ratio {forebay['cpu_seconds'] / spark['cpu_seconds']:.2f} CPU,"
                f" {forebay['wall_seconds'] / spark['wall_seconds']:.2f} wall",
                flush=True,
            )
        ratio = {
            key: statistics.median(r["forebay"][key] / r["spark"][key] for r in rounds) for key in ("cpu_seconds", "wall_seconds")
        }
        report["shapes"][text] = {"rounds": rounds, "median_ratio": ratio}
        print(f"{text}: median ratio {ratio['cpu_seconds']:.2f} CPU, {ratio['wall_seconds']:.2f} wall", flush=True)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {args.json}")


if __name__ == "__main__":
    main()
