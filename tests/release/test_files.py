"""The files that a lawyer, a security team and a packager look for, and one version in all of them."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
VERSION_PY = ROOT / "deploy" / "release" / "version.py"
PROGRAMS = ["forebay-server", "forebay", "forebay-bench"]


def version() -> str:
    return subprocess.run([sys.executable, VERSION_PY], capture_output=True, text=True, check=True).stdout.strip()


def test_the_licence_is_the_whole_text_of_apache_2():
    """By the digest of its words, so that spaces may differ and nothing else."""
    words = (ROOT / "LICENSE").read_text().split()
    assert hashlib.sha256(" ".join(words).encode()).hexdigest() == "0ffddef9e48f8a09aed5caf2d44f7ba1c1be2d9b8e0a6f693b1635b2d5566645"


@pytest.mark.parametrize("name", ["NOTICE", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "deny.toml"])
def test_what_a_reader_looks_for_is_there(name):
    assert len((ROOT / name).read_text()) > 300


def test_readmes_numbers_are_those_of_the_results():
    """No figure there is typed by hand: it comes from the newest file of its kind in benches/results."""
    found = subprocess.run([sys.executable, ROOT / "benches" / "readme_numbers.py", "--check"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_no_file_names_another_version():
    found = subprocess.run([sys.executable, VERSION_PY, "--check"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_a_differing_version_is_found_and_mended(tmp_path):
    """In a checkout of its own: the check finds each planted place, and `--set` writes every one."""
    planted = {
        "Cargo.toml": '[workspace.package]\nversion = "1·2·3"\n',
        "Cargo.lock": '[[package]]\nname = "shuffle-proto"\nversion = "1·2·2"\n\n[[package]]\nname = "serde"\nversion = "1·0·1"\n',
        "pom.xml": "<groupId>io.forebay</groupId>\n<artifactId>forebay-parent</artifactId>\n<version>1·2·1</version>\n"
        "<groupId>org.junit</groupId><artifactId>junit</artifactId><version>5·1·1</version>\n",
        "a/pod.yaml": "image: registry.example/forebay:1·2·0\nlabels: {app.kubernetes.io/version: 1·1·0}\n",
        "a/README.md": "spark-submit --packages io.forebay:forebay-spark:0·9·0; pip install forebay==0·8·0; forebay-0·7·0.tgz\n",
        "deploy/helm/forebay/Chart.yaml": "apiVersion: v2\nversion: 0·6·0\nappVersion: 0·5·0\n",
        "jvm/NativeLibrary.java": 'public static final String VERSION = "0·4·0";\n',
        "CHANGELOG.md": "forebay-0·1·0 was the first\n",
    }
    for name, text in planted.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.replace("·", "."))  # or this file would itself name other versions
    script = tmp_path / "deploy" / "release" / "version.py"
    script.parent.mkdir(parents=True)
    script.write_bytes(VERSION_PY.read_bytes())
    subprocess.run(["git", "init", "-q", tmp_path], check=True)

    def check() -> list[str]:
        return subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False).stderr.splitlines()

    wrong = {re.search(r"\d+\.\d+\.\d+", line).group(0) for line in check()}
    assert wrong == {"1.2.2", "1.2.1", "1.2.0", "1.1.0", "0.9.0", "0.8.0", "0.7.0", "0.6.0", "0.5.0", "0.4.0"}
    subprocess.run([sys.executable, script, "--set", "2.0.0"], check=True, capture_output=True)
    assert check() == []
    assert 'name = "serde"\nversion = "1.0.1"' in (tmp_path / "Cargo.lock").read_text()
    assert "<version>5.1.1</version>" in (tmp_path / "pom.xml").read_text()
    assert "forebay-0.1" in (tmp_path / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_tells_version_and_commit(program):
    built = TARGET / "release" / program
    if not built.exists():
        pytest.fail(f"{built} is not built: run make build", pytrace=False)
    said = subprocess.run([built, "--version"], capture_output=True, text=True, check=True).stdout
    known = r"[0-9a-f]{12}(-dirty)?, \d{4}-\d\d-\d\d"
    assert re.fullmatch(rf"{program} {re.escape(version())} \(commit ({known}|unknown)\)\n", said)
    if os.environ.get("BUILD_COMMIT") and not os.environ["BUILD_COMMIT"].endswith("-dirty"):
        assert f"(commit {os.environ['BUILD_COMMIT']}, {os.environ['BUILD_DATE']})" in said


def test_the_environment_of_setup_tells_the_compiler_its_commit():
    """Or, where git or its history is not there, nothing: a program then says that it does not know."""
    said = subprocess.run([ROOT / "setup.sh", "--env"], capture_output=True, text=True, check=True, env=without_build()).stdout
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    named = re.search(r"^export BUILD_COMMIT='([0-9a-f]+)(?:-dirty)?'$", said, re.M)
    assert (named.group(1) if named else "") == head.stdout.strip()
    told = subprocess.run(
        [ROOT / "setup.sh", "--env"], capture_output=True, text=True, check=True, env={**without_build(), "SOURCE_DATE_EPOCH": "86400"}
    )
    assert "export BUILD_DATE='1970-01-02'" in told.stdout


def without_build() -> dict:
    return {key: value for key, value in os.environ.items() if key not in ("BUILD_COMMIT", "BUILD_DATE", "SOURCE_DATE_EPOCH")}


def test_every_member_takes_the_version_of_the_workspace():
    members = json.loads(
        subprocess.run(
            ["cargo", "metadata", "--no-deps", "--format-version", "1", "--manifest-path", ROOT / "Cargo.toml"], capture_output=True, check=True
        ).stdout
    )["packages"]
    assert len(members) >= 7
    assert {member["version"] for member in members} == {version()}
    assert {member["license"] for member in members} == {"Apache-2.0"}
