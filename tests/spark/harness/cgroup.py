"""A control group with a memory limit, as a container has it, and a JVM that starts in it."""

import os
import shutil
import signal
import time
import uuid
from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")


class Cgroup:
    """Needs root. Version 1 or 2, whichever has the memory controller."""

    def __init__(self, folder: Path, limit_mib: int):
        self.limit_mib = limit_mib
        self.first_version = (MOUNTED / "memory").is_dir()
        base = MOUNTED / "memory" if self.first_version else MOUNTED
        self.path = base / f"forebay-{uuid.uuid4().hex[:12]}"
        self.path.mkdir()
        limit = "memory.limit_in_bytes" if self.first_version else "memory.max"
        (self.path / limit).write_text(str(limit_mib << 20))
        self.java_home = self._java_home(folder)

    @staticmethod
    def missing() -> str | None:
        """Why there can be none here."""
        if os.geteuid() != 0:
            return "control groups are root's"
        if (MOUNTED / "memory").is_dir():
            return None if os.access(MOUNTED / "memory", os.W_OK) else "/sys/fs/cgroup/memory cannot be written"
        controllers = MOUNTED / "cgroup.subtree_control"
        if not controllers.exists() or "memory" not in controllers.read_text():
            return "no memory controller at /sys/fs/cgroup"
        return None

    def _java_home(self, folder: Path) -> Path:
        """A JAVA_HOME whose java moves into the group before it becomes a JVM."""
        real = shutil.which("java", path=f"{os.environ.get('JAVA_HOME', '')}/bin:{os.environ['PATH']}")
        java = folder / "java-home" / "bin" / "java"
        java.parent.mkdir(parents=True)
        java.write_text(f'#!/bin/sh\necho $$ > {self.path}/cgroup.procs || exit 1\nexec {real} "$@"\n')
        java.chmod(0o755)
        return java.parent.parent

    def kills(self) -> int:
        """Processes that the kernel has killed because the group had too much."""
        file = "memory.oom_control" if self.first_version else "memory.events"
        fields = dict(line.split() for line in (self.path / file).read_text().splitlines())
        return int(fields["oom_kill"])

    def peak_mib(self) -> int:
        file = "memory.max_usage_in_bytes" if self.first_version else "memory.peak"
        return int((self.path / file).read_text()) >> 20

    def remove(self):
        for _ in range(100):
            for pid in (self.path / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.1)
