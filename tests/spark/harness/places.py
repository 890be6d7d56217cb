"""Where things are: the checkout, what was built in it, the cache that `setup.sh` fills."""

import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CACHE = Path(
    os.environ.get("FOREBAY_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forebay"
)
SERVER = TARGET / "release" / "forebay-server"
CLI = TARGET / "release" / "forebay"
BENCH = TARGET / "release" / "forebay-bench"
JAR = ROOT / "jvm-bridge" / "target" / "forebay-spark.jar"


class Missing(Exception):
    """Something that a command of the person who runs this would provide; the message names both."""


class SparkLine:
    """One installed version of Spark: its Python, its jars, and our small Java jobs compiled against them."""

    def __init__(self, version: str):
        self.version = version
        self.python = CACHE / f"pyspark-{version}" / "bin" / "python"
        homes = list((CACHE / f"pyspark-{version}" / "lib").glob("python3*/site-packages/pyspark"))
        if not self.python.exists() or not homes:
            raise Missing(f"Spark {version} is not installed: run ./setup.sh --spark {version}")
        self.home = homes[0]

    @classmethod
    def of_package(cls, version: str, python: str, home: Path, jobs: Path) -> "SparkLine":
        """What is installed beside the Python package of Forebay, whose wheel has the demo's Java compiled."""
        line = cls.__new__(cls)
        line.version, line.python, line.home = version, Path(python), home
        line.jobs_jar = lambda: jobs
        return line

    def jobs_jar(self) -> Path:
        """The Java jobs of `jvm/`, compiled once per line, for the oldest Java that it is tried on, and again when a source is newer."""
        sources = sorted((HERE / "jvm").rglob("*.java"))
        jar = TARGET / "spark-jobs" / f"jobs-{self.version}.jar"
        if jar.exists() and jar.stat().st_mtime > max(s.stat().st_mtime for s in sources):
            return jar
        classes = jar.with_suffix(".classes")
        classes.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["javac", "--release", "11" if self.version < "4" else "17", "-nowarn", "-proc:none", "-cp", f"{self.home}/jars/*", "-d", classes, *sources],
            check=True,
            stderr=subprocess.PIPE,
        )
        fresh = jar.with_suffix(f".{os.getpid()}")
        subprocess.run(["jar", "--create", "--file", fresh, "-C", classes, "."], check=True)
        fresh.rename(jar)
        return jar


def comet_jar() -> Path:
    """Apache DataFusion Comet, of the version and for the line that Forebay is tested with."""
    found = sorted((CACHE / "comet").glob("comet-spark-spark4.1_2.13-*.jar"))
    if not found:
        raise Missing("Comet is not in the cache: run ./setup.sh --comet")
    return found[-1]
