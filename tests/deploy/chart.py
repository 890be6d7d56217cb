"""What tests do with the chart: render a set of values to objects, and see them as Kubernetes would."""

import functools
import json
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings the same
    import tomli as tomllib

try:
    import helm_python
    import kubernetes_validate
    import yaml
except ImportError as missing:
    pytest.skip(f"{missing.name} is not here: ./setup.sh --charts installs it", allow_module_level=True)

import resources

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "forebay"
KUBERNETES = ("1.30", "1.34", "1.37")
NAME, NAMESPACE = "forebay", "shuffle"
# API groups that Kubernetes itself does not have.
FOREIGN = ("monitoring.coreos.com/", "cert-manager.io/", "keda.sh/", "sparkoperator.k8s.io/", "spark.apache.org/")


@functools.cache
def loaded() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def files(values: dict, **options) -> dict[str, str]:
    """What each template becomes."""
    return _files(json.dumps(values), **options)


@functools.lru_cache(maxsize=64)
def _files(values: str, **options) -> dict[str, str]:
    return loaded().render(json.loads(values), **{"name": NAME, "namespace": NAMESPACE} | options)


def notes(values: dict) -> str:
    return files(values)["forebay/templates/NOTES.txt"]


def objects(values: dict, **options) -> list[dict]:
    found = []
    for path, text in files(values, **options).items():
        if path.endswith(".yaml"):
            found += [document for document in yaml.load_all(text, Loader=Strict) if document]
    return found


def one(values: dict, kind: str, **options) -> dict:
    """The only object of a kind; a pod is the one of `helm test`."""
    (found,) = [document for document in objects(values, **options) if document["kind"] == kind]
    return found


def workload(values: dict, **options) -> dict:
    return one(values, values.get("kind", "StatefulSet"), **options)


def pod(values: dict) -> dict:
    return workload(values)["spec"]["template"]["spec"]


def server(values: dict) -> dict:
    (container,) = pod(values)["containers"]
    return container


def settings(values: dict) -> dict:
    """forebay.toml."""
    (config,) = [o for o in objects(values) if o["kind"] == "ConfigMap" and "forebay.toml" in o["data"]]
    return tomllib.loads(config["data"]["forebay.toml"])


def check(document: dict, version: str):
    """Raises what Kubernetes of that version would say of it, unknown fields included."""
    if document["apiVersion"].startswith(FOREIGN):
        resources.check(document, version)
    else:
        kubernetes_validate.validate(document, version, strict=True)


class Strict(yaml.SafeLoader):
    """YAML in which the same key twice is an error, as it is to an API server that is asked strictly."""


def _mapping(loader, node):
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    assert not twice, f"{twice} twice in {node.start_mark}"
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
