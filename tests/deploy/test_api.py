"""What a real API server and Kubernetes' own controllers make of the chart, in a namespace that enforces `restricted`."""

import os
import subprocess

import api
import pytest
from chart import CHART, ROOT, objects, workload, yaml
from sets import SETS

HOST = {name for name, values in SETS.items() if "paths" in values.get("storage", {})}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    programs = api.programs()
    if not programs:
        (pytest.fail if os.environ.get("FOREBAY_TEST_NO_SKIP") == "1" else pytest.skip)("no API server: ./setup.sh --cluster builds it")
    server = api.Api(tmp_path_factory.mktemp("api"), programs)
    try:
        yield server.start()
    finally:
        server.stop()


def pods(server, namespace: str) -> list[dict]:
    return [pod for pod in server.get(namespace, "pods") if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "server"]


@pytest.mark.parametrize("name", [name for name in SETS if name not in HOST])
def test_a_restricted_namespace_takes_every_set_but_host_paths(server, name):
    values, space = SETS[name], name.replace(" ", "-").lower()
    with server.namespace(space) as helm:
        if values.get("serviceAccount", {}).get("create") is False:
            server.kubectl("create", "-n", space, "serviceaccount", values["serviceAccount"]["name"])
        helm.install(CHART, "forebay", values)
        of = workload(values)["spec"]
        wanted = len(api.NODES) if values.get("kind") == "DaemonSet" else of.get("replicas", 1)
        server.until(lambda: len(pods(server, space)) == wanted, f"{wanted} pods are not made: {server.kubectl('get', 'events', '-n', space).stdout}", 30)
        claims = {claim["metadata"]["name"] for claim in server.get(space, "pvc")}
        if "volumeClaimTemplates" in of:
            assert len(claims) == wanted * len(of["volumeClaimTemplates"])
        helm.uninstall("forebay")
        # Claims of type pvc stay, and nothing else that is ours.
        left = server.kubectl("get", "-n", space, "statefulset,daemonset,service,configmap,serviceaccount,pdb,networkpolicy,hpa", "-l", "app.kubernetes.io/instance=forebay", "-o", "name").stdout
        assert left == ""
        if "volumeClaimTemplates" in of and "retention" not in values.get("storage", {}):
            assert {claim["metadata"]["name"] for claim in server.get(space, "pvc")} == claims
            assert all(claim.startswith("data-") for claim in claims)


@pytest.mark.parametrize("name", sorted(HOST))
def test_the_namespace_does_refuse_host_paths(server, name):
    """Else the test above would show nothing."""
    space = name.replace(" ", "-").lower()
    with server.namespace(space) as helm:
        helm.install(CHART, "forebay", SETS[name] | {"nodeSelector": {}})
        server.until(lambda: "hostPath" in server.kubectl("get", "events", "-n", space, "-o", "json").stdout, "nobody refused the pod", 30)
        assert pods(server, space) == []


def previous(tmp_path):
    """The chart as it was before the last commit that changed it."""
    commits = subprocess.run(["git", "log", "-2", "--format=%H", "--", "deploy/helm/forebay"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if len(commits) < 2:
        pytest.skip("this checkout has no history of the chart")
    archive = tmp_path / "chart.tar"
    subprocess.run(["git", "archive", "-o", archive, commits[1], "deploy/helm/forebay"], cwd=ROOT, check=True)
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path], check=True)
    return tmp_path / "deploy" / "helm" / "forebay"


# All that may be changed of a release: everything but the claims.
CHANGED = {
    "replicas": 4,
    "image": {"tag": "2"},
    "remote": "s3://bucket",
    "memory": "8Gi",
    "drain": {"timeout": "5min"},
    "config": {"write-back": "eager"},
    "service": {"annotations": {"a": "b"}},
    "podLabels": {"a": "b"},
    "pdb": {"maxUnavailable": 2},
    "networkPolicy": {"enabled": True},
    "priorityClass": {"name": "system-cluster-critical"},
    "storage": {"retention": {"whenDeleted": "Delete"}},
    "updateStrategy": {"type": "OnDelete"},
    "prometheusRule": {"enabled": True},
}


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_a_release_is_upgraded_from_the_previous_chart_and_rolled_back(server, tmp_path, kind):
    space = f"upgrade-{kind.lower()}"
    values = {"kind": kind}
    changed = {key: value for key, value in CHANGED.items() if kind == "StatefulSet" or key not in ("storage",)} | values
    with server.namespace(space) as helm:
        helm.install(previous(tmp_path), "forebay", values)
        (first,) = server.get(space, kind.lower())
        helm.upgrade(CHART, "forebay", values)
        helm.upgrade(CHART, "forebay", changed)
        (now,) = server.get(space, kind.lower())
        assert now["metadata"]["uid"] == first["metadata"]["uid"], "it was replaced, and its pods with it"
        assert now["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 315
        assert server.get(space, "networkpolicy")
        helm.rollback("forebay", version=2)
        (back,) = server.get(space, kind.lower())
        assert back["metadata"]["uid"] == first["metadata"]["uid"]
        assert back["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 135
        assert server.get(space, "networkpolicy") == []
        helm.uninstall("forebay")
        assert server.get(space, kind.lower()) == []


def test_claims_cannot_be_changed_in_place_and_the_documented_way_works(server):
    with server.namespace("resize") as helm:
        helm.install(CHART, "forebay", {"replicas": 1})
        server.until(lambda: pods(server, "resize"), "no pod")
        larger = {"replicas": 1, "storage": {"size": "1Ti"}}
        with pytest.raises(Exception, match="Forbidden|forbidden"):
            helm.upgrade(CHART, "forebay", larger)
        server.kubectl("-n", "resize", "delete", "statefulset", "forebay", "--cascade=orphan")
        (kept,) = pods(server, "resize")
        helm.upgrade(CHART, "forebay", larger)
        (adopted,) = pods(server, "resize")
        assert adopted["metadata"]["uid"] == kept["metadata"]["uid"], "the pods go on"
        server.kubectl("-n", "resize", "delete", "pvc", "data-0-forebay-0", "--wait=false")
        server.kubectl("-n", "resize", "delete", "pod", "forebay-0", "--force", "--grace-period=0")
        server.until(lambda: [claim["spec"]["resources"]["requests"]["storage"] for claim in server.get("resize", "pvc")] == ["1Ti"], "no larger claim")


def test_plain_manifests_and_examples_are_taken_strictly(server):
    server.kubectl("create", "namespace", "plain")
    for kind in ("statefulset", "daemonset"):
        plain = list(yaml.safe_load_all((ROOT / "deploy" / "manifests" / f"{kind}.yaml").read_text()))
        server.apply(plain, "-n", "plain", "--dry-run=server")
    for path in sorted((ROOT / "deploy" / "examples").glob("*.yaml")):
        documents = list(yaml.safe_load_all(path.read_text()))
        if not any("spark" in document["apiVersion"] for document in documents) and not path.name.startswith("pod-template"):
            server.apply(documents, "-n", "plain", "--dry-run=server")


def test_two_releases_stand_side_by_side(server):
    first, second = (objects({}, name=name) for name in ("a", "b"))
    names = lambda documents: {(document["kind"], document["metadata"]["name"]) for document in documents}  # noqa: E731
    assert not names(first) & names(second)
    with server.namespace("both") as helm:
        for name in ("a", "b"):
            helm.install(CHART, name, {"replicas": 1})
        server.until(lambda: len(pods(server, "both")) == 2, "no pods")
