"""Something is killed between the map stage and the reduce stage: what is right, and what runs again.

Both halves of a job are separate calls, so the kill is between them and not merely likely to be. The kinds are an aggregation
(rows that never arrive make it smaller, not wrong to look at) and a count per partition.
"""

import pytest

from harness.job import KINDS, MAPS, Job
from harness.run import wait_until

pytestmark = pytest.mark.every_line


@pytest.fixture
def job(request, forebay, servers, own_answer):
    """A job of that kind with its map stage done, on both servers. `finish()` runs the rest and returns the maps that ran again
    for it."""
    job = Job(forebay, own_answer, request.param)

    def spread() -> bool:
        job.maps()
        return is_spread(job, servers)

    # A driver gives a server that was away, as the test before may have left it, no new shuffle until it has asked it again.
    wait_until(spread, 60, "new shuffles do not go to both servers")
    return job


def is_spread(job, servers) -> bool:
    return [len(job.maps_on(server)) for server in servers] == [MAPS // 2, MAPS // 2]


of_each_kind = pytest.mark.parametrize("job", KINDS, indirect=True)


@of_each_kind
def test_maps_are_spread_evenly_and_registered_under_their_volumes(job, servers):
    assert is_spread(job, servers)
    assert job.finish() == set()


@of_each_kind
def test_executor_killed_costs_no_map(job, forebay):
    forebay.kill_executor()
    assert job.finish() == set()


@of_each_kind
def test_server_killed_and_restarted_on_its_disk_costs_no_map(job, servers):
    volumes = servers[0].volumes
    servers[0].restart()
    assert servers[0].volumes == volumes
    assert job.finish() == set()


@of_each_kind
def test_server_restarted_with_an_empty_disk_costs_exactly_its_maps(job, servers):
    """The case in which a peer's job succeeds with 0 rows: same address, other data."""
    lost = job.maps_on(servers[0])
    servers[0].restart(empty=True)
    assert job.finish() == lost != set()


@of_each_kind
def test_server_that_returns_while_reducers_wait_costs_no_map(job, forebay, servers):
    servers[1].kill()
    waiting = forebay.start_call("run_reduces", name=job.kind)
    with pytest.raises(TimeoutError):
        waiting.result(timeout=2)
    servers[1].restart()
    waiting.result()
    assert job.finish() == set()


@of_each_kind
def test_executor_and_server_killed_together_cost_no_map(job, forebay, servers):
    servers[0].kill()
    forebay.kill_executor()
    servers[0].restart()
    assert job.finish() == set()
