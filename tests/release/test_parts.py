"""What `make demo` takes from the cache where nothing was compiled: only what was made of the very same sources."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from test_files import ROOT

SCRIPT = Path("deploy/release/parts.sh")


class Checkout:
    def __init__(self, folder: Path, cache: Path):
        self.folder = folder
        home = folder.with_name("home")
        home.mkdir(exist_ok=True)
        who = {f"GIT_{part}_{of}": "t@example.com" for part in ("AUTHOR", "COMMITTER") for of in ("NAME", "EMAIL")}
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "FOREBAY_CACHE": str(cache), "GIT_CONFIG_GLOBAL": "/dev/null", **who}

    def git(self, *words) -> str:
        return subprocess.run(["git", "-C", self.folder, *words], env=self.env, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, name: str, text: str):
        (self.folder / name).write_text(text)
        self.git("add", ".")
        self.git("commit", "-q", "-m", name)

    def parts(self, word: str, **env) -> str:
        done = subprocess.run([self.folder / SCRIPT, word], env={**self.env, **env}, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    def build(self):
        """Programs that tell their commit, as ours do, and a jar."""
        release = self.folder / "target/release"
        release.mkdir(parents=True, exist_ok=True)
        (release / "main.c").write_text(f'#include <stdio.h>\nint main() {{ puts("it (commit {self.git("rev-parse", "--short=12", "HEAD")}, today)"); }}')
        for program in ("forebay-server", "forebay"):
            subprocess.run(["gcc", "-g", "-o", release / program, release / "main.c"], check=True)
        jar = self.folder / "jvm-bridge/target/forebay-spark.jar"
        jar.parent.mkdir(exist_ok=True)
        jar.write_bytes(b"a jar")


@pytest.fixture
def built(tmp_path) -> Checkout:
    checkout = Checkout(tmp_path / "checkout", tmp_path / "cache")
    for name in ("proto", "shuffle-server", "shuffle-client", "benches", "tests", "jvm-bridge", "deploy/release", ".cargo"):
        (checkout.folder / name).mkdir(parents=True)
        (checkout.folder / name / "Cargo.toml").write_text(name)
    for name in ("Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "LICENSE", "NOTICE"):
        (checkout.folder / name).write_text(name)
    shutil.copy(ROOT / SCRIPT, checkout.folder / SCRIPT)
    shutil.copy(ROOT / ".gitignore", checkout.folder)
    subprocess.run(["git", "init", "-q", checkout.folder], check=True)
    checkout.commit("README.md", "one")
    checkout.build()
    return checkout


@pytest.fixture
def another(built, tmp_path) -> Checkout:
    """A clone in which nothing was built, with the same cache."""
    built.git("clone", "-q", built.folder, tmp_path / "another")
    return Checkout(tmp_path / "another", tmp_path / "cache")


def test_another_checkout_of_the_same_sources_finds_programs_and_jar(built, another):
    assert another.parts("find") == ""
    assert built.parts("keep") == ""
    found = Path(another.parts("find"))
    assert {path.name for path in found.iterdir()} == {"forebay-server", "forebay", "forebay-spark.jar"}
    assert (found / "forebay-spark.jar").read_bytes() == b"a jar"
    another.commit("README.md", "two")  # of which no program is made
    assert another.parts("find") == str(found)


@pytest.mark.parametrize("name", ["Cargo.lock", "proto/Cargo.toml", "shuffle-server/new.rs", ".cargo/config.toml", "jvm-bridge/A.java", "tests/Cargo.toml"])
def test_other_sources_find_nothing(built, another, name):
    built.parts("keep")
    another.commit("README.md", "two")
    assert another.parts("find") != ""
    (another.folder / name).write_text("changed")
    assert another.parts("find") == ""  # also of a file that git does not know
    another.commit(name, "changed")
    assert another.parts("find") == ""
    another.git("revert", "--no-edit", "HEAD")
    assert another.parts("find") != ""


def test_what_cargo_is_told_elsewhere_counts(built, another, tmp_path):
    built.parts("keep")
    assert another.parts("find", RUSTFLAGS="-Cdebug-assertions") == ""
    assert another.parts("find", CARGO_PROFILE_RELEASE_OPT_LEVEL="0") == ""
    assert another.parts("find", CARGO_TARGET_DIR="/elsewhere") != ""
    (tmp_path / ".cargo").mkdir()
    (tmp_path / ".cargo/config.toml").write_text("[profile.release]\nopt-level = 0\n")
    assert another.parts("find") == ""


def test_nothing_is_kept_of_changed_files_or_of_an_earlier_build(built):
    (built.folder / "shuffle-server/new.rs").write_text("changed")
    built.parts("keep")
    built.commit("shuffle-server/new.rs", "changed")
    built.parts("keep")  # target/ is still of the commit before
    assert built.parts("find") == ""
    built.build()
    built.parts("keep")
    assert built.parts("find") != ""


def test_programs_that_do_not_run_here_are_not_taken(built):
    built.parts("keep")
    (Path(built.parts("find")) / "forebay-server").write_text("#!/bin/sh\nexit 127\n")
    assert built.parts("find") == ""


def test_three_are_kept(built, tmp_path):
    for n in range(5):
        built.commit("Cargo.lock", str(n))
        built.build()
        built.parts("keep")
    assert built.parts("find") != ""
    assert len(list((tmp_path / "cache/parts").iterdir())) == 3


def test_without_git_there_is_none(built):
    built.parts("keep")
    shutil.rmtree(built.folder / ".git")
    assert built.parts("find") == ""
