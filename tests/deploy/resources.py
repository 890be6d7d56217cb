"""What the custom resources of others may have: Prometheus operator, cert-manager, KEDA and both Spark operators.

None of them has schemas in a package that refuses an unknown field, so the fields that our objects use are listed here, checked by hand
against the operators' definitions. What lies in a field of Kubernetes' own is read by its strict schema.
"""

import kubernetes_validate

TEXT, NUMBER, TRUTH, ANY = str, int, bool, object
LABELS = {str: TEXT}
SELECTOR = {"matchLabels": LABELS}
ENDPOINT = {"port": TEXT, "path": TEXT, "interval": TEXT}


class Pod(dict):
    """A PodTemplateSpec of Kubernetes."""


class Container(dict):
    """A container in a field that has no name for it: what is not told is filled in."""


SPARK_POD = {
    "cores": NUMBER,
    "memory": TEXT,
    "memoryOverhead": TEXT,
    "serviceAccount": TEXT,
    "instances": NUMBER,
    "initContainers": [Container()],
    "volumeMounts": Container(field="volumeMounts"),
    "env": Container(field="env"),
    "securityContext": Container(field="securityContext"),
}
DYNAMIC = {"enabled": TRUTH, "initialExecutors": NUMBER, "minExecutors": NUMBER, "maxExecutors": NUMBER, "shuffleTrackingEnabled": TRUTH}

# (group and version, kind): fields of spec, and those that must be there.
RESOURCES = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ({"selector": SELECTOR, "endpoints": [ENDPOINT]}, {"selector", "endpoints"}),
    ("monitoring.coreos.com/v1", "PodMonitor"): ({"selector": SELECTOR, "podMetricsEndpoints": [ENDPOINT]}, {"selector"}),
    ("monitoring.coreos.com/v1", "PrometheusRule"): (
        {"groups": [{"name": TEXT, "rules": [{"alert": TEXT, "expr": TEXT, "for": TEXT, "labels": LABELS, "annotations": LABELS}]}]},
        set(),
    ),
    ("cert-manager.io/v1", "Certificate"): (
        {
            "secretName": TEXT,
            "issuerRef": {"name": TEXT, "kind": TEXT, "group": TEXT},
            "privateKey": {"algorithm": TEXT, "size": NUMBER, "rotationPolicy": TEXT},
            "usages": [TEXT],
            "dnsNames": [TEXT],
        },
        {"secretName", "issuerRef"},
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): (
        {
            "scaleTargetRef": {"apiVersion": TEXT, "kind": TEXT, "name": TEXT},
            "minReplicaCount": NUMBER,
            "maxReplicaCount": NUMBER,
            "cooldownPeriod": NUMBER,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": ANY}},
            "triggers": [{"type": TEXT, "metricType": TEXT, "metadata": LABELS}],
        },
        {"scaleTargetRef", "triggers"},
    ),
    ("sparkoperator.k8s.io/v1beta2", "SparkApplication"): (
        {
            "type": TEXT,
            "mode": TEXT,
            "image": TEXT,
            "imagePullPolicy": TEXT,
            "sparkVersion": TEXT,
            "mainClass": TEXT,
            "mainApplicationFile": TEXT,
            "arguments": [TEXT],
            "sparkConf": LABELS,
            "dynamicAllocation": DYNAMIC,
            "volumes": Pod(field="volumes"),
            "driver": SPARK_POD,
            "executor": SPARK_POD,
        },
        {"type", "sparkVersion", "mainApplicationFile", "driver", "executor"},
    ),
    ("sparkoperator.k8s.io/v1alpha1", "SparkConnect"): (
        {
            "sparkVersion": TEXT,
            "image": TEXT,
            "sparkConf": LABELS,
            "dynamicAllocation": DYNAMIC,
            "server": {"cores": NUMBER, "memory": TEXT, "template": Pod()},
            "executor": {"cores": NUMBER, "memory": TEXT, "instances": NUMBER, "template": Pod()},
        },
        {"sparkVersion", "server", "executor"},
    ),
    ("spark.apache.org/v1", "SparkApplication"): (
        {
            "mainClass": TEXT,
            "jars": TEXT,
            "driverArgs": [TEXT],
            "runtimeVersions": {"sparkVersion": TEXT, "scalaVersion": TEXT},
            "sparkConf": LABELS,
            "driverSpec": {"podTemplateSpec": Pod()},
            "executorSpec": {"podTemplateSpec": Pod()},
        },
        {"runtimeVersions"},
    ),
}
# Fields of Kubernetes' own type, with what is there anyway.
BEHAVIOR = {"scaleTargetRef": {"kind": "StatefulSet", "name": "x"}, "maxReplicas": 1}


def check(document: dict, version: str):
    """Raises AssertionError with the way to what is wrong, or what Kubernetes would say."""
    fields, needed = RESOURCES[document["apiVersion"], document["kind"]]
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    assert needed <= set(document["spec"]), f"{document['kind']} needs {needed - set(document['spec'])}"
    _compare(document["spec"], fields, document["kind"], version)
    behavior = document["spec"].get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior")
    if behavior:
        scaler = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"}}
        kubernetes_validate.validate(scaler | {"spec": BEHAVIOR | {"behavior": behavior}}, version, strict=True)


def _compare(value, wanted, at: str, version: str):
    if isinstance(wanted, Pod) and not wanted:
        assert set(value) <= {"metadata", "spec"}, at
        containers = [{"image": "x"} | container for container in value["spec"]["containers"]]
        _pod(value["spec"] | {"containers": containers}, version)
    elif isinstance(wanted, Pod):
        _pod({"containers": [{"name": "x"}], wanted["field"]: value}, version)
    elif isinstance(wanted, Container):
        _pod({"containers": [{"name": "x"} | ({wanted["field"]: value} if wanted else value)]}, version)
    elif wanted == LABELS:
        for key, text in value.items():
            assert isinstance(text, str), f"{at}.{key} is {text!r}: Kubernetes wants text"
    elif isinstance(wanted, dict):
        for key, inner in value.items():
            assert key in wanted, f"{at} has no field {key}"
            _compare(inner, wanted[key], f"{at}.{key}", version)
    elif isinstance(wanted, list):
        assert isinstance(value, list), at
        for number, inner in enumerate(value):
            _compare(inner, wanted[0], f"{at}[{number}]", version)
    elif wanted is not ANY:
        assert type(value) is wanted, f"{at} is {value!r}"


def _pod(spec: dict, version: str):
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}, version, strict=True)
