"""What `make release` made, used as people would: `make release-test`."""

import gzip
import hashlib
import io
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
import xml.etree.ElementTree as xml
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from test_files import ROOT, version
from test_wheel import CACHE, SPARK, typed, until_gone

pytestmark = pytest.mark.dist
DIST = ROOT / "dist"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
MAX_IMAGE = 60 * 1024 * 1024
# A container here may not raise its limits, so it is given ones that are lower than the machine's.
PODMAN = ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--storage-driver", "vfs"]
RUN = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:1024", "--network", "host", "--read-only", "--cap-drop", "all"]
RUN += ["--security-opt", "no-new-privileges", "--user", "123456:0", "--mount", "type=tmpfs,destination=/data,tmpfs-mode=1777"]


@pytest.fixture(scope="session", autouse=True)
def dist():
    if not (DIST / "SHA256SUMS").exists():
        pytest.fail("dist/ is not whole: run make release", pytrace=False)


def machine_of(name: str) -> str:
    return next(machine for machine in MACHINES if machine in name)


# === all of it ===


def test_every_name_is_there():
    v = version()
    names = {"bin/forebay-server", "bin/forebay", "bin/forebay-bench", "forebay-spark.jar", "THIRD-PARTY.txt", "SHA256SUMS"}
    names |= {f"forebay-{v}-linux-{machine}.tar.gz" for machine in MACHINES}
    names |= {f"images/forebay-{v}-{architecture}.oci.tar" for architecture in MACHINES.values()} | {f"images/forebay-spark-{v}.oci.tar"}
    names |= {f"python/forebay-{v}-py3-none-manylinux_2_17_{machine}.whl" for machine in MACHINES}
    names |= {f"helm/forebay-{v}.tgz", "manifests/statefulset.yaml", "manifests/daemonset.yaml"}
    names |= {f"sbom/forebay-{of}.cdx.json" for of in ("server", "spark", "image-amd64", "image-arm64")}
    names |= {f"maven/io/forebay/forebay-spark/{v}/forebay-spark-{v}{end}" for end in (".jar", ".pom", "-sources.jar", "-javadoc.jar")}
    missing = {name for name in names if not (DIST / name).is_file()}
    assert missing == set()


def test_the_sums_are_of_every_file():
    checked = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=DIST, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    named = {line.split(maxsplit=1)[1] for line in (DIST / "SHA256SUMS").read_text().splitlines()}
    assert named == {str(path.relative_to(DIST)) for path in DIST.rglob("*") if path.is_file()} - {"SHA256SUMS"}


# === archives ===


@pytest.mark.parametrize("machine", MACHINES)
def test_an_archive_has_programs_for_its_machine_and_an_old_glibc(machine, tmp_path):
    subprocess.run(["tar", "-C", tmp_path, "-xf", DIST / f"forebay-{version()}-linux-{machine}.tar.gz"], check=True)
    (top,) = tmp_path.iterdir()
    files = {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}
    programs = {f"bin/{name}" for name in ("forebay", "forebay-server", "forebay-bench")}
    assert files == programs | {"share/forebay/forebay-spark.jar", "LICENSE", "NOTICE", "CHANGELOG.md", "THIRD-PARTY.txt"}
    for program in programs:
        text = (top / program).read_bytes()
        assert text[:4] == b"\x7fELF" and int.from_bytes(text[18:20], "little") == {"x86_64": 62, "aarch64": 183}[machine]
        asked = {tuple(map(int, number.split(b"."))) for number in re.findall(rb"GLIBC_(\d+\.\d+)", text)}
        assert max(asked) <= (2, 17), program
        assert b"GLIBCXX_3" not in text, program


