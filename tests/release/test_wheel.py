"""The wheel, made of this machine's own build and installed in an empty environment: the package of a release has the same files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CACHE = Path(os.environ.get("FOREBAY_CACHE") or Path.home() / ".cache/forebay")
SPARK = "4.3.0"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    programs = folder / "programs"
    programs.mkdir()
    for name in ("forebay", "forebay-server", "forebay-bench"):  # a release's have no debug information either
        subprocess.run(["strip", "--strip-debug", "-o", programs / name, TARGET / "release" / name], check=True)
    subprocess.run([sys.executable, ROOT / "deploy/release/components.py", "notices", folder / "THIRD-PARTY.txt"], check=True)
    jars = next((CACHE / f"pyspark-{SPARK}").glob("lib/python3*/site-packages/pyspark/jars"))
    arguments = ["linux_x86_64", programs, ROOT / "jvm-bridge/target/forebay-spark.jar", folder / "THIRD-PARTY.txt", jars, folder]
    subprocess.run([ROOT / "deploy/release/wheel.sh", *arguments], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def venv(wheel, tmp_path_factory) -> Path:
    """An environment with nothing but the wheel in it: it depends on nothing."""
    folder = tmp_path_factory.mktemp("venv") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin/pip", "install", "--quiet", "--no-index", "--disable-pip-version-check", wheel], check=True)
    return folder


@pytest.fixture
def own(tmp_path) -> dict:
    """An environment in which a run leaves everything that it leaves in one folder."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("FOREBAY_")}
    return {**env, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}


