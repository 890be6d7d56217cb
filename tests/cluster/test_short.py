"""The chart's defaults on two nodes, and a server that is deleted under a job: the short choice that `make test` has too."""

from harness.run import wait_until
from kube.spark import Outside


def test_pods_are_ready_by_their_probes_and_say_what_they_are(cluster, forebay):
    for pod in forebay.pods():
        assert all(container["ready"] and container["restartCount"] == 0 for container in pod["status"]["containerStatuses"])
        probes = {"startupProbe", "livenessProbe", "readinessProbe"} & set(pod["spec"]["containers"][0])
        assert probes == {"startupProbe", "livenessProbe", "readinessProbe"}
        assert "ready data=[::]:7400" in cluster.kubectl("logs", pod["metadata"]["name"]).stdout
    assert sorted(pod["spec"]["nodeName"] for pod in forebay.pods()) == cluster.nodes


def test_helm_test_finds_all_servers_and_its_bytes_again(cluster, forebay):
    told = cluster.helm("test", forebay.name, "--namespace", forebay.namespace, "--timeout", "4m", check=False)
    logs = {name: cluster.kubectl("logs", f"{forebay.name}-test", "-c", name, check=False) for name in ("status", "push-and-fetch")}
    assert told.returncode == 0, (told.stderr, logs, cluster.get("pod", f"{forebay.name}-test")["status"])
    servers = logs["status"].stdout
    assert all(f"server {pod}.{forebay.name}:7401" in servers for pod in forebay.names())


def test_job_from_outside_whose_server_is_deleted_runs_no_map_again(cluster, forebay, line):
    app = Outside(cluster, line, "short", forebay.servers, {"spark.sql.shuffle.partitions": "8"})
    job = app.start_call("reshuffled", rows=600_000, maps=24)
    wait_until(lambda: any(forebay.metric(pod, "pushed_bytes_total") for pod in forebay.names()), 240, "nothing is pushed")
    forebay.delete_pod("forebay-0")
    found = job.result(600)
    assert found["shuffled"] == found["own"] and found["own"][0] == 600_000
    assert app.maps_rerun() == {}
    app.stop()
