"""`forebay demo`: the demo of Forebay's own repository, on the Spark that is installed beside this package."""

import os
import shutil
import sys
from pathlib import Path

import forebay

# The repository's tests/spark, as far as the demo needs it.
SCENES = Path(__file__).resolve().parent / "_demo"
JAVA = "install a Java 17 runtime (Spark 3.5: 8 or newer), or: pip install install-jdk && python -c 'import jdk; print(jdk.install(\"17\"))'"


def main() -> int:
    try:
        import pyspark
    except ImportError:
        return _missing("Spark is not installed here: pip install 'forebay[demo]', or the version that you use: pip install pyspark==3.5.9")
    java = os.environ.get("JAVA_HOME")
    if not (java and os.access(Path(java, "bin", "java"), os.X_OK)) and not shutil.which("java"):
        return _missing(f"there is no Java, which Spark needs: {JAVA}")
    sys.path.insert(0, str(SCENES))
    from harness import places

    places.SERVER = forebay.program("forebay-server")
    places.CLI = forebay.program("forebay")
    places.JAR = forebay.jar()
    places.TARGET = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forebay" / "demo"
    import demo

    line = places.SparkLine.of_package(pyspark.__version__, sys.executable, Path(pyspark.__file__).parent, SCENES / "jobs.jar")
    return demo.ended(lambda: demo.main_of_package(line))


def _missing(what: str) -> int:
    print(f"forebay demo: {what}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
