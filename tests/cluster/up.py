#!/usr/bin/env python3
"""A Kubernetes to try things on: comes up, says how to get in, and goes with Ctrl-C (or with this process, however it ends).

./setup.sh --spark 4.3.0 --disks --cluster -- python tests/cluster/up.py [--nodes N] [COMMAND…]

With a command it is run inside the cluster's network, with kubectl and helm on its path and this machine's files; its end is
the cluster's. Forebay's image is there as localhost/forebay:1, the one of tests for Spark as localhost/spark:1.
"""

import argparse
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "spark")]

from harness.places import SERVER, Missing, SparkLine  # noqa: E402
from harness.run import Run, raise_on_signals  # noqa: E402
from kube import forebay, spark  # noqa: E402
from kube.cluster import Cluster  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2, help="1 to 9 (default 2)", choices=range(1, 10), metavar="N")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND…")
    wanted = parser.parse_args()
    if reason := Cluster.missing():
        sys.exit(f"up: {reason}")
    raise_on_signals()
    with Run("cluster") as run:
        cluster = Cluster(run, wanted.nodes)
        if SERVER.exists():
            forebay.image(cluster.images / "forebay-1.tar", "1")
        else:
            print("without Forebay's image: it is not built (make build)")
        try:
            spark.image(run, SparkLine("4.3.0"), cluster.images / "spark.tar")
        except Missing as missing:
            print(f"without an image for Spark: {missing}")
        cluster.start()
        cluster.apply(spark.ACCOUNT)
        if wanted.command:
            return subprocess.run([cluster.enter, *wanted.command], check=False).returncode
        print(f"up: {cluster.enter} kubectl get nodes\n    helm and any other program likewise; Ctrl-C ends it", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        pass
