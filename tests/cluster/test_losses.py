"""What goes away while jobs run: pods, a node by eviction, a node by force, a version. No map runs twice."""

import threading

import pytest

from harness.run import wait_until
from kube.forebay import Forebay
from kube.spark import Outside
from kube.underway import Underway

pytestmark = pytest.mark.long
CONF = {"spark.kubernetes.allocation.executor.timeout": "60s"}
# A driver believes the API server, which says of a lost node's pods for minutes that they run; unless no heartbeat comes.
LOST = CONF | {"spark.network.timeout": "60s", "spark.forebay.retryDeadline": "60s"}


@pytest.fixture(scope="module")
def store(cluster):
    """A directory that all nodes and Spark's pods have under one name: a store that cannot go away."""
    folder = cluster.run.folder("kube", "store")
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def stored(cluster, store):
    """Servers that write back to a store which pods see as a volume."""
    forebay = Forebay(
        cluster,
        "stored",
        remote=store.as_uri(),
        extraVolumes=[{"name": "store", "hostPath": {"path": str(store), "type": "Directory"}}],
        extraVolumeMounts=[{"name": "store", "mountPath": str(store)}],
    ).install()
    yield forebay
    assert forebay.errors() == []
    forebay.uninstall()


@pytest.fixture(scope="module")
def app(cluster, line, stored):
    app = Outside(cluster, line, "losses", stored.servers, CONF)
    yield app
    app.stop()


def test_pods_deleted_one_by_one_without_a_store(cluster, forebay, line, own_answer):
    """Each finds its volume again; what is pushed and read meanwhile waits for it."""
    app = Outside(cluster, line, "deleted", forebay.servers, CONF)
    job = Underway(app)
    forebay.delete_pod("forebay-0")
    job.maps_done()
    deletion = threading.Thread(target=forebay.delete_pod, args=["forebay-1"])
    deletion.start()
    assert job.finish(own_answer) == {}
    deletion.join()
    assert job.failures() == []
    app.stop()


def test_node_is_drained_and_its_volume_is_not_to_be_had(cluster, stored, app, own_answer):
    job = Underway(app)
    pod = stored.pod_on("n2")
    # The executors go too: they are pods that nobody makes again but their driver.
    cluster.kubectl("drain", "n2", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=300s")
    try:
        wait_until(lambda: phase(cluster, pod) == "Pending", 120, f"{pod} is somewhere else, though its volume is on n2")
        assert job.finish(own_answer) == {}
    finally:
        cluster.kubectl("uncordon", "n2")
    stored.ready()


def test_second_node_is_not_drained_while_a_server_is_away(cluster, stored):
    """The disruption budget says so. (The pod that is away must be one that the budget counts.)"""
    cluster.kubectl("drain", "n2", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--pod-selector=app.kubernetes.io/instance=stored")
    try:
        refused = cluster.kubectl("drain", "n1", "--pod-selector=app.kubernetes.io/instance=stored", "--timeout=10s", check=False)
        assert refused.returncode != 0
        assert "violate the pod's disruption budget" in refused.stderr
    finally:
        cluster.kubectl("uncordon", "n1", "n2")
    stored.ready()


def test_rolling_upgrade(cluster, stored, app, own_answer):
    job = Underway(app)
    stored.upgrade(image=stored.values["image"] | {"tag": "2"})
    stored.ready()
    assert {pod["spec"]["containers"][0]["image"] for pod in stored.pods()} == {"localhost/forebay:2"}
    assert job.finish(own_answer) == {}
    assert job.failures() == []


def test_rollout_restart_between_the_stages(cluster, stored, app, own_answer):
    job = Underway(app)
    job.maps_done()
    cluster.kubectl("rollout", "restart", stored.workload)
    assert job.finish(own_answer) == {}
    stored.ready()
    assert job.failures() == []


def test_node_dies_and_what_it_acknowledged_is_in_the_store(cluster, stored, line, own_answer):
    app = Outside(cluster, line, "objects", stored.servers, LOST | {"spark.forebay.durability": "object"})
    node_dies(cluster, app, own_answer, "n2")
    app.stop()
    stored.ready()


def test_node_dies_and_its_mirror_is_on_the_other(cluster, line, own_answer):
    mirrored = Forebay(cluster, "mirrored", replicas=3).install()
    app = Outside(cluster, line, "mirrors", mirrored.servers, LOST | {"spark.forebay.durability": "mirror"})
    nodes = [pod["spec"]["nodeName"] for pod in mirrored.pods()]
    node_dies(cluster, app, own_answer, min(cluster.nodes, key=nodes.count))  # two are left, as mirrors need
    app.stop()
    mirrored.ready()
    assert mirrored.errors() == []
    mirrored.uninstall()


def node_dies(cluster, app, own_answer, node: str):
    """The kubelet and every process of every pod at once, executors among them; nobody tells the others."""
    job = Underway(app)
    cluster.kill_kubelet(node)
    assert cluster.kill_pods(node) > 0
    try:
        assert job.finish(own_answer) == {}
    finally:
        cluster.start_kubelet(node)
    cluster.kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=300s")


def phase(cluster, pod: str) -> str:
    return cluster.kubectl("get", "pod", pod, "-o", "jsonpath={.status.phase}", check=False).stdout
