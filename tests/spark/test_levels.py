"""What a map output survives at each level, and what the level below it loses: a row here is a line of README's table.

Between map stage and reduce stage exactly the thing is killed that the level names, and the answer is Spark's own whatever that cost.
The level `mirror` is in test_servers_gone.py, the level `disk` under an executor and a server process in test_losses.py. On the newest
line only: Spark has no part in it. What needs a file system of its own is skipped without root.
"""

import fcntl
import os
import struct
import subprocess

import pytest

from conftest import asked_once
from harness.application import Application
from harness.job import Job
from harness.run import wait_until
from harness.server import Server

# EXT4_IOC_SHUTDOWN, and its flag to write nothing before: include/uapi/linux/ext4.h.
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2


class Node:
    """A server whose disk is a file system of its own, if that may be mounted here."""

    def __init__(self, run, name: str, *flags: str):
        self.server = Server(run, name, flags=flags)
        self.dir = self.server.data_dirs[0]
        self.image = run.folder("images") / f"{name}.ext4"

    def mount(self) -> str | None:
        """Why not, if not."""
        self.dir.mkdir(parents=True, exist_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(1 << 30)
        for command in (["mkfs.ext4", "-q", self.image], self._mount):
            try:
                subprocess.run(command, check=True, capture_output=True, text=True)
            except OSError as error:
                return str(error)
            except subprocess.CalledProcessError as error:
                return f"{command[0]}: {error.stderr.strip()}"
        return None

    @property
    def _mount(self) -> list:
        return ["mount", "-o", "loop", self.image, self.dir]

    def cut_power(self):
        """What nobody had synced is gone, as far as the file system kept it in memory."""
        self.server.kill()
        directory = os.open(self.dir, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(directory)
        subprocess.run(["umount", self.dir], check=True)
        subprocess.run(self._mount, check=True)

    def close(self):
        assert self.server.stop() == 0, self.server.tail()
        subprocess.run(["umount", self.dir], check=True)


@pytest.fixture(scope="module")
def own_answer(run, newest):
    app = Application(run, newest, "own-levels")
    yield asked_once(app)
    app.stop()


@pytest.fixture(scope="module")
def node(run):
    node = Node(run, "node-0")
    if why := node.mount():
        pytest.skip(f"no file system can be mounted here: {why}")
    node.server.start()
    yield node
    node.close()


@pytest.fixture
def at(run, newest, own_answer):
    """An application at a level on these servers, with the map stage of a job done."""
    apps = []

    def start(level: str, servers: list[Server]) -> Job:
        app = Application(run, newest, f"level-{level}-{len(apps)}", servers, {"spark.forebay.durability": level})
        apps.append(app)
        job = Job(app, own_answer, "aggregation")
        job.maps()
        return job

    yield start
    for app in apps:
        app.stop()


@pytest.mark.long  # the e2e tests have both levels too
def test_level_memory_survives_an_executor_and_a_restart_costs_exactly_its_maps(run, at):
    servers = [Server(run, f"memory-{number}").start() for number in range(2)]
    job = at("memory", servers)
    job.app.kill_executor()
    assert job.finish() == set()
    lost = job.maps_on(servers[0])
    servers[0].restart()
    assert job.finish() == lost != set()
    job.app.stop()
    assert [server.stop() for server in servers] == [0, 0]


def test_level_fsync_survives_a_power_cut(run, node, at):
    other = Server(run, "node-1").start()
    job = at("fsync", [node.server, other])
    assert job.maps_on(node.server)
    node.cut_power()
    node.server.start()
    assert job.finish() == set()
    job.app.stop()
    assert other.stop() == 0


@pytest.mark.long  # the e2e tests cut the power at this level too
def test_level_disk_does_not_and_costs_no_more_than_what_was_there(run, node, at):
    other = Server(run, "node-2").start()
    job = at("disk", [node.server, other])
    there = job.maps_on(node.server)
    node.cut_power()
    node.server.start()
    again = job.finish()
    assert set() < again <= there
    job.app.stop()
    assert other.stop() == 0


@pytest.mark.long
def test_level_object_survives_all_servers(run, at):
    """And nothing but the level has it written back: the policy alone would wait for an hour."""
    store = run.folder("store", "levels")
    flags = ("--remote", store.as_uri(), "--write-back-delay", "1h")
    servers = [Server(run, f"object-{number}", flags=flags).start() for number in range(2)]
    job = at("object", servers)
    assert all(job.maps_on(server) for server in servers)
    for server in servers:
        server.lose()
    for server in servers:
        server.start()
    assert job.finish() == set()
    job.app.stop()
    wait_until(lambda: not any(path.is_file() and not path.name.endswith("marker") for path in store.rglob("*")), 60, "objects of an app that ended are left")
    assert [server.stop() for server in servers] == [0, 0]
