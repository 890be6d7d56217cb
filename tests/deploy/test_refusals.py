"""What is misspelt, mistyped, out of range, contradictory or without effect is refused before anything is installed."""

import json

import pytest
from chart import CHART, KUBERNETES, check, files, helm_python, loaded, objects, yaml


def refused(values: dict) -> str:
    with pytest.raises(helm_python.HelmError) as error:
        files(values)
    return str(error.value)


def paths(schema: dict, at=()):
    """Objects of the schema, with the way to them."""
    if schema.get("type") == "object":
        yield at, schema
    for name, inner in schema.get("properties", {}).items():
        yield from paths(inner, (*at, name))


def nested(at: tuple, value):
    for name in reversed(at):
        value = {name: value}
    return value


OBJECTS = {".".join(at) or "top": (at, schema) for at, schema in paths(loaded().schema)}
LEAVES = {".".join((*at, name)): ((*at, name), leaf) for at, schema in OBJECTS.values() for name, leaf in schema.get("properties", {}).items() if leaf.get("type") != "object"}


@pytest.mark.parametrize("name", [name for name, (_, schema) in OBJECTS.items() if schema.get("additionalProperties") is False])
def test_a_misspelt_value_is_refused(name):
    assert "misspelt" in refused(nested((*OBJECTS[name][0], "misspelt"), 1))


def test_where_any_key_goes_kubernetes_has_the_names():
    free = {name for name, (_, schema) in OBJECTS.items() if schema.get("additionalProperties") is not False}
    assert free == {"affinity", "global", "podSecurityContext", "securityContext"}


@pytest.mark.parametrize("name", LEAVES)
def test_a_mistyped_value_is_refused(name):
    at, leaf = LEAVES[name]
    types = leaf.get("type")
    types = {types} if isinstance(types, str) else set(types or {"object"})
    wrong = next(value for kind, value in (("object", {"a": []}), ("array", [[]]), ("boolean", True)) if kind not in types)
    if leaf.get("$ref", "").endswith("refused") or leaf.get("$ref", "").endswith("peers"):
        wrong = {"a": []}
    if leaf.get("$ref", "").endswith(("labels", "annotations", "quantities")):
        wrong = {"a": {"b": 1}}
    assert at[-1] in refused(nested(at, wrong))


