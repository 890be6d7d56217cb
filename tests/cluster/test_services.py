"""How servers are found: both address families, one of them, and a load balancer, behind which nobody can be told from the other."""

import json

import pytest

from kube.forebay import Forebay
from kube.spark import Outside

pytestmark = pytest.mark.long
MIRROR = {"spark.forebay.durability": "mirror"}
ROWS = {"rows": 200_000, "maps": 12}


@pytest.mark.parametrize("families", [["IPv4", "IPv6"], ["IPv6"]], ids="+".join)
def test_mirrors_find_two_servers_by_names_of(cluster, line, families):
    policy = "RequireDualStack" if len(families) > 1 else "SingleStack"
    forebay = Forebay(cluster, "families", service={"ipFamilyPolicy": policy, "ipFamilies": families}).install()
    app = Outside(cluster, line, "families", forebay.servers, MIRROR)
    found = app.call("reshuffled", **ROWS)
    assert found["shuffled"] == found["own"]
    assert app.events.task_failures() == []
    assert all(forebay.metric(pod, "pushed_bytes_total") > 0 for pod in forebay.names())
    app.stop()
    assert forebay.errors() == []
    forebay.uninstall()


def test_load_balancing_service_is_refused_by_name_with_the_remedy(cluster, forebay, line):
    cluster.apply(json.dumps({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "balanced"},
        "spec": {"selector": {"app.kubernetes.io/instance": "forebay"}, "ports": [{"port": 7400}]},
    }))  # fmt: skip
    app = Outside(cluster, line, "balanced", "dns://balanced.default.svc.cluster.local:7400")
    with pytest.raises(Exception) as refused:
        app.call("reshuffled", **ROWS)
    assert "several servers answer at this address in turn" in str(refused.value), str(refused.value)
    assert "clusterIP: None" in str(refused.value)
    assert "FetchFailed" not in app.events.task_failures()
    app.stop()


def test_namespace_that_enforces_restricted_pods_takes_them(cluster):
    cluster.kubectl("create", "namespace", "restricted")
    cluster.kubectl("label", "namespace", "restricted", "pod-security.kubernetes.io/enforce=restricted")
    for storage in ({"class": "local", "size": "1Gi"}, {"type": "ephemeral", "class": "local", "size": "1Gi"}):
        forebay = Forebay(cluster, "strict", "restricted", storage=storage).install()
        said = forebay.exec("strict-0", "forebay", "status", "--server", "127.0.0.1:7401").stdout
        assert "ok" in said
        forebay.uninstall()
