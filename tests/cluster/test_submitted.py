"""`spark-submit --master k8s://… --deploy-mode cluster`, and what an operator does by `kubectl exec`."""

import json

import pytest

from harness.eventlog import EventLog
from harness.run import wait_until
from kube import spark

pytestmark = pytest.mark.long


def test_application_submitted_to_the_cluster_runs_there(cluster, forebay, line):
    spark.submit(cluster, line, "submitted", forebay.servers, [600_000, 24])
    wait_until(lambda: any(forebay.metric(pod, "pushed_bytes_total") for pod in forebay.names()), 300, "nothing is pushed")
    forebay.delete_pod("forebay-1")
    log = spark.finished(cluster, "submitted")
    found = json.loads(next(said for said in log.splitlines() if said.startswith("ANSWER "))[7:])
    assert found["manager"] == "io.forebay.spark.ForebayShuffleManager"
    assert found["shuffled"] == found["own"] and found["own"][0] == 600_000
    assert EventLog(cluster.run.folder("spark", "submitted", "events")).maps_rerun() == {}


def test_tool_works_in_the_pods(cluster, forebay):
    said = forebay.exec("forebay-0", "forebay", "status", "--server", "127.0.0.1:7401").stdout
    assert "127.0.0.1:7401" in said and "ok" in said


def test_jar_comes_by_an_init_container(cluster):
    """In a pod of whatever image: the server's own brings the plugin into a volume."""
    cluster.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "jar"}, "spec": {
        "volumes": [{"name": "target", "emptyDir": {}}],
        "initContainers": [{"name": "jar", "image": "localhost/forebay:1", "imagePullPolicy": "Never", "volumeMounts": [{"name": "target", "mountPath": "/target"}],
                            "command": ["/usr/local/bin/forebay", "jar", "/target"], "securityContext": {"runAsUser": 123456, "readOnlyRootFilesystem": True}}],
        "containers": [{"name": "main", "image": "localhost/pause:1", "imagePullPolicy": "Never"}]}}))  # fmt: skip
    cluster.kubectl("wait", "--for=condition=Ready", "pod/jar", "--timeout=120s")
    pod = cluster.get("pod", "jar")
    volumes = cluster.dir / pod["spec"]["nodeName"] / "kubelet" / "pods" / pod["metadata"]["uid"] / "volumes"
    assert (volumes / "kubernetes.io~empty-dir" / "target" / "forebay-spark.jar").read_bytes()[:2] == b"PK"
    cluster.kubectl("delete", "pod", "jar", "--grace-period=1")


def test_drain_by_exec_ends_the_server_and_the_pod_comes_back(cluster, forebay):
    before = restarts(forebay, "forebay-1")
    forebay.exec("forebay-1", "forebay", "drain", "--wait", "--server", "127.0.0.1:7401")
    wait_until(lambda: restarts(forebay, "forebay-1") > before, 120, "the drained server does not end")
    forebay.ready()


def restarts(forebay, name: str) -> int:
    pod = next(pod for pod in forebay.pods() if pod["metadata"]["name"] == name)
    return pod["status"]["containerStatuses"][0]["restartCount"]
