"""Whatever is set, what comes out is what Kubernetes takes and what Forebay needs."""

import re

import pytest
from chart import CHART, KUBERNETES, NAME, NAMESPACE, check, files, helm_python, loaded, notes, objects, one, pod, server, settings, workload
from sets import SETS

every_set = pytest.mark.parametrize("values", SETS.values(), ids=SETS)


@every_set
def test_lint_has_nothing_to_say(values):
    report = helm_python.lint(CHART, values, strict=True)
    assert report["errors"] == []
    assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


@every_set
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_field(values, version):
    documents = objects(values)
    assert len(documents) >= 5
    for document in documents:
        check(document, version)


@every_set
def test_two_renders_are_equal(values):
    first = files(values)
    # As GitOps tools do: another process, another revision, an upgrade.
    again = helm_python.Chart.load(CHART).render(values, name=NAME, namespace=NAMESPACE, revision=7, is_upgrade=True)
    assert first == again


def test_no_template_asks_the_cluster_the_clock_or_a_die():
    for template in loaded().templates:
        assert not re.search(r"\b(Capabilities|lookup|rand\w*|gen[A-Z]\w*|now|date\w*|uuidv4|Release\.Revision|IsUpgrade)\b", template["data"]), template["name"]


def test_every_value_is_in_a_set():
    def paths(value, at=()):
        yield at
        if isinstance(value, dict) and at not in FREE:
            for key, inner in value.items():
                yield from paths(inner, (*at, key))

    # Below these the keys are the user's.
    FREE = {("config",), ("serviceAccount", "annotations"), ("autoscaling", "keda", "triggers"), ("podSecurityContext",), ("securityContext",), ("resources", "limits")}
    used = {path[0] for values in SETS.values() for path in paths(values) if path}
    known = set(loaded().schema["properties"])
    assert known - used <= {"global", "securityContext"}, "a value that no set has"


@every_set
def test_the_pod_has_15_seconds_more_than_the_drain(values):
    seconds = int(settings(values)["drain-timeout"].removesuffix("s"))
    assert pod(values)["terminationGracePeriodSeconds"] == seconds + 15


@pytest.mark.parametrize(("timeout", "grace"), [("45s", 60), (45, 60), ("10m", 615), ("10min", 615), ("1h", 3615)])
def test_a_drain_is_told_in_any_unit(timeout, grace):
    assert pod({"drain": {"timeout": timeout}})["terminationGracePeriodSeconds"] == grace


@pytest.mark.parametrize(("timeout", "warned"), [("585s", False), ("586s", True), ("10min", True)])
def test_a_drain_that_the_cluster_autoscaler_cuts_is_warned_of(timeout, warned):
    assert ("600 s" in notes({"drain": {"timeout": timeout}})) == warned


@every_set
def test_names_are_found_by_clients_and_selectors_match(values):
    service = one(values, "Service")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert [(port["name"], port["port"]) for port in service["spec"]["ports"]] == [("data", 7400), ("admin", 7401)]
    assert f"spark.forebay.servers=dns://{service['metadata']['name']}.{NAMESPACE}.svc:7400" in notes(values)
    spec = workload(values)["spec"]
    labels = spec["template"]["metadata"]["labels"].items()
    assert spec["selector"]["matchLabels"].items() <= labels
    assert service["spec"]["selector"].items() <= labels
    assert spec.get("serviceName", service["metadata"]["name"]) == service["metadata"]["name"]
    test = one(values, "Pod")["metadata"]["labels"].items()
    assert not service["spec"]["selector"].items() <= test, "the test's pod is no server"


@every_set
def test_a_disk_is_mounted_where_the_server_looks(values):
    mounts = {mount["mountPath"]: mount["name"] for mount in server(values)["volumeMounts"]}
    there = {volume["name"] for volume in pod(values)["volumes"]}
    there |= {claim["metadata"]["name"] for claim in workload(values)["spec"].get("volumeClaimTemplates", [])}
    assert set(mounts.values()) == there
    for directory in settings(values)["data-dir"]:
        assert any(directory == mount or directory.startswith(f"{mount}/") for mount in mounts if mount.startswith("/data/")), directory
    assert len(settings(values)["data-dir"]) == len(set(settings(values)["data-dir"]))


def test_storage_that_is_left_out_follows_from_what_is_there():
    assert len(workload({})["spec"]["volumeClaimTemplates"]) == 1
    empty = pod({"kind": "DaemonSet"})["volumes"][1]
    assert empty == {"name": "data-0", "emptyDir": {"sizeLimit": "100Gi"}}
    paths = {"storage": {"paths": ["/mnt/nvme*/forebay", "/mnt/ssd?/x", "/disks/a"]}}
    hosts = [volume["hostPath"] for volume in pod(paths)["volumes"] if "hostPath" in volume]
    # A pattern cannot be mounted: the directory above it is, and the server looks for what matches.
    assert hosts == [{"path": "/disks/a", "type": "Directory"}, {"path": "/mnt", "type": "Directory"}]
    assert settings(paths)["data-dir"] == ["/data/mnt/nvme*/forebay", "/data/mnt/ssd?/x", "/data/disks/a"]
    for mount in server(paths)["volumeMounts"][1:]:
        assert mount["mountPropagation"] == "HostToContainer", "a disk that is mounted later is seen"


