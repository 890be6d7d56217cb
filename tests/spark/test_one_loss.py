"""However many disks and servers are lost together, it is one failure of the stage that reads: Spark gives a stage four.

Executors of two cores each, so that two tasks share a JVM and its connections, and five servers.
"""

import itertools
import os
import re
import subprocess

import pytest

from harness.application import Application
from harness.job import plain
from harness.places import CLI
from harness.run import wait_until
from harness.server import Server

CONF = {"spark.master": "local-cluster[2,2,1024]", "spark.forebay.retryDeadline": "8s", "spark.sql.autoBroadcastJoinThreshold": "-1"}
MAPS = 72  # some for each of the twelve disks


class Loss:
    """A job between whose halves something is lost."""

    def __init__(self, app: Application, own_answer, name: str, reduces: int, maps: int = MAPS, records: int = 200_000, kind: str = "count"):
        self.app, self.name = app, name
        job = {"kind": kind, "maps": maps, "reduces": reduces, "records": records}
        own_answer("run_maps", name=name, **job)
        self.expected = own_answer("run_reduces", name=name)
        self.shuffles = app.call("run_maps", name=name, **job)
        self.where = app.call("map_locations", shuffles=self.shuffles)
        self.before = app.maps_rerun()
        self.failed = len(app.events.task_failures())
        self.stages = stages(app)

    def volumes(self) -> set[str]:
        return {volume for where in self.where.values() for volume in copies(where)}

    def on(self, servers) -> set[int]:
        """Maps of which every copy is on these servers."""
        volumes = {plain(volume) for server in servers for volume in server.volumes}
        return {int(output.split("/")[1]) for output, where in self.where.items() if copies(where) <= volumes}

    def finish(self, lost: set[int], failures: int = 1):
        """Runs the second half: right, each lost map once more, and the reading stage tried once more."""
        assert self.app.call("run_reduces", name=self.name) == self.expected
        again = self.app.maps_rerun() - self.before
        assert {number for _, number in again} == lost
        assert set(again.values()) == {1}
        assert stages(self.app) - self.stages == failures
        assert set(self.app.events.task_failures()[self.failed :]) == {"FetchFailed"}


def copies(location: str) -> set[str]:
    """The volumes of a location id: forebay-<shuffle>-<volume>, or two of them with a + in between."""
    return {plain(volume) for volume in location.split("-", 2)[2].split("+")}


def stages(app) -> int:
    """How often a stage that writes no shuffle was tried again."""
    app.call("settle")
    maps = {end["Stage ID"] for end in app.events.task_ends() if end["Task Type"] == "ShuffleMapTask"}
    tried = [event["Stage Info"] for event in app.events.events() if event["Event"] == "SparkListenerStageSubmitted"]
    return sum(stage["Stage Attempt ID"] > 0 and stage["Stage ID"] not in maps for stage in tried)


@pytest.fixture(scope="module")
def big(run, line):
    return Server(run, f"{line.version}-big", disks=12).start()


@pytest.fixture(scope="module")
def small(run, line):
    servers = [Server(run, f"{line.version}-small-{number}").start() for number in range(4)]
    yield servers
    assert [server.stop() for server in servers] == [0] * 4
    assert [error for server in servers for error in server.errors()] == []


@pytest.fixture(scope="module")
def app(run, line, big, small):
    app = Application(run, line, f"losses-{line.version}", [big, *small], CONF)
    yield app
    app.stop()


def test_server_of_twelve_disks_that_comes_back_empty(app, big, own_answer):
    loss = Loss(app, own_answer, "emptied", reduces=6)
    lost = loss.on([big])
    assert len(loss.volumes() & {plain(volume) for volume in big.volumes}) > 4, loss.where
    big.restart(empty=True)
    loss.finish(lost)


def test_all_servers_come_back_empty(app, big, small, own_answer):
    loss = Loss(app, own_answer, "all emptied", reduces=1)
    for server in (big, *small):
        server.restart(empty=True)
    loss.finish(set(range(MAPS)))


