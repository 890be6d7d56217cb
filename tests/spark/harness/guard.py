"""The last one out: waits for its parent to go, however it goes, then ends the run's processes and removes its folder.

Signal handlers do not run on SIGKILL, and a Spark application is a tree of processes of which only the first is ours. So the
parent holds one end of a pipe, and every process of the run carries the run's mark in its environment, which children inherit.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def marked(mark: str) -> dict[int, str]:
    """The processes that carry the mark, each with the role that follows it."""
    wanted = f"FOREBAY_RUN={mark}/".encode()
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as environ:
                at = next((part for part in environ.read().split(b"\0") if part.startswith(wanted)), None)
            with open(f"/proc/{entry}/stat", "rb") as stat:
                state = stat.read().rsplit(b")", 1)[1].split()[0]
        except OSError:
            continue  # gone meanwhile, or another user's
        if at is not None and state != b"Z":
            found[int(entry)] = at[len(wanted) :].decode()
    return found


def end_all(mark: str, patience: float = 10.0) -> int:
    """Kills what carries the mark until nothing does; returns how many there were at first."""
    deadline = time.monotonic() + patience
    first = None
    while True:
        alive = marked(mark)
        first = len(alive) if first is None else first
        if not alive or time.monotonic() > deadline:
            return first
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)


def remove(folder: str):
    """With the file systems that are mounted in it, and the control groups whose names begin with the folder's."""
    groups = Path("/sys/fs/cgroup")
    found = [group for level in ("", "*/") for group in groups.glob(f"{level}{os.path.basename(folder)}*")]
    for _ in range(100):  # what was in them is not gone at once
        found = [group for group in found if not _removed(group)]
        if not found:
            break
        time.sleep(0.1)
    with open("/proc/mounts", encoding="utf-8") as mounts:
        mounted = [line.split()[1] for line in mounts]
    for path in mounted:
        if path.startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", path], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _removed(group: Path) -> bool:
    for path, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(path)
        except OSError:
            pass
    return not group.exists()


if __name__ == "__main__":
    run_mark, run_folder = sys.argv[1:]
    sys.stdin.buffer.read()  # until the parent's end of the pipe is closed
    end_all(run_mark)
    remove(run_folder)