@contextmanager
def server(command: list, tmp_path: Path, **options):
    """A server that was started so, on free ports; gives its data and admin address."""
    with open(tmp_path / "log", "wb") as log:
        with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=log, **options) as running:
            try:
                line = running.stdout.readline().decode()
                assert line.startswith("ready "), (tmp_path / "log").read_text()
                said = dict(word.split("=", 1) for word in line.split()[1:])
                yield said["data"], said["admin"]
            finally:
                running.terminate()
                running.wait(60)


def pushed_and_fetched(bench: list, data: str, admin: str):
    told = json.load(urllib.request.urlopen(f"http://{admin}/version", timeout=60))
    assert told["version"] == version() and re.fullmatch(r"[0-9a-f]{12}(-dirty)?", told["commit"])
    assert urllib.request.urlopen(f"http://{admin}/readyz", timeout=60).status == 200
    said = subprocess.run([*bench, "fetch", "--servers", data, "--size", "16MB"], capture_output=True, text=True, check=False, timeout=600)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "every byte verified" in said.stdout


@pytest.mark.parametrize("machine", MACHINES)
def test_the_programs_push_and_fetch_on_their_machine(machine, tmp_path):
    """Where it is another machine's, in an emulator."""
    emulator = [] if machine == platform.machine() else [f"qemu-{machine}"]
    if emulator and not shutil.which(emulator[0]):
        pytest.skip(f"there is no {emulator[0]}: ./setup.sh --release installs it")
    emulator += ["-L", str(sysroot(machine))] if emulator else []
    subprocess.run(["tar", "-C", tmp_path, "-xf", DIST / f"forebay-{version()}-linux-{machine}.tar.gz"], check=True)
    programs = tmp_path / f"forebay-{version()}-linux-{machine}" / "bin"
    env = {key: value for key, value in os.environ.items() if not key.startswith("FOREBAY_")}
    command = [*emulator, programs / "forebay-server", "--data-dir", tmp_path / "data", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    command += ["--memory", "256MiB", *root_device(programs, emulator, env)]
    # The load tool starts itself once more, for the raw TCP beside, and no kernel starts what an emulator has to.
    bench = DIST / "bin" / "forebay-bench" if emulator else programs / "forebay-bench"
    with server(command, tmp_path, env=env) as (data, admin):
        pushed_and_fetched([bench], data, admin)
        for program in ("forebay", "forebay-bench"):
            said = subprocess.run([*emulator, programs / program, "--version"], capture_output=True, text=True, check=True, env=env)
            assert said.stdout.startswith(f"{program} {version()} ")


def root_device(programs: Path, emulator: list, env: dict) -> list[str]:
    """A temporary directory is often on the root device, where a server wants to be told that it may."""
    said = subprocess.run([*emulator, programs / "forebay-server", "--help"], capture_output=True, text=True, check=True, env=env).stdout
    return ["--allow-root-device"] if "--allow-root-device" in said else []


def sysroot(machine: str) -> Path:
    """glibc of that machine: what its image has."""
    folder = CACHE / "sysroots" / f"{machine}-{version()}"
    if not folder.exists():
        fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
        for layer in layers(DIST / "images" / f"forebay-{version()}-{MACHINES[machine]}.oci.tar")[2]:
            trust = {"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}  # ours, and with links to /lib
            layer.extractall(fresh, members=[member for member in layer if re.match(r"(?:\./)?(?:usr/)?lib", member.name)], **trust)
        fresh.rename(folder)
    return folder


# === images ===


def layers(path: Path):
    """Manifest, configuration and layers of an OCI archive."""
    with tarfile.open(path) as archive:
        blobs = {member.name.removeprefix("./"): archive.extractfile(member).read() for member in archive if member.isfile()}
    read = lambda digest: blobs["blobs/" + digest.replace(":", "/")]  # noqa: E731
    for name, blob in blobs.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(blob).hexdigest() == name.rsplit("/", 1)[1]
    (entry,) = json.loads(blobs["index.json"])["manifests"]
    manifest = json.loads(read(entry["digest"]))
    config = json.loads(read(manifest["config"]["digest"]))
    unpacked = []
    for layer in manifest["layers"]:
        blob = read(layer["digest"])
        unpacked.append(tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob)))
    return manifest, config, unpacked