def python(venv: Path, code: str, env: dict) -> str:
    done = subprocess.run([venv / "bin/python", "-c", code], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def processes(folder: Path) -> list[str]:
    """What runs with the folder among its arguments."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.startswith(os.fsencode(f"{folder}/")) for word in command):
            found.append(b" ".join(command).decode())
    return found


@contextmanager
def typed(command: list, **options):
    """A program as a person starts it; a test that fails does not wait for it for ever."""

    def as_a_terminal_does():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored is inherited, from nohup for one, and heeded

    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=as_a_terminal_does, **options) as running:
        try:
            yield running
        finally:
            running.kill()


def until_gone(folder: Path):
    deadline = time.monotonic() + 90
    while (left := [*folder.iterdir(), *processes(folder)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def test_it_holds_programs_jar_package_and_licences(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        jar = archive.read(next(name for name in names if name.endswith("forebay-spark.jar")))
    version = wheel.name.split("-")[1]
    data, info = f"forebay-{version}.data", f"forebay-{version}.dist-info"
    assert {f"{data}/scripts/{program}" for program in ("forebay", "forebay-server", "forebay-bench")} <= names
    assert {f"{info}/licenses/{text}" for text in ("LICENSE", "NOTICE", "THIRD-PARTY.txt")} <= names
    assert {name.split("/")[0] for name in names} == {"forebay", data, info}
    assert jar == (ROOT / "jvm-bridge/target/forebay-spark.jar").read_bytes()


def test_the_jar_brings_its_licence():
    with zipfile.ZipFile(ROOT / "jvm-bridge/target/forebay-spark.jar") as jar:
        assert jar.read("META-INF/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert jar.read("META-INF/NOTICE") == (ROOT / "NOTICE").read_bytes()


def test_third_party_notices_have_the_texts_of_what_is_linked(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(next(name for name in archive.namelist() if name.endswith("THIRD-PARTY.txt"))).decode()
    for linked in ("tokio 1.", "ring 0.", "LevelDB", "Copyright (C) 2002-present Jason Evans", "jni 0."):
        assert linked in text
    for only_builds_or_tests in ("proptest 1.", "bindgen 0."):
        assert only_builds_or_tests not in text


def test_the_programs_are_on_the_path_and_find_the_jar(venv, own):
    for program in ("forebay", "forebay-server", "forebay-bench"):
        said = subprocess.run([venv / "bin" / program, "--version"], capture_output=True, text=True, check=True, env=own).stdout
        assert said.startswith(f"{program} ")
    said = subprocess.run([venv / "bin/forebay", "jar"], capture_output=True, text=True, check=True, env=own).stdout.strip()
    assert said == python(venv, "import forebay; print(forebay.jar())", own).strip()
    assert Path(said).is_relative_to(venv)


def test_the_jar_is_delivered_to_a_directory(venv, own, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    subprocess.run([venv / "bin/forebay", "jar", target], check=True, capture_output=True, env=own)
    assert (target / "forebay-spark.jar").read_bytes() == (ROOT / "jvm-bridge/target/forebay-spark.jar").read_bytes()
    assert (target / "forebay-spark.jar").stat().st_mode & 0o777 == 0o644
    assert len(list(target.iterdir())) == 1


def test_without_a_server_the_message_says_how_to_have_one(venv, own):
    said = python(venv, "import forebay\ntry: forebay.conf()\nexcept forebay.NotRunning as error: print(error)", own)
    assert "forebay dev" in said and "forebay.conf('host:7400')" in said


def test_without_spark_the_demo_says_how_to_have_one(venv, own):
    done = subprocess.run([venv / "bin/forebay", "demo"], capture_output=True, text=True, check=False, env=own)
    assert done.returncode == 2
    assert "pip install 'forebay[demo]'" in done.stderr


def test_servers_that_are_named_are_the_ones(venv, own):
    code = "import forebay, json; print(json.dumps([forebay.conf('dns://f:7400'), forebay.conf(['a:1', 'b:2'])]))"
    one, two = json.loads(python(venv, code, own))
    assert (one["spark.forebay.servers"], two["spark.forebay.servers"]) == ("dns://f:7400", "a:1,b:2")
    said = python(venv, "import forebay; print(forebay.conf()['spark.forebay.servers'])", {**own, "FOREBAY_SERVERS": "c:3"})
    assert said.strip() == "c:3"


def test_a_state_file_that_others_may_write_is_not_believed(venv, own, tmp_path):
    state = tmp_path / f"forebay-dev-{os.getuid()}.json"
    state.write_text(json.dumps({"pid": os.getpid(), "data": "rogue:1"}))
    state.chmod(0o666)
    said = python(venv, "import forebay\ntry: print(forebay.conf())\nexcept forebay.NotRunning as error: print(error)", own)
    assert "is not believed" in said and "rogue" not in said
    state.unlink()


@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_dev_server_leaves_nothing(venv, own, tmp_path, end):
    """Also of what was typed when that is killed and can do nothing more."""
    command = [venv / "bin/forebay", "dev", "--port", "0"]
    with typed(command, text=True, env=own) as dev:
        text = ""
        while "forebay.conf()" not in text:
            line = dev.stdout.readline()
            assert line, f"it ended after: {text}"
            text += line
        conf = json.loads(python(venv, "import forebay, json; print(json.dumps(forebay.conf()))", own))
        for key, value in conf.items():
            assert f"  {key:32} {value}\n" in text and f"--conf {key}={value}" in text
        assert any("forebay-server" in command for command in processes(tmp_path))
        dev.send_signal(getattr(signal, end))
        code = dev.wait(30)
    assert code == (-signal.SIGKILL if end == "SIGKILL" else 0)
    until_gone(tmp_path)


@pytest.mark.parametrize("which", ["keep", "server"])
def test_a_dev_server_of_which_a_part_is_killed_ends_and_leaves_nothing(venv, own, tmp_path, which):
    with typed([venv / "bin/forebay", "dev", "--json", "--port", "0"], stderr=subprocess.PIPE, env=own) as dev:
        assert dev.stdout.readline().startswith(b"{")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(f"{tmp_path}/") in command and (b"--keep" in command) == (which == "keep"):
                os.kill(int(pid), signal.SIGKILL)
        _, said = dev.communicate(timeout=90)
    assert dev.returncode == 1
    assert b"the server ended by itself" in said
    until_gone(tmp_path)


def test_a_dev_server_under_nohup_outlives_its_terminal(venv, own, tmp_path):
    command = ["nohup", venv / "bin/forebay", "dev", "--json", "--port", "0"]
    with typed(command, stderr=subprocess.DEVNULL, env=own) as dev:
        assert dev.stdout.readline().startswith(b"{")
        dev.send_signal(signal.SIGHUP)
        # It answers after the signal, so it has outlived it.
        for _ in range(3):
            assert "127.0.0.1" in python(venv, "import forebay; print(forebay.conf()['spark.forebay.servers'])", own)
        dev.terminate()
        assert dev.wait(30) == 0
    until_gone(tmp_path)


def test_a_program_that_cannot_start_a_server_says_why(venv, own, tmp_path):
    done = subprocess.run([venv / "bin/forebay", "dev", "--memory", "1B"], capture_output=True, text=True, check=False, env=own)
    assert done.returncode == 1
    assert "memory" in done.stderr
    until_gone(tmp_path)


def test_a_server_whose_log_has_no_room_serves_and_ends_as_always(venv, own, tmp_path):
    """Its exit code says then what its words would: panics, whatever they are of, do not."""
    server = [venv / "bin/forebay-server", "--data-dir", tmp_path / "data", "--allow-root-device", "--listen", "127.0.0.1:0"]
    with open("/dev/full", "w", encoding="utf-8") as full:
        with typed([*server, "--admin-listen", "127.0.0.1:0"], text=True, stderr=full, env=own) as running:
            ready = running.stdout.readline()
            assert ready.startswith("ready data=127.0.0.1:")
            admin = ready.split("admin=")[1].split()[0]
            assert urllib.request.urlopen(f"http://{admin}/readyz").status == 200
            running.terminate()
            assert running.wait(60) == 0
        assert subprocess.run([*server, "--memory", "1B"], stderr=full, check=False, env=own).returncode == 1
        assert subprocess.run([*server, "--print-config"], stdout=full, check=False, env=own).returncode == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a file system that is full")
def test_a_dev_server_without_room_says_so(venv, own, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full], check=True)
    try:
        with suppress(OSError), open(full / "what others left", "wb") as file:
            while file.write(b"x" * 4096):
                file.flush()
        command = [venv / "bin/forebay", "dev", "--port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**own, "TMPDIR": str(full)})
        assert done.returncode == 1
        assert f"{full} seems full" in done.stderr and "TMPDIR" in done.stderr
        assert [path.name for path in full.iterdir()] == ["what others left"]
    finally:
        subprocess.run(["umount", full], check=True)


def test_spark_answers_over_the_dev_server(venv, own, tmp_path):
    """The way of README: the settings of `forebay.conf()` in a builder, and rows that went through the server."""
    site = next((CACHE / f"pyspark-{SPARK}").glob("lib/python3*/site-packages"))
    code = """
import forebay, json, os, re, urllib.request
from pyspark.sql import SparkSession
with forebay.dev() as conf:
    builder = SparkSession.builder.master("local[2]").config(map=conf).config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1")
    spark = builder.config("spark.sql.shuffle.partitions", "4").getOrCreate()
    print(spark.range(100000).selectExpr("id % 7 AS k").groupBy("k").count().selectExpr("sum(count)", "count(*)").collect()[0])
    state = json.load(open(os.path.join(os.environ["XDG_RUNTIME_DIR"], f"forebay-dev-{os.getuid()}.json")))
    metrics = urllib.request.urlopen(f"http://{state['admin']}/metrics").read().decode()
    print("pushed", sum(float(value) for value in re.findall(r"^\\w+_pushed_bytes_total(?:{.*})? (.+)$", metrics, re.M)) > 0)
    spark.stop()
"""
    said = python(venv, code, {**own, "PYTHONPATH": str(site), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_DIRS": str(tmp_path)})
    assert said.splitlines() == ["Row(sum(count)=100000, count(1)=7)", "pushed True"]
    assert [path for path in tmp_path.iterdir() if path.name.startswith("forebay-")] == []
    shutil.rmtree(tmp_path)