@pytest.mark.parametrize("name", [name for name, (_, leaf) in LEAVES.items() if leaf.get("type") == "boolean"])
def test_a_word_is_no_boolean(name):
    assert LEAVES[name][0][-1] in refused(nested(LEAVES[name][0], "yes"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "Deployment"}, "StatefulSet"),
        ({"replicas": -1}, "replicas"),
        ({"replicas": "3"}, "replicas"),
        ({"remote": "http://bucket"}, "remote"),
        ({"memory": "4"}, "memory"),
        ({"memory": 4294967296}, "memory"),
        ({"storage": {"size": "100GB"}}, "size"),
        ({"storage": {"disks": 0}}, "disks"),
        ({"storage": {"type": "local"}}, "pvc"),
        ({"storage": {"paths": ["mnt/relative"]}}, "paths"),
        ({"storage": {"paths": ["/a,b"]}}, "paths"),
        ({"storage": {"paths": ["/mnt/../a"]}}, "paths"),
        ({"drain": {"timeout": "10"}}, "timeout"),
        ({"drain": {"timeout": "1h30m"}}, "timeout"),
        ({"drain": {"timeout": 0}}, "timeout"),
        ({"image": {"digest": "sha256:12"}}, "digest"),
        ({"image": {"repository": ""}}, "repository"),
        ({"image": {"repository": "registry:5000/forebay:0.1.0"}}, "repository"),
        ({"config": {"write-back-dely": "1min"}}, "write-back-dely"),
        ({"config": {"write-back-delay": 60}}, "write-back-delay"),
        ({"config": {"reclaim-at": 101}}, "reclaim-at"),
        ({"config": {"listen": "0.0.0.0:7500"}}, "listen"),
        ({"pdb": {"maxUnavailable": "one"}}, "maxUnavailable"),
        ({"autoscaling": {"keda": {"triggers": []}}}, "triggers"),
        ({"extraEnv": [{"name": "A", "vale": "b"}]}, "vale"),
        ({"fullnameOverride": "Forebay"}, "fullnameOverride"),
        ({"fullnameOverride": "9-pools"}, "fullnameOverride"),
    ],
)
def test_a_value_out_of_range_is_refused(values, said):
    assert said in refused(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "DaemonSet", "storage": {"type": "pvc"}}, "storage.type is pvc and kind is DaemonSet"),
        ({"storage": {"type": "pvc", "paths": ["/mnt/a"]}}, "storage.paths is set and storage.type is pvc"),
        ({"storage": {"type": "emptyDir", "class": "gp3"}}, "storage.class is gp3 and storage.type is emptyDir"),
        ({"storage": {"class": "gp3", "paths": ["/mnt/a"]}}, "storage.class is gp3 and storage.type is hostPath"),
        ({"storage": {"disks": 3, "paths": ["/mnt/a", "/mnt/b"]}}, "storage.disks is 3 and storage.paths has 2 entries"),
        ({"storage": {"paths": ["/nvme*/forebay"]}}, "storage.paths has /nvme*/forebay: begin with a directory"),
        ({"storage": {"paths": ["/"]}}, "paths"),
        ({"memory": "512Mi"}, "memory is 512Mi: give at least 640Mi"),
        ({"resources": {"limits": {"memory": "1Gi"}}}, "resources.limits.memory is set: set memory"),
        ({"resources": {"requests": {"memory": "1Gi"}}}, "resources.requests.memory is set: set memory"),
        ({"config": {"memory": "1GiB"}}, "config.memory is set: set memory"),
        ({"config": {"remote": "s3://b"}}, "config.remote is set: set remote"),
        ({"config": {"drain-timeout": "1min"}}, "config.drain-timeout is set: set drain.timeout"),
        ({"config": {"node": "a"}}, "config.node is set: leave it out"),
        ({"extraEnv": [{"name": "FOREBAY_MEMORY", "value": "1GiB"}]}, "extraEnv has FOREBAY_MEMORY, which wins over the settings that the chart writes: set memory"),
        ({"extraEnv": [{"name": "FOREBAY_REMOTE", "value": "s3://b"}]}, "set remote"),
        ({"extraEnv": [{"name": "FOREBAY_DRAIN_TIMEOUT", "value": "1h"}]}, "set drain.timeout"),
        ({"extraEnv": [{"name": "FOREBAY_DATA_DIR", "value": "/a"}]}, "set storage"),
        ({"extraEnv": [{"name": "FOREBAY_ADMIN_LISTEN", "value": "[::]:8080"}]}, "extraEnv has FOREBAY_ADMIN_LISTEN: leave it out"),
        ({"drain": {"timeout": "25h"}}, "drain.timeout is 25h: give 24h at most"),
        ({"drain": {"timeout": "86401s"}}, "drain.timeout is 86401s: give 24h at most"),
        ({"storage": {"paths": ["/mnt/a", "/mnt/a/"]}}, "storage.paths has /mnt/a twice"),
        ({"config": {"data-dir": ["/a"]}}, "config.data-dir is set: set storage"),
        ({"poolSecret": {"secretName": "a"}}, "poolSecret.secretName is a and auth is open"),
        ({"auth": "everybody"}, "auth"),
        ({"config": {"pool-secret-file": "/a"}}, "pool-secret-file"),
        ({"tls": {"certManager": {"enabled": True}}}, "tls.certManager.issuerRef has no name"),
        ({"autoscaling": {"hpa": {"enabled": True}, "keda": {"enabled": True}}}, "enable one"),
        ({"kind": "DaemonSet", "autoscaling": {"hpa": {"enabled": True}}}, "autoscaling is enabled and kind is DaemonSet"),
        ({"autoscaling": {"hpa": {"enabled": True, "minReplicas": 20}}}, "autoscaling.hpa.minReplicas is 20 and maxReplicas is 10"),
    ],
)
def test_what_contradicts_or_would_do_nothing_is_refused_with_its_remedy(values, said):
    assert said in refused(values)


def values_with_null():
    """Each value of values.yaml, null: what `config:` becomes when all below it is commented out. Helm takes the default away then."""

    def below(defaults: dict, path: tuple):
        for key, default in defaults.items():
            yield (*path, key)
            if isinstance(default, dict):
                yield from below(default, (*path, key))

    return below(yaml.safe_load((CHART / "values.yaml").read_text()), ())


@pytest.mark.parametrize("path", [path for path in values_with_null() if path != ("podSecurityContext", "seccompProfile", "type")], ids=".".join)
@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_a_value_that_is_null_is_refused_by_its_name_or_does_without(path, kind):
    optional = ("networkPolicy", "serviceMonitor", "podMonitor", "prometheusRule", "dashboards", "priorityClass")
    values = {"kind": kind, **{name: {"enabled": True} for name in optional}}
    if kind == "StatefulSet":
        values["autoscaling"] = {"keda" if "keda" in path else "hpa": {"enabled": True}}
    usual = objects(values)
    inner = values = json.loads(json.dumps(values))
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = None
    try:
        found = objects(values)
    except helm_python.HelmError as refusal:
        assert f"missing property '{path[-1]}'" in str(refusal)
    else:
        for document in found:
            if document not in usual:
                check(document, KUBERNETES[-1])
