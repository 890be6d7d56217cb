"""Servers are drained, replaced and lost for good. What they wrote back to their object store, or what another server has a copy of,
does not run again.

The store is a directory, and a server that is gone takes its disks along. On the newest line only: Spark has no part in it.
"""

import shutil
import time

import pytest

from conftest import asked_once
from harness.application import Application
from harness.job import KINDS, MAPS, Job, plain
from harness.run import wait_until
from harness.server import Server

CONF = {
    "spark.forebay.retryDeadline": "60s",
    "spark.task.maxFailures": "1",  # an error that a retry would hide fails the job
}


class Pool:
    """Servers on fixed addresses, as pods with names are; each may come back with an empty disk."""

    def __init__(self, run, name: str, count: int, *flags: str):
        self.store = run.folder("store", name)
        flags = ("--remote", self.store.as_uri(), *flags)
        self.servers = [Server(run, f"{name}-{number}", flags=flags).start() for number in range(count)]

    def total(self, metric: str) -> float:
        alive = [server for server in self.servers if server.is_running()]
        return sum(server.metric(f"forebay_{metric}") for server in alive)

    def drain(self, server: Server):
        """As Kubernetes ends a pod whose disk goes with it."""
        assert server.stop() == 0, server.tail()
        for data_dir in server.data_dirs:
            shutil.rmtree(data_dir)

    def close(self):
        """Ends all; what their apps had is gone by then, from the store too."""
        wait_until(lambda: not self.objects(), 60, f"objects of an app that ended are in the store: {self.objects()[:3]}")
        for server in self.servers:
            if server.is_running():
                assert server.stop() == 0, server.tail()
            assert server.errors() == []

    def objects(self) -> list:
        return [path for path in self.store.rglob("*") if path.is_file() and not path.name.endswith("marker")]


@pytest.fixture(scope="module")
def own_answer(run, newest):
    app = Application(run, newest, "own-written-back")
    yield asked_once(app)
    app.stop()


@pytest.fixture(scope="module")
def lazy(run):
    """Three servers that write back only because they are drained."""
    pool = Pool(run, "lazy", 3, "--write-back-delay", "1h")
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def app(run, newest, lazy):
    app = Application(run, newest, "drained", lazy.servers, CONF)
    yield app
    app.stop()


@pytest.mark.long  # the demo does it too
def test_servers_that_are_lost_for_good_after_write_back_cost_no_map(run, newest, own_answer):
    """One of three, then another: what the last one has never seen it finds in the store."""
    pool = Pool(run, "eager", 3)
    app = Application(run, newest, "written-back", pool.servers, CONF | {"spark.forebay.writeback.policy": "eager"})
    jobs = [Job(app, own_answer, kind) for kind in KINDS]
    for job in jobs:
        job.maps()
    pushed = pool.total("pushed_bytes_total")
    assert pushed > 0
    wait_until(lambda: pool.total("written_back_bytes_total") >= pushed, 60, "not all is written back")
    for job, server in zip(jobs, pool.servers, strict=False):
        server.lose()
        assert job.finish() == set()
    app.stop()
    pool.close()


@pytest.mark.long
def test_application_reads_on_from_the_store_when_all_servers_are_gone_for_good(run, newest, own_answer):
    pool = Pool(run, "gone", 3)
    conf = CONF | {"spark.forebay.writeback.policy": "eager", "spark.forebay.remote": pool.store.as_uri()}
    app = Application(run, newest, "read-directly", pool.servers, conf)
    jobs = [Job(app, own_answer, kind) for kind in KINDS]
    for job in jobs:
        job.maps()
    pushed = pool.total("pushed_bytes_total")
    wait_until(lambda: pool.total("written_back_bytes_total") >= pushed > 0, 60, "not all is written back")
    for server in pool.servers:
        server.lose()
    for job in jobs:
        assert job.finish() == set()
    said = [log.read_text().count("reading what it has written back from the object store itself") for log in app.executor_logs()]
    assert max(said) == 1, said  # once in each executor that read
    app.stop()
    for server in pool.servers:
        assert server.errors() == []


@pytest.mark.parametrize("kind", [KINDS[0], pytest.param(KINDS[1], marks=pytest.mark.long)])
def test_job_that_runs_while_each_server_in_turn_is_drained_and_replaced_sees_no_error(lazy, app, own_answer, kind):
    job = Job(app, own_answer, kind)
    running = app.start_call("run_maps", name=kind, kind=kind, maps=MAPS)
    for server in lazy.servers:
        time.sleep(0.3)
        lazy.drain(server)
        server.start()
    running.result()
    for server in lazy.servers:
        lazy.drain(server)
        server.start()
    assert job.finish() == set()


def test_idle_application_outlives_a_pool_of_no_servers(lazy, app, own_answer):
    """3 -> 0 -> 2 servers, the two with empty disks: the shuffle goes on from the store, and so does the application."""
    job = Job(app, own_answer, "aggregation")
    job.maps()
    for server in lazy.servers:
        lazy.drain(server)
    time.sleep(3)
    for server in lazy.servers[:2]:
        server.start()
    assert job.finish() == set()
    again = Job(app, own_answer, "count")
    again.maps()
    assert again.finish() == set()
    lazy.servers[2].start()


@pytest.fixture(scope="module")
def mirrored(run, newest):
    servers = [Server(run, f"mirrored-{number}", disks=disks).start() for number, disks in enumerate((2, 1, 1))]
    app = Application(run, newest, "mirrored", servers, CONF | {"spark.forebay.durability": "mirror"})
    yield servers, app
    app.stop()
    wait_until(lambda: not any(server.shuffle_files() for server in servers), 30, "an application that ended left its files")
    for server in servers:
        assert server.stop() == 0, server.tail()
        assert server.errors() == []


@pytest.mark.parametrize("kind", KINDS)
def test_server_lost_for_good_costs_no_map_where_another_has_a_copy(mirrored, own_answer, kind):
    servers, app = mirrored
    job = Job(app, own_answer, kind)
    job.maps()
    servers[0].lose()
    assert job.finish() == set()
    servers[0].start()


def test_lost_disk_of_several_costs_no_map_where_another_server_has_a_copy(mirrored, own_answer):
    servers, app = mirrored
    job, disks = Job(app, own_answer, "aggregation"), set(servers[0].volumes)

    def on_both() -> bool:
        job.maps()
        locations = job.locations().values()
        return all(any(plain(volume) in plain(location) for location in locations) for volume in disks)

    wait_until(on_both, 60, "no map's output is on one of the disks")
    job.before = app.maps_rerun()
    servers[0].restart_without(servers[0].data_dirs[0])
    assert len(disks - set(servers[0].volumes)) == 1
    assert job.finish() == set()


def test_two_servers_that_lose_their_disks_cost_exactly_the_maps_that_only_they_had(mirrored, own_answer):
    servers, app = mirrored

    def lost_by_both() -> set[int]:
        volumes = [plain(volume) for server in servers[1:] for volume in server.volumes]
        return {number for number, location in job.locations().items() if all(volume in plain(location) for volume in volumes)}

    def spread() -> bool:
        # A driver gives a server that was away no new shuffle until it has asked it again.
        job.maps()
        return 0 < len(lost_by_both()) < MAPS

    job = Job(app, own_answer, "aggregation")
    wait_until(spread, 60, "new shuffles do not go to all servers")
    job.before = app.maps_rerun()
    lost = lost_by_both()
    for server in servers[1:]:
        server.restart(empty=True)
    assert job.finish() == lost
