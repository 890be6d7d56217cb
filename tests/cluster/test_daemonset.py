"""A server on each node, on the node's own disks: executors write to the one beside them first."""

import pytest

from harness.job import plain
from kube.cluster import DIRECTORIES
from kube.forebay import Forebay
from kube.spark import Outside
from kube.underway import Underway

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def daemons(cluster):
    """Two disks, by a pattern."""
    paths = [f"{cluster.dir}/disks/[{''.join(map(str, DIRECTORIES))}]"]
    forebay = Forebay(cluster, "daemons", kind="DaemonSet", storage={"type": "hostPath", "paths": paths}).install()
    yield forebay
    assert forebay.errors() == []
    forebay.uninstall()


def test_each_node_has_one_with_the_disks_that_it_has(cluster, daemons):
    assert sorted(pod["spec"]["nodeName"] for pod in daemons.pods()) == cluster.nodes
    for name in daemons.names():
        said = cluster.kubectl("logs", name).stdout
        ready = next(line for line in said.splitlines() if line.startswith("ready "))
        assert len(ready.split("volumes=")[1].split(",")) == 2, ready


def test_executors_write_to_their_own_nodes_server_up_to_its_part(cluster, daemons, line):
    """With all executors on one node, its server gets a quarter more than half of the maps, and the other the rest."""
    only = "n2"
    app = Outside(cluster, line, "beside", daemons.servers, {"spark.kubernetes.executor.node.selector.kubernetes.io/hostname": only})
    assert set(app.executors_on().values()) == {only}
    job = {"kind": "count", "maps": 24, "reduces": 8, "records": 400_000}
    where = app.call("map_locations", shuffles=app.call("run_maps", name="beside", **job))
    ready = cluster.kubectl("logs", daemons.pod_on(only)).stdout.split("volumes=")[1].split()[0]
    near = [plain(volume) for volume in ready.split(",")]
    assert sum(any(volume in plain(location) for volume in near) for location in where.values()) == 15, (near, where)
    app.stop()


def test_rolling_upgrade_of_daemons(cluster, daemons, line, own_answer):
    app = Outside(cluster, line, "rolled", daemons.servers)
    job = Underway(app)
    daemons.upgrade(image=daemons.values["image"] | {"tag": "2"})
    daemons.ready()
    assert job.finish(own_answer) == {}
    assert job.failures() == []
    app.stop()