@pytest.mark.parametrize("architecture", MACHINES.values())
def test_an_image_has_programs_jar_and_licences_and_nothing_that_helps_an_intruder(architecture):
    path = DIST / "images" / f"forebay-{version()}-{architecture}.oci.tar"
    assert path.stat().st_size <= MAX_IMAGE
    _, config, unpacked = layers(path)
    members = {member.name.removeprefix("./"): member for layer in unpacked for member in layer}
    programs = {f"usr/local/bin/{name}" for name in ("forebay", "forebay-server", "forebay-bench")}
    runnable = {
        name for name, member in members.items() if member.isfile() and member.mode & 0o111 and not re.search(r"\.so(\.\d+)*$", name)
    }
    assert runnable == programs
    assert "usr/share/forebay/forebay-spark.jar" in members and "etc/ssl/certs/ca-certificates.crt" in members
    assert {f"usr/share/doc/forebay/{name}" for name in ("LICENSE", "NOTICE", "THIRD-PARTY.txt")} <= set(members)
    assert not [name for name, member in members.items() if member.mode & 0o6000 and member.isfile()]
    writable = {name for name, member in members.items() if member.mode & 0o002 and not member.issym()}
    assert writable == {"data", "tmp"} and all(members[name].mode & 0o1000 for name in writable)
    assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}
    assert config["architecture"] == architecture and config["os"] == "linux"
    assert config["config"]["Entrypoint"] == ["/usr/local/bin/forebay-server"] and config["config"]["User"] == "10001:10001"
    assert set(config["config"]["ExposedPorts"]) == {"7400/tcp", "7401/tcp"}
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["config"]["Labels"].items()}
    assert labels["version"] == version() and labels["licenses"] == "Apache-2.0" and labels["title"] == "forebay"
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?", labels["revision"]) and labels["created"] == config["created"].replace(".000000000", "")


@pytest.mark.parametrize("suffix", ["", "-arm64"])
def test_the_spark_image_is_the_jar_alone(suffix):
    _, config, unpacked = layers(DIST / "images" / f"forebay-spark-{version()}{suffix}.oci.tar")
    members = {member.name.removeprefix("./"): layer.extractfile(member).read() for layer in unpacked for member in layer if member.isfile()}
    assert members == {"forebay-spark.jar": (DIST / "forebay-spark.jar").read_bytes()}
    assert config["architecture"] == ("arm64" if suffix else "amd64")


@pytest.fixture(scope="session")
def podman(tmp_path_factory):
    """podman with a store of its own and this machine's image in it; gives the words before a command, and the image's name."""
    if not shutil.which("podman") or os.getuid() != 0:
        pytest.skip("there is no podman for root: ./setup.sh --release installs it")
    folder = tmp_path_factory.mktemp("podman")
    command = ["podman", "--root", folder / "store", "--runroot", folder / "run", *PODMAN]
    archive = DIST / "images" / f"forebay-{version()}-{MACHINES[platform.machine()]}.oci.tar"
    subprocess.run([*command, "load", "--quiet", "--input", archive], check=True, capture_output=True)
    yield command, f"localhost/forebay:{version()}"
    subprocess.run([*command, "rm", "--all", "--force"], check=False, capture_output=True)
    subprocess.run([*command, "rmi", "--all", "--force"], check=False, capture_output=True)