@pytest.mark.parametrize(("storage", "limit"), [({"type": "emptyDir", "size": "10Gi"}, "9216MiB"), ({"type": "hostPath", "size": "10Gi"}, "9216MiB"), ({"type": "hostPath"}, None), ({}, None)])
def test_a_disk_that_others_use_too_is_not_filled(storage, limit):
    """Beyond the limit of an emptyDir the kubelet would evict the pod, with all that it has."""
    assert settings({"storage": storage}).get("volume-limit") == limit


@pytest.mark.parametrize(("memory", "buffers"), [("640Mi", 128), ("1Gi", 512), ("4Gi", 3277), ("64GiB", 52429), ("1Ti", 838861)])
def test_memory_is_the_containers_and_leaves_the_server_its_own(memory, buffers):
    values = {"memory": memory}
    resources = server(values)["resources"]
    assert resources["limits"]["memory"] == resources["requests"]["memory"] == memory.removesuffix("B")
    assert settings(values)["memory"] == f"{buffers}MiB"


def test_settings_are_passed_on_verbatim_and_change_the_pod():
    values = {"config": {"log": 'a "quoted" <filter>\\', "max-apps": 100000000, "reclaim-at": 70, "volume-limit": "1GiB", "listen": "0.0.0.0:7400"}}
    found = settings(values)
    assert found == settings({}) | values["config"]
    sums = {workload(v)["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for v in ({}, values, {"remote": "s3://a"})}
    assert len(sums) == 3


@every_set
def test_pods_are_restricted_but_for_host_paths(values):
    for spec in (pod(values), one(values, "Pod")["spec"]):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
        # Only a server that asks the cluster who somebody is has the account's token.
        asks = values.get("auth") == "kubernetes" and spec["containers"][0]["name"] == "forebay-server"
        assert spec["automountServiceAccountToken"] is asks
        assert spec["enableServiceLinks"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert container["image"] == server(values)["image"]
        for volume in spec.get("volumes", []):
            kinds = set(volume) - {"name"}
            assert kinds <= {"configMap", "emptyDir", "ephemeral", "secret"} or (kinds == {"hostPath"} and "paths" in values["storage"])


def test_probes_ask_the_admin_port_and_wait_longer_than_a_second():
    container = server({})
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "admin"}
        assert container[probe]["timeoutSeconds"] >= 3
    assert {"name": "admin", "containerPort": 7401} in container["ports"]
    assert settings({})["admin-listen"] == "[::]:7401", "of every address, in either family"


def test_with_tls_probes_and_prometheus_speak_it_and_the_server_has_its_files():
    values = {"tls": {"enabled": True, "secretName": "mine"}, "podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}
    container = pod(values)["containers"][0]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS", probe
    assert settings(values)["tls-cert"] == "/etc/forebay-tls/tls.crt" and settings(values)["tls-key"] == "/etc/forebay-tls/tls.key"
    assert {"name": "tls", "mountPath": "/etc/forebay-tls", "readOnly": True} in container["volumeMounts"]
    assert {"name": "tls", "secret": {"secretName": "mine"}} in pod(values)["volumes"]
    for kind, field in (("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints")):
        (endpoint,) = one(values, kind)["spec"][field]
        assert endpoint["scheme"] == "https", kind
        # Pods are reached by address, and known by a name that the Certificate of the chart has.
        assert endpoint["tlsConfig"]["serverName"] == f"{NAME}.{NAMESPACE}.svc"
        assert endpoint["tlsConfig"]["ca"] == {"secret": {"name": "mine", "key": "ca.crt"}}


def test_a_server_is_told_its_node_and_zone_and_the_user_has_the_last_word():
    def told(values):
        names = [variable["name"] for variable in server(values)["env"]]
        assert len(names) == len(set(names)), "a name twice is no list to an API server"
        return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in server(values)["env"]}

    field = {"fieldRef": {"fieldPath": "spec.nodeName"}}
    zone = {"fieldRef": {"fieldPath": "metadata.labels['topology.kubernetes.io/zone']"}}
    assert told({}) == {"FOREBAY_NODE": field, "FOREBAY_ZONE": zone}
    assert told({"config": {"zone": "a"}}) == {"FOREBAY_NODE": field}
    assert told({"extraEnv": [{"name": "FOREBAY_ZONE", "value": "a"}, {"name": "FOREBAY_NODE", "value": "b"}]}) == {"FOREBAY_NODE": "b", "FOREBAY_ZONE": "a"}


def test_a_disruption_takes_one_server_and_a_broken_one_at_any_time():
    assert one({}, "PodDisruptionBudget")["spec"] | {"selector": None} == {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": None}
    kinds = [document["kind"] for document in objects({"kind": "DaemonSet"})]
    assert "PodDisruptionBudget" not in kinds, "it would keep a node's drain waiting: a DaemonSet has no scale"


def test_servers_prefer_different_nodes_and_zones():
    spec = pod({})
    (term,) = spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    selector = workload({})["spec"]["selector"]["matchLabels"]
    assert term["podAffinityTerm"] == {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": selector}}
    (spread,) = spec["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("topology.kubernetes.io/zone", "ScheduleAnyway")
    assert "topologySpreadConstraints" not in pod({"topologySpread": {"enabled": False}})
    assert "affinity" not in pod({"antiAffinity": {"enabled": False}})


def test_two_servers_never_want_the_same_directories_of_a_node():
    for more in ({}, {"antiAffinity": {"enabled": False}}):
        values = {"storage": {"paths": ["/mnt/*/forebay"]}} | more
        (term,) = pod(values)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term == {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": workload(values)["spec"]["selector"]["matchLabels"]}}


def test_a_rolling_update_takes_as_many_as_it_is_told():
    assert workload({})["spec"]["updateStrategy"] == {"type": "RollingUpdate"}
    for values in ({"updateStrategy": {"maxUnavailable": 3}}, {"kind": "DaemonSet", "updateStrategy": {"maxUnavailable": 3}}):
        assert workload(values)["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 3}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"serviceMonitor": {"enabled": True}}, "ServiceMonitor"),
        ({"podMonitor": {"enabled": True}}, "PodMonitor"),
        ({"prometheusRule": {"enabled": True}}, "PrometheusRule"),
        ({"tls": {"certManager": {"enabled": True, "issuerRef": {"name": "ca"}}}}, "Certificate"),
        ({"autoscaling": {"hpa": {"enabled": True}}}, "HorizontalPodAutoscaler"),
        ({"autoscaling": {"keda": {"enabled": True}}}, "ScaledObject"),
        ({"networkPolicy": {"enabled": True}}, "NetworkPolicy"),
        ({"priorityClass": {"enabled": True}}, "PriorityClass"),
    ],
)
def test_an_optional_object_is_there_when_it_is_enabled_and_only_then(values, kind):
    assert kind not in [document["kind"] for document in objects({})]
    document = one(values, kind)
    target = document["spec"].get("scaleTargetRef") if "spec" in document else None
    if target:
        assert target == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": workload(values)["metadata"]["name"]}
        assert "replicas" not in workload(values)["spec"], "an upgrade would undo what the autoscaler did"


def test_what_cannot_be_changed_names_no_version():
    """Selectors and claims are immutable: with the chart's version in them no release could be upgraded."""
    spec = workload(SETS["several claims"])["spec"]
    for fixed in (spec["selector"], spec["volumeClaimTemplates"], spec["serviceName"]):
        assert loaded().version not in str(fixed)


def test_a_long_release_name_still_makes_names_that_fit():
    name = workload({}, name="a" * 53)["metadata"]["name"]
    assert len(f"{name}-1234567890") <= 63, "the label with the revision of a StatefulSet's pods"


@pytest.mark.parametrize("name", ["9", "1e3", "on", "true", "team.pool", "9.forebay", "a" * 53, "a" * 44 + "--b", f"{'a' * 44}.b", "forebay.x"])
def test_any_release_name_makes_names_that_kubernetes_takes(name):
    optional = ("networkPolicy", "serviceMonitor", "podMonitor", "prometheusRule", "dashboards", "priorityClass")
    everything = {key: {"enabled": True} for key in optional} | {"tls": {"certManager": {"enabled": True, "issuerRef": {"name": "ca"}}}}
    for override in ({}, {"nameOverride": "1"}, {"nameOverride": "on"}, {"fullnameOverride": "on"}):
        found = objects({**everything, **override}, name=name)
        for document in found:
            check(document, "1.34")
            assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"].removeprefix(f"{NAMESPACE}-"))
        spec = next(document["spec"] for document in found if document["kind"] == "StatefulSet")
        (service,) = (document for document in found if document["kind"] == "Service")
        assert spec["serviceName"] == service["metadata"]["name"]
        assert spec["selector"]["matchLabels"] == service["spec"]["selector"]
        assert spec["selector"]["matchLabels"]["app.kubernetes.io/instance"] == name


def test_the_checksum_of_the_settings_is_the_charts():
    pods = [workload(values)["spec"]["template"] for values in ({}, {"podAnnotations": {"checksum/config": "x", "a": "b"}})]
    sums = {pod["metadata"]["annotations"]["checksum/config"] for pod in pods}
    assert len(sums) == 1 and "x" not in sums
    assert pods[1]["metadata"]["annotations"]["a"] == "b"
