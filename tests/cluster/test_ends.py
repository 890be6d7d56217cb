"""Nothing is left, whatever becomes of the process that started a cluster."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.run import wait_until

pytestmark = pytest.mark.long
UP = Path(__file__).resolve().parent / "up.py"


def test_cluster_goes_with_its_killed_starter(run):
    up = subprocess.Popen([sys.executable, UP, "--nodes", "1"], stdout=subprocess.PIPE, text=True)
    try:
        said = next(line for line in up.stdout if line.startswith("up: "))
        folder = Path(re.search(r"up: (\S+)/kube/enter", said).group(1))
        pods = subprocess.run([folder / "kube" / "enter", "kubectl", "run", "pod", "--image=localhost/spark:1", "--image-pull-policy=Never"], check=False)
        assert pods.returncode == 0
        assert left(folder) and folder.exists()
    finally:
        up.send_signal(signal.SIGKILL)
        up.wait()
    wait_until(lambda: not folder.exists() and not left(folder), 60, f"{folder} or what ran in it is left")


def left(folder: Path) -> list[str]:
    """Processes that name it, mounts below it, loop devices of its files, and its control groups."""
    found = [mount for mount in Path("/proc/mounts").read_text().splitlines() if f"{folder}/" in mount]
    found += [line for line in subprocess.run(["losetup", "--list", "--noheadings"], capture_output=True, text=True, check=False).stdout.splitlines() if f"{folder}/" in line]
    found += [str(group) for pattern in ("", "*/") for group in Path("/sys/fs/cgroup").glob(f"{pattern}{folder.name}*")]
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(f"{folder}/") in command:
                found.append(command.decode(errors="replace"))
    return found