def test_freed_shuffle_on_many_volumes_is_read_again_without_a_failure(app, own_answer):
    loss = Loss(app, own_answer, "freed", reduces=1)
    assert len(loss.volumes()) > 4
    for shuffle in loss.shuffles:
        app.call("remove_shuffle", shuffle=shuffle)
    assert app.call("run_reduces", name="freed") == loss.expected
    assert {number for _, number in app.maps_rerun() - loss.before} == set(range(MAPS))
    assert app.events.task_failures()[loss.failed :] == []


def test_driver_forgets_what_other_shuffles_lost_too(app, big, small, own_answer):
    """What nobody reads at the moment is not found out by a failure of its own later."""
    other = Loss(app, own_answer, "other", reduces=2)
    loss = Loss(app, own_answer, "one", reduces=2)
    lost, too = loss.on([small[0]]), other.on([small[0]])
    assert lost and too
    small[0].restart(empty=True)
    loss.finish(lost)
    wait_until(lambda: set(missing(app, other)) == too, 30, "the other shuffle's outputs are registered still")
    failed = len(app.events.task_failures())
    assert app.call("run_reduces", name="other") == other.expected
    assert app.events.task_failures()[failed:] == []


def missing(app, loss):
    where = app.call("map_locations", shuffles=loss.shuffles)
    return [int(output.split("/")[1]) for output, location in where.items() if location == "-"]


@pytest.mark.every_line
def test_server_of_twelve_disks_that_is_gone_for_good(app, big, own_answer):
    """The one reducer waits for it once."""
    loss = Loss(app, own_answer, "gone", reduces=1)
    lost = loss.on([big])
    assert len(loss.volumes() & {plain(volume) for volume in big.volumes}) > 4, loss.where
    big.lose()
    loss.finish(lost)
    app.call("settle")
    assert app.events.task_failures()[loss.failed :] == ["FetchFailed"]


LARGE = {"maps": 12, "records": 600_000}  # small outputs are in the commit log first
AROUND = 24  # bytes before and behind one, by which a place is found again elsewhere


