"""What is tried again gives the answer of the first time, and only what was lost is tried again: counted.

Where a server is lost *while* something runs, the tasks wait for it at a gate (`Gates.java`): the loss is between two lines of a
task, and not merely likely to be.
"""

import shutil
from collections import defaultdict

import pytest

from harness.application import Application, CallFailed
from harness.run import wait_until
from harness.server import Server

CONF = {
    "spark.sql.autoBroadcastJoinThreshold": "-1",
    "spark.reducer.maxSizeInFlight": "64k",  # so that a reducer that waits has most of its input still to ask for
    "spark.forebay.retryDeadline": "20s",
}


@pytest.fixture(scope="module")
def two_disks(run, line):
    server = Server(run, f"{line.version}-two-disks", disks=2).start()
    yield server
    assert server.stop() == 0
    assert server.errors() == []


@pytest.fixture(scope="module")
def one_disk(run, line):
    server = Server(run, f"{line.version}-one-disk").start()
    yield server
    assert server.stop() == 0
    assert server.errors() == []


@pytest.fixture(scope="module")
def app(run, line, two_disks, one_disk):
    app = Application(run, line, f"retries-{line.version}", [two_disks, one_disk], CONF)
    yield app
    app.stop()


@pytest.fixture
def gates(run, request):
    return Gates(run.folder("gates", request.node.name.translate(str.maketrans("[]/.", "----"))))


class Gates:
    """The folder that tasks and test share."""

    def __init__(self, folder):
        self.folder = folder

    def __str__(self):
        return str(self.folder)

    def reached(self, *names):
        wait_until(lambda: all((self.folder / name).exists() for name in names), 180, f"no task was at {names}")

    def open(self, name):
        (self.folder / f"open-{name}").touch()


def plain(uuid: str) -> str:
    return uuid.replace("-", "").lower()


class Outputs:
    """Where the outputs of some shuffles were, and which maps have run again since."""

    def __init__(self, app, shuffles):
        self.app = app
        self.where = app.call("map_locations", shuffles=shuffles)
        self.before = app.maps_rerun()

    def on(self, volumes) -> dict[int, set[int]]:
        """Map indexes by shuffle."""
        found = defaultdict(set)
        for output, location in self.where.items():
            shuffle, number = map(int, output.split("/"))
            if any(plain(location).endswith(plain(volume)) for volume in volumes):
                found[shuffle].add(number)
        return dict(found)

    def rerun(self) -> list[list[int]]:
        """Map indexes that ran once more, of each shuffle; none may have run more often."""
        again, found = self.app.maps_rerun() - self.before, defaultdict(set)
        assert all(runs == 1 for runs in again.values()), f"maps ran more than once again: {again}"
        for rdd, number in again:
            found[rdd].add(number)
        return each(found)


def each(maps: dict[int, set[int]]) -> list[list[int]]:
    """Of each shuffle, whatever its number (the event log does not tell it)."""
    return sorted(sorted(numbers) for numbers in maps.values())


def shuffles_now(app) -> set[int]:
    return set(app.call("shuffles"))


def own_reduces(own_answer, call="run_reduces", **job):
    name = f"retries {job}"
    own_answer("run_maps", name=name, **job)
    return own_answer(call, name=name)


# === what was lost, and nothing else ===


@pytest.mark.every_line
def test_lost_disk_of_several_costs_exactly_its_maps(app, two_disks, own_answer):
    job = {"kind": "aggregation", "maps": 40}
    outputs = Outputs(app, app.call("run_maps", name="disk", **job))
    volumes = two_disks.volumes
    two_disks.restart_without(two_disks.data_dirs[0])
    gone = set(volumes) - set(two_disks.volumes)
    lost, kept = outputs.on(gone), outputs.on(two_disks.volumes)
    assert len(gone) == 1 and lost and kept, f"{outputs.where} on {volumes}"
    assert app.call("run_reduces", name="disk") == own_reduces(own_answer, **job)
    assert outputs.rerun() == each(lost)


def test_server_lost_between_the_rows_of_a_reducer(app, one_disk, own_answer, gates):
    job = {"kind": "count", "maps": 8, "reduces": 4, "records": 1_000_000}
    outputs = Outputs(app, app.call("run_maps", name="middle", **job))
    expected = own_reduces(own_answer, "paused_reduces", **job)
    failures = len(app.events.task_failures())
    reduces = app.start_call("paused_reduces", name="middle", gates=str(gates))
    gates.reached("at-middle-0", "at-middle-1")
    lost = outputs.on(one_disk.volumes)
    one_disk.restart(empty=True)
    gates.open("middle")
    assert reduces.result() == expected
    assert outputs.rerun() == each(lost) != []
    app.call("settle")
    assert set(app.events.task_failures()[failures:]) == {"FetchFailed"}


@pytest.mark.long
def test_servers_killed_and_emptied_one_after_the_other_while_maps_push(run, line, own_answer):
    """The directories stay, as mount points do. What was committed there is written again, and what is being pushed goes on elsewhere."""
    servers = [Server(run, f"{line.version}-emptied-{number}").start() for number in range(2)]
    app = Application(run, line, f"emptied-{line.version}", servers, CONF | {"spark.master": "local-cluster[2,2,1024]"})
    job = {"kind": "marked", "maps": 32, "reduces": 6, "records": 6_000_000}
    expected = own_reduces(own_answer, **job)
    maps = app.start_call("run_maps", name="emptied", **job)
    for server in servers:
        wait_until(lambda: server.metric("forebay_commits_total") >= 2, 120, "nothing is committed")
        server.kill()
        for data_dir in server.data_dirs:
            for path in data_dir.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        server.start()
    maps.result()
    assert app.call("run_reduces", name="emptied") == expected
    app.call("settle")
    assert set(app.events.task_failures()) <= {"FetchFailed"}
    assert app.maps_rerun(), "nothing was lost"
    app.stop()
    assert [server.stop() for server in servers] == [0, 0]
    assert [error for server in servers for error in server.errors()] == []


