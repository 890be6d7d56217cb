"""Other JVMs than the one of the build: `FOREBAY_TEST_JDKS` names their folders, with a colon in between; those of /usr/lib/jvm are
tried by themselves."""

import os
import re
from pathlib import Path

import pytest

from conftest import SHARED
from harness.application import Application

pytestmark = pytest.mark.long


def version(jdk: Path) -> int:
    found = re.search(r'JAVA_VERSION="(?:1\.)?(\d+)', (jdk / "release").read_text())
    return int(found[1])


def jdks() -> dict[int, Path]:
    named = [Path(name) for name in os.environ.get("FOREBAY_TEST_JDKS", "").split(":") if name]
    installed = [path for path in sorted(Path("/usr/lib/jvm").glob("*")) if not path.is_symlink()]
    return {version(jdk): jdk for jdk in [*installed, *named] if (jdk / "release").exists() and (jdk / "bin" / "java").exists()}


OTHERS = {number: jdk for number, jdk in jdks().items() if number != 17}
# What a line can do by itself.
RUNS_ON = {"3.5.9": {8, 11, 21}, "4.3.0": {21, 25}}


@pytest.mark.parametrize("number", [8, 11, 21, 25])
def test_answers_on_other_versions_of_java(run, line, servers, own_answer, number):
    if number not in RUNS_ON[line.version] or number not in OTHERS:
        pytest.skip(f"Spark {line.version} does not run on Java {number}, or it is not here: see FOREBAY_TEST_JDKS")
    app = Application(run, line, f"java-{number}-{line.version}", servers, SHARED, java=OTHERS[number])
    for view in ("groups", "skew"):
        assert app.call("digest", view=view)["digest"] == own_answer("digest", view=view)["digest"]
    job = {"job": "groupWithJavaSerializer", "records": 40_000}
    assert app.call("pairs", **job) == own_answer("pairs", **job)
    app.stop()


@pytest.mark.skipif(not any(number >= 24 for number in OTHERS), reason="no Java 24 or newer here: see FOREBAY_TEST_JDKS")
def test_native_access_that_is_denied_is_allowed_by_sparks_own_options(run, newest, servers):
    """Its launcher says --enable-native-access=ALL-UNNAMED for the driver and for executors; what is said without: NativeLibraryTest."""
    denied = {f"spark.{role}.extraJavaOptions": "--illegal-native-access=deny" for role in ("driver", "executor")}
    app = Application(run, newest, "denied", servers, SHARED | denied, java=OTHERS[max(OTHERS)])
    assert app.call("tagged", base=0) == [1000, 0, 999, 499_500]
    app.stop()