def flip(server, count: int = 1) -> list[bytes]:
    """Flips bits of blocks on the server's disk, far from each other; in what describes blocks they would cost nothing.

    Returns what was there, with the byte in the middle that has changed.
    """
    were = []
    server.kill()  # what was written last is in memory too
    path = max((path for path in server.shuffle_files() if path.suffix == ".seg"), key=lambda path: path.stat().st_size)
    size = path.stat().st_size
    with open(path, "r+b", buffering=0) as file:
        for number in range(count):
            were.append(break_a_block(file, range(size * (2 * number + 1) // (2 * count), size, 9973)))
    server.start()
    return were


def break_a_block(file, offsets) -> bytes:
    for offset in offsets:
        were = os.pread(file.fileno(), 2 * AROUND + 1, offset - AROUND)
        if is_broken_at(file, offset):
            return were
    raise AssertionError("no block is there")


def flip_there_too(folder, were: bytes):
    """Flips the same bit of the same block where it lies in a file of a folder."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        data = bytearray(path.read_bytes())
        at = data.find(were)
        if at >= 0:
            data[at + AROUND] ^= 8
            path.write_bytes(data)
            return
    raise AssertionError(f"the block is in no file of {folder}")


def is_broken_at(file, offset: int) -> bool:
    """Flips a bit there, if that breaks a block of one more map."""
    byte = os.pread(file.fileno(), 1, offset)[0]
    before = maps_broken(file.name)
    os.pwrite(file.fileno(), bytes([byte ^ 8]), offset)
    if maps_broken(file.name) > before:
        return True
    os.pwrite(file.fileno(), bytes([byte]), offset)
    return False


def maps_broken(path) -> set[int]:
    said = subprocess.run([CLI, "inspect", "segment", path], capture_output=True, text=True, check=False)
    return {int(number) for number in re.findall(r"\bblock \d+ of map (\d+) .* fails its checksum", said.stderr)}


@pytest.mark.every_line
def test_flipped_bit_costs_one_map(run, line, own_answer):
    """And not what lies beside it on the same volume."""
    server = Server(run, f"{line.version}-flipped").start()
    app = Application(run, line, f"flipped-{line.version}", [server], CONF)
    for reduces in (1, 6):
        loss = Loss(app, own_answer, f"flipped {reduces}", reduces=reduces, **LARGE)
        assert len(loss.on([server])) == LARGE["maps"]
        flip(server)
        assert app.call("run_reduces", name=loss.name) == loss.expected
        again = app.maps_rerun() - loss.before
        assert list(again.values()) == [1], f"ran again: {again}"
        assert stages(app) - loss.stages in (1, 2)  # Spark may try again before the driver has told it what is lost
        assert set(app.events.task_failures()[loss.failed :]) == {"FetchFailed"}
        for shuffle in loss.shuffles:
            app.call("remove_shuffle", shuffle=shuffle)
    app.stop()
    assert len(server.errors()) >= 2  # a person must look at a disk that does this
    assert server.stop() == 0


def test_many_flipped_bits_cost_their_maps_and_one_try(run, line, own_answer):
    """The reducers find them one by one, each those of its partitions, and the failure tells of all: a stage has four attempts."""
    server = Server(run, f"{line.version}-flipped-often").start()
    app = Application(run, line, f"flipped-often-{line.version}", [server], CONF)
    for reduces in (1, 6):
        loss = Loss(app, own_answer, f"flipped often {reduces}", reduces=reduces, **LARGE)
        flip(server, count=6)
        broken = set().union(*(maps_broken(path) for path in server.shuffle_files() if path.suffix == ".seg"))
        assert len(broken) == 6
        assert app.call("run_reduces", name=loss.name) == loss.expected
        again = app.maps_rerun() - loss.before
        assert {number for _, number in again} == broken
        assert set(again.values()) == {1}
        assert stages(app) - loss.stages in (1, 2)  # Spark may try again before the driver has told it what is lost
        for shuffle in loss.shuffles:
            app.call("remove_shuffle", shuffle=shuffle)
    app.stop()
    assert server.stop() == 0


def test_flipped_bit_costs_nothing_where_the_store_has_a_good_copy(run, line, own_answer):
    store = run.folder("store", f"{line.version}-flipped")
    server = Server(run, f"{line.version}-flipped-stored", flags=("--remote", store.as_uri())).start()
    app = Application(run, line, f"flipped-stored-{line.version}", [server], CONF | {"spark.forebay.writeback.policy": "eager"})
    loss = Loss(app, own_answer, "flipped stored", reduces=6, **LARGE)
    pushed = server.metric("forebay_pushed_bytes_total")
    assert pushed > 0
    wait_until(lambda: server.metric("forebay_written_back_bytes_total") >= pushed, 60, "not all is written back")
    flip(server)
    assert app.call("run_reduces", name=loss.name) == loss.expected
    assert app.maps_rerun() == loss.before
    assert app.events.task_failures()[loss.failed :] == []
    app.stop()
    assert server.errors()  # it has been seen
    assert server.stop() == 0


def test_bit_that_is_bad_on_the_disk_and_in_the_store_costs_one_map(run, line, own_answer):
    store = run.folder("store", f"{line.version}-flipped-both")
    server = Server(run, f"{line.version}-flipped-both", flags=("--remote", store.as_uri())).start()
    app = Application(run, line, f"flipped-both-{line.version}", [server], CONF | {"spark.forebay.writeback.policy": "eager"})
    loss = Loss(app, own_answer, "flipped both", reduces=6, **LARGE)
    pushed = server.metric("forebay_pushed_bytes_total")
    wait_until(lambda: server.metric("forebay_written_back_bytes_total") >= pushed > 0, 60, "not all is written back")
    [were] = flip(server)
    flip_there_too(store, were)
    assert app.call("run_reduces", name=loss.name) == loss.expected
    again = app.maps_rerun() - loss.before
    assert list(again.values()) == [1], f"ran again: {again}"
    assert set(app.events.task_failures()[loss.failed :]) == {"FetchFailed"}
    app.stop()
    assert server.errors()  # it has been seen
    assert server.stop() == 0


SKEW = CONF | {
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "100k",
    "spark.sql.adaptive.skewJoin.skewedPartitionFactor": "1.5",
    "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes": "200k",
}


@pytest.mark.long
def test_flipped_bit_in_a_partition_that_is_read_in_ranges_of_maps(run, line, own_answer):
    """Only the task whose range it is in sees it."""
    server = Server(run, f"{line.version}-skewed").start()
    app = Application(run, line, f"skewed-{line.version}", [server], SKEW)
    for _ in range(2):
        loss = Loss(app, own_answer, "skewed", reduces=6, kind="skew", maps=8, records=400_000)
        assert app.call("reduce_tasks", name="skewed") > 6, "no partition is read in ranges of maps"
        flip(server)
        assert app.call("run_reduces", name=loss.name) == loss.expected
        again = app.maps_rerun() - loss.before
        assert list(again.values()) == [1], f"ran again: {again}"
        for shuffle in loss.shuffles:
            app.call("remove_shuffle", shuffle=shuffle)
    app.stop()
    assert server.stop() == 0


@pytest.mark.long
def test_flipped_bit_costs_nothing_where_another_server_has_a_copy(run, line, own_answer):
    servers = [Server(run, f"{line.version}-flipped-mirror-{number}").start() for number in range(2)]
    app = Application(run, line, f"flipped-mirror-{line.version}", servers, CONF | {"spark.forebay.durability": "mirror"})
    loss = Loss(app, own_answer, "one copy", reduces=6, **LARGE)
    flip(servers[0])
    assert app.call("run_reduces", name=loss.name) == loss.expected
    assert app.maps_rerun() == loss.before
    app.stop()
    assert [server.stop() for server in servers] == [0, 0]


@pytest.mark.long
def test_four_servers_that_are_gone_for_good(run, line, own_answer):
    """Whether it waits for each, or for all at once: not four times."""
    servers = [Server(run, f"{line.version}-four-{number}", disks=3).start() for number in range(5)]
    app = Application(run, line, f"four-{line.version}", servers, CONF)
    loss = Loss(app, own_answer, "four", reduces=1)
    lost = loss.on(servers[:4])
    for server in servers[:4]:
        server.lose()
    assert app.call("run_reduces", name="four") == loss.expected
    assert {number for _, number in app.maps_rerun() - loss.before} == lost
    assert stages(app) - loss.stages <= 2
    app.stop()
    assert servers[4].stop() == 0


@pytest.mark.long
def test_both_servers_of_many_pairs_of_volumes_are_gone_for_good(run, line, own_answer):
    servers = [Server(run, f"{line.version}-mirror-{number}", disks=3).start() for number in range(4)]
    app = Application(run, line, f"pairs-{line.version}", servers, CONF | {"spark.forebay.durability": "mirror"})
    loss = Loss(app, own_answer, "pairs", reduces=1, maps=60)

    def places(pair) -> set[str]:
        """Pairs of volumes on both, which have outputs of their own."""
        return {loss.where[f"{loss.shuffles[0]}/{number}"] for number in loss.on(pair)}

    # Which servers are each other's second is nobody's promise.
    gone = max(itertools.combinations(servers, 2), key=lambda pair: len(places(pair)))
    assert len(places(gone)) >= 3, loss.where
    lost = loss.on(gone)
    for server in gone:
        server.lose()
    loss.finish(lost)
    app.stop()
    assert [server.stop() for server in servers if server not in gone] == [0, 0]
