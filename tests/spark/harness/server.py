"""A `forebay-server` process on loopback that can be killed, hung, and started again on its port with or without its disk."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from harness import places
from harness.run import Run


class Server:
    def __init__(self, run: Run, name: str, memory: str = "512MiB", flags: tuple[str, ...] = (), disks: int = 1):
        self.run = run
        self.name = name
        self.folder = run.folder("servers", name)
        self.data_dirs = [self.folder / f"data-{disk}" for disk in range(disks)]
        self.log = self.folder / "server.log"
        self.memory = memory
        self.flags = flags
        self.process = None
        self.address = f"127.0.0.1:{port_to_keep()}"
        self.admin = f"127.0.0.1:{port_to_keep()}"
        self.volumes: list[str] = []

    def start(self) -> "Server":
        """Starts it, on the ports it had before if it had any, and waits until it is ready."""
        for data_dir in self.data_dirs:
            data_dir.mkdir(parents=True, exist_ok=True)
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        env = {key: value for key, value in os.environ.items() if not key.startswith("FOREBAY_")}  # they are settings
        with open(self.log, "ab") as log:
            self.process = self.run.spawn(
                "server",
                [places.SERVER, "--listen", self.address, "--admin-listen", self.admin]
                + [word for data_dir in self.data_dirs for word in ("--data-dir", data_dir)]
                + ["--memory", self.memory, "--ready-file", ready, "--allow-root-device", *self.flags],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 90
        while not (ready.exists() and ready.read_text().endswith("\n")):
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} was not ready after 90 s:\n{self.tail()}")
            time.sleep(0.02)
        said = dict(word.split("=", 1) for word in ready.read_text().split() if "=" in word)
        self.address, self.admin = said["data"], said["admin"]
        self.volumes = said["volumes"].split(",")
        return self

    def is_running(self) -> bool:
        return self.process.poll() is None

    def kill(self):
        """SIGKILL, as the OOM killer or a lost node would."""
        self.process.kill()
        self.process.wait()

    def lose(self):
        """The node is gone, with its disks."""
        self.kill()
        for data_dir in self.data_dirs:
            shutil.rmtree(data_dir)

    def restart(self, empty: bool = False) -> "Server":
        """Back on its port, with its disks or with empty ones."""
        return self.restart_without(*(self.data_dirs if empty else ()))

    def restart_without(self, *data_dirs: Path) -> "Server":
        """Back on its port, with what these directories held gone."""
        if self.is_running():
            self.kill()
        for data_dir in data_dirs:
            shutil.rmtree(data_dir)
        return self.start()

    def hang(self):
        """Alive, connected, and silent: what a dead disk or a stopped VM looks like from outside."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.is_running():
            self.process.terminate()
        try:
            return self.process.wait(90)
        except Exception as slow:
            self.kill()
            raise RuntimeError(f"{self.name} did not end within 90 s of SIGTERM:\n{self.tail()}") from slow

    def metrics(self) -> dict[str, float]:
        """Every sample of `/metrics`, by name with labels."""
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (l.rpartition(" ") for l in lines if l and l[0] != "#")}

    def metric(self, prefix: str) -> float:
        """The sum of the samples whose name starts so."""
        return sum(value for name, value in self.metrics().items() if name.startswith(prefix))

    def bytes_in(self) -> int:
        """Payload taken from clients since this process started."""
        return int(self.metric("forebay_pushed_bytes_total"))

    def bytes_out(self) -> int:
        return int(self.metric("forebay_fetched_bytes_total"))

    def shuffle_files(self) -> list[Path]:
        """Files that hold rows: segments and commit logs. The index's own files are not rows."""
        return [
            path
            for data_dir in self.data_dirs
            for path in data_dir.rglob("*")
            if path.suffix in (".seg", ".log") and "index" not in path.relative_to(data_dir).parts[:-1]
        ]

    def shuffle_bytes(self) -> int:
        total = 0
        for path in self.shuffle_files():
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                pass  # deleted while we looked
        return total

    def errors(self) -> list[str]:
        """ERROR lines of its log: none is expected, whatever was killed around it."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if re.search(r"\bERROR\b|panicked at", line)]

    def tail(self, lines: int = 30) -> str:
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def port_to_keep() -> int:
    """A free one that the kernel gives to nobody who asks for any: a server that comes back needs the port that it had."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(10_000, lowest), 100) if lowest > 10_100 else []:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    return 0