def test_lost_outputs_of_two_stages_are_written_again_stage_by_stage(app, one_disk, own_answer, gates):
    known = shuffles_now(app)
    job = app.start_call("retry", job="chain", gates=str(gates))
    gates.reached("at-reader-0", "at-reader-1")
    outputs = Outputs(app, sorted(shuffles_now(app) - known))
    lost = outputs.on(one_disk.volumes)
    one_disk.restart(empty=True)
    gates.open("reader")
    assert job.result() == own_answer("retry", job="chain")
    assert len(lost) == 2
    assert outputs.rerun() == each(lost)


def test_new_shuffle_on_an_emptied_server_does_not_make_the_old_one_look_empty(app, one_disk, own_answer):
    """A peer's server that has come back without its data knows the application again from its next shuffle on, and answers for
    the one before with no rows and success."""
    job = {"kind": "count", "maps": 16}
    outputs = Outputs(app, app.call("run_maps", name="old", **job))
    lost = outputs.on(one_disk.volumes)
    one_disk.restart(empty=True)
    wait_until(lambda: newly_on(app, one_disk), 60, "no new shuffle went to the server that came back")
    assert app.call("run_reduces", name="old") == own_reduces(own_answer, **job)
    assert outputs.rerun() == each(lost) != []


def newly_on(app, server) -> bool:
    return Outputs(app, app.call("run_maps", name="new", kind="count", maps=4, records=1000)).on(server.volumes) != {}


def test_shuffle_whose_storage_was_freed_is_written_again_when_it_is_read_again(app, own_answer):
    job = {"kind": "aggregation", "maps": 12}
    for name in ("freed", "freed again"):
        shuffles = app.call("run_maps", name=name, **job)
        outputs = Outputs(app, shuffles)
        failures = len(app.events.task_failures())
        for shuffle in shuffles:
            app.call("remove_shuffle", shuffle=shuffle)
        assert app.call("run_reduces", name=name) == own_reduces(own_answer, **job)
        assert outputs.rerun() == [list(range(12))]
        assert app.events.task_failures()[failures:] == [], "a driver that frees a shuffle knows that it is not there"


# === attempts ===


@pytest.mark.parametrize("first", [0, 1])
def test_two_attempts_of_a_map_write_at_once_and_one_is_read(app, one_disk, two_disks, own_answer, gates, first):
    """A stage is tried again while a task of its first try is still at work; either may be the first to end."""
    committed = sum(server.metric("forebay_commits_total") for server in (one_disk, two_disks))
    job = app.start_call("retry", job="twoAttempts", gates=str(gates))
    gates.reached("at-reader-1", "attempt-0")
    lost_commits = one_disk.metric("forebay_commits_total")
    one_disk.restart(empty=True)
    gates.open("reader")
    gates.reached("attempt-1")
    gates.open(f"writer-{first}")

    def now():
        return sum(server.metric("forebay_commits_total") for server in (one_disk, two_disks)) + lost_commits - committed

    before = now()
    wait_until(lambda: now() > before, 180, "the first of the two did not commit")
    gates.open(f"writer-{1 - first}")
    assert job.result() == own_answer("retry", job="twoAttempts")


def test_outputs_of_attempts_that_failed_are_never_read(app, own_answer):
    """Each task writes rows that are wrong twice and fails when they are committed: at its end, as a listener of a task may."""
    assert app.call("retry", job="garbage") == own_answer("retry", job="garbage")


def test_barrier_stage_that_lost_an_output_runs_again_as_a_whole(app, one_disk, own_answer, gates):
    known = shuffles_now(app)
    job = app.start_call("retry", job="barrier", gates=str(gates))
    gates.reached("at-reader-0", "at-reader-1")
    outputs = Outputs(app, sorted(shuffles_now(app) - known))
    assert [len(maps) for maps in outputs.on(one_disk.volumes).values()] == [1]
    one_disk.restart(empty=True)
    gates.open("reader")
    assert job.result() == own_answer("retry", job="barrier")
    assert outputs.rerun() == [[0, 1]]


def test_barrier_stage_of_which_a_task_fails_runs_again_as_a_whole(app, own_answer):
    assert app.call("retry", job="barrierTask") == own_answer("retry", job="barrierTask")


# === maps that give other rows the second time ===


def test_records_dealt_out_in_an_order_that_may_differ_fail_the_job_rather_than_be_mixed(app, one_disk, gates):
    """Spark knows that the second run of such a map may differ, and cannot take back the reduce tasks that have ended."""
    job = app.start_call("retry", job="indeterminate", gates=str(gates))
    gates.reached("at-reader-2", "at-reader-3")
    one_disk.restart(empty=True)
    gates.open("reader")
    with pytest.raises(CallFailed, match="indeterminate"):
        job.result()


def test_rows_that_differ_when_their_map_runs_again_fail_the_job_rather_than_be_mixed(app, line, one_disk, gates):
    """Spark finds it out by comparing the checksums over the rows of both attempts, which the shuffle writer has to tell it. With
    none to compare, this job succeeds, with rows that are missing and others that are there twice."""
    if tuple(map(int, line.version.split(".")[:2])) < (4, 2):
        pytest.skip("Spark's own shuffle gives wrong rows before 4.2 (SPARK-51756): there is nothing to compare")
    job = app.start_call("random_rows", gates=str(gates), records=8000)
    gates.reached("at-reader-2", "at-reader-3")
    one_disk.restart(empty=True)
    gates.open("reader")
    with pytest.raises(CallFailed, match="indeterminate"):
        job.result()