def test_the_image_serves_as_any_user_without_rights_on_a_read_only_root(podman, tmp_path):
    command, image = podman
    settings = ["--data-dir", "/data", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--memory", "256MiB"]
    run = [*command, "run", "--rm", "--name", "forebay-test", *RUN, image, *settings]
    with server(run, tmp_path) as (data, admin):
        pushed_and_fetched([DIST / "bin/forebay-bench"], data, admin)
        inside = subprocess.run([*command, "exec", "forebay-test", "forebay", "status", "--server", admin], capture_output=True, text=True, check=False)
        assert inside.returncode == 0 and "volume" in inside.stdout, inside.stderr
        shell = subprocess.run([*command, "exec", "forebay-test", "sh", "-c", "true"], capture_output=True, text=True, check=False)
        assert shell.returncode != 0


def test_the_image_delivers_the_jar(podman, tmp_path):
    command, image = podman
    target = tmp_path / "target"
    target.mkdir(mode=0o777)
    target.chmod(0o777)
    run = [*command, "run", "--rm", *RUN, "--volume", f"{target}:/target", "--entrypoint", "/usr/local/bin/forebay", image, "jar", "/target"]
    subprocess.run(run, check=True, capture_output=True)
    assert (target / "forebay-spark.jar").read_bytes() == (DIST / "forebay-spark.jar").read_bytes()


# === jar, Maven, lists ===


def test_the_jar_has_both_libraries_and_its_licences():
    with zipfile.ZipFile(DIST / "forebay-spark.jar") as jar:
        names = set(jar.namelist())
        assert {f"io/forebay/native/linux-{machine}/libforebay_jni.so" for machine in MACHINES} <= names
        assert jar.read("META-INF/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert jar.read("META-INF/THIRD-PARTY.txt") == (DIST / "THIRD-PARTY.txt").read_bytes()


def test_the_coordinates_depend_on_nothing():
    folder = DIST / "maven/io/forebay/forebay-spark" / version()
    pom = xml.parse(folder / f"forebay-spark-{version()}.pom").getroot()
    tags = {element.tag.rsplit("}", 1)[1]: element.text for element in pom}
    assert (tags["groupId"], tags["artifactId"], tags["version"]) == ("io.forebay", "forebay-spark", version())
    assert "dependencies" not in tags and "parent" not in tags and "licenses" in tags
    assert (folder / f"forebay-spark-{version()}.jar").read_bytes() == (DIST / "forebay-spark.jar").read_bytes()
    with zipfile.ZipFile(folder / f"forebay-spark-{version()}-sources.jar") as sources, zipfile.ZipFile(
        folder / f"forebay-spark-{version()}-javadoc.jar"
    ) as javadoc:
        assert {"io/forebay/spark/ForebayShuffleManager.java", "io/forebay/core/Native.java"} <= set(sources.namelist())
        assert {"index.html", "io/forebay/spark/ForebayShuffleManager.html"} <= set(javadoc.namelist())


@pytest.mark.parametrize("of", ["server", "spark", "image-amd64", "image-arm64"])
def test_a_list_of_components_names_what_is_linked(of):
    bom = json.loads((DIST / "sbom" / f"forebay-{of}.cdx.json").read_text())
    assert bom["bomFormat"] == "CycloneDX" and bom["metadata"]["component"]["version" if "image" not in of else "name"]
    names = {component["name"] for component in bom["components"]}
    assert ("jni" if of == "spark" else "librocksdb-sys") in names
    assert ("libc6" in names) == ("image" in of)
    assert "proptest" not in names


def test_spark_submit_takes_the_plugin_by_its_coordinates(tmp_path):
    """Spark's own answer, of rows that went through the server; nothing but the coordinates says where the jar is."""
    home = next((CACHE / f"pyspark-{SPARK}").glob("lib/python3*/site-packages/pyspark"))
    job = tmp_path / "job.py"
    job.write_text(
        "from pyspark.sql import SparkSession\n"
        "spark = SparkSession.builder.getOrCreate()\n"
        "sums = spark.range(100000).selectExpr('id % 997 AS k', 'id * id AS v').groupBy('k').agg({'v': 'sum', '*': 'count'})\n"
        "print('answer', *sums.selectExpr('count(*)', 'sum(hash(*))').collect()[0])\n"
    )
    env = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(home), "PYSPARK_PYTHON": str(CACHE / f"pyspark-{SPARK}/bin/python")}

    def answer(*conf) -> str:
        submit = [home / "bin/spark-submit", "--master", "local-cluster[1,1,1024]", "--conf", "spark.ui.enabled=false", *conf, job]
        done = subprocess.run(submit, capture_output=True, text=True, check=False, env=env, cwd=tmp_path, timeout=600)
        assert done.returncode == 0, done.stderr
        return next(line for line in done.stdout.splitlines() if line.startswith("answer "))

    own = answer()
    scratch = {"TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    with typed([DIST / "bin/forebay", "dev", "--json", "--port", "0"], env={**env, **scratch}) as dev:
        servers = json.loads(dev.stdout.readline())["spark.forebay.servers"]
        packages = ["--packages", f"io.forebay:forebay-spark:{version()}", "--repositories", f"file://{DIST}/maven"]
        packages += ["--conf", f"spark.jars.ivy={tmp_path}/ivy", "--conf", f"spark.forebay.servers={servers}"]
        assert answer(*packages, "--conf", "spark.shuffle.manager=io.forebay.spark.ForebayShuffleManager") == own
        assert_rows_went_through(tmp_path)
        dev.terminate()
        assert dev.wait(60) == 0


def assert_rows_went_through(runtime: Path):
    """The server of `forebay dev` whose state is in the folder."""
    state = json.loads((runtime / f"forebay-dev-{os.getuid()}.json").read_text())
    metrics = urllib.request.urlopen(f"http://{state['admin']}/metrics", timeout=60).read().decode()
    for what in ("pushed", "fetched"):
        assert sum(map(float, re.findall(rf"^forebay_{what}_bytes_total(?:{{.*}})? (.+)$", metrics, re.M))) > 0, what


# === the wheel ===


def blocks_of_readme(heading: str) -> list[str]:
    """What is in the code blocks below a heading."""
    text = (ROOT / "README.md").read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)


def test_an_empty_environment_answers(tmp_path, capsys):
    """README's start block, as it is typed, in an environment with nothing in it."""
    commands, program = blocks_of_readme("Three starts")[:2]
    install, demo, dev = (line.split("#")[0].strip() for line in commands.splitlines())
    assert install.startswith("pip install ") and (demo, dev) == ("forebay demo", "forebay dev")
    venv, scratch = tmp_path / "venv", tmp_path / "tmp"
    scratch.mkdir()
    env = {key: value for key, value in os.environ.items() if not key.startswith(("FOREBAY_", "SPARK_", "PYSPARK_"))}
    env |= {"PATH": f"{venv}/bin:{env['PATH']}", "TMPDIR": str(scratch), "XDG_RUNTIME_DIR": str(scratch), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    # Where the wheel is before it is published, and without Spark's archive of 450 MB, which is there as if pip had unpacked it.
    env |= {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_FIND_LINKS": str(DIST / "python"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def typed_in(line: str) -> str:
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=env, cwd=tmp_path, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    typed_in(install)
    site = next((CACHE / f"pyspark-{SPARK}").glob("lib/python3*/site-packages"))
    (next(venv.glob("lib/python3*/site-packages")) / "spark.pth").write_text(f"{site}\n")
    assert "nothing was computed twice" in typed_in(demo)
    with capsys.disabled():
        print(f"\nfrom an empty environment to the end of the demo: {time.monotonic() - began:.0f} s")
    until_gone(scratch)
    with typed([venv / "bin" / "forebay", *dev.split()[1:], "--port", "0"], text=True, env=env) as server:
        while line := server.stdout.readline():
            if "forebay.conf()" in line:
                break
        (tmp_path / "start.py").write_text(program)
        rows = eval(typed_in("python start.py"), {"Row": lambda **row: tuple(row.values())})
        assert rows == [(k, 100_000) for k in range(10)]
        assert_rows_went_through(scratch)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    until_gone(scratch)
