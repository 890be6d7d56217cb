"""One run of tests or of the demo: its folder, its processes, their CPU time, and the end of all of them."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from harness import guard

TICKS = os.sysconf("SC_CLK_TCK")


class Run:
    """Owns a folder and every process started through it; leaves neither behind, however it ends."""

    def __init__(self, name: str):
        self.mark = uuid.uuid4().hex
        self.dir = Path(tempfile.mkdtemp(prefix=f"forebay-{name}-")).resolve()
        self.guard = subprocess.Popen(
            [sys.executable, guard.__file__, self.mark, str(self.dir)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent
        )
        self.closed = False

    def spawn(self, role: str, command: list, env: dict | None = None, **options) -> subprocess.Popen:
        """Starts a marked process in a session of its own. `role` tells servers from Spark in the CPU account."""
        full = dict(os.environ if env is None else env)
        full["FOREBAY_RUN"] = f"{self.mark}/{role}"
        full["TMPDIR"] = str(self.folder("tmp"))
        return subprocess.Popen([str(c) for c in command], env=full, start_new_session=True, **options)

    def folder(self, *names: str) -> Path:
        path = self.dir.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def processes(self, role: str | None = None) -> list[int]:
        return [pid for pid, has in guard.marked(self.mark).items() if role is None or has == role]

    def cpu_seconds(self, role: str) -> float:
        """User and system time of all processes of the role, and of their children that have ended and were waited for.

        Exact as long as the first process of each tree is alive: an executor that was killed counts in its parent, the JVM
        that waited for it, from then on.
        """
        ticks = 0
        for pid in self.processes(role):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            ticks += sum(map(int, fields[11:15]))
        return ticks / TICKS

    def close(self) -> int:
        """Ends everything; returns how many processes had to be killed."""
        if self.closed:
            return 0
        self.closed = True
        killed = guard.end_all(self.mark)
        guard.remove(str(self.dir))
        self.guard.stdin.close()
        self.guard.wait()
        return killed

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def descendants(pid: int) -> list[int]:
    """All processes below one, by their parents."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    found, waiting = [], [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return found


def command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def wait_until(what, seconds: float, message: str):
    """Fails with the message if it is not so in time."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{message} (after {seconds:.0f} s)")
        time.sleep(0.05)


def raise_on_signals():
    """SIGTERM and SIGHUP end a run the way Ctrl-C does: through `finally`."""

    def stop(number, _frame):
        raise KeyboardInterrupt(signal.Signals(number).name)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
