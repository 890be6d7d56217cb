"""The examples are what Kubernetes and both Spark operators take, and what Forebay's plugin takes."""

import re
import subprocess

import pytest
import resources
from chart import FOREIGN, ROOT, Strict, check, loaded, yaml

EXAMPLES = ROOT / "deploy" / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))
# Image volumes are on by default from 1.35; older schemas may lack the field.
VERSIONS = ("1.34", "1.37")
KEYS = (ROOT / "jvm-bridge" / "KEYS.md").read_text()


def documents(path):
    return list(yaml.load_all(path.read_text(), Loader=Strict))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kubernetes_or_the_operator_takes_every_field(path, version):
    for document in documents(path):
        if document["apiVersion"].startswith(FOREIGN):
            resources.check(document, version)
        elif path.name.startswith("pod-template"):
            containers = [{"image": "x"} | container for container in document["spec"]["containers"]]
            check(document | {"metadata": {"name": "x"}, "spec": document["spec"] | {"containers": containers}}, version)
        else:
            check(document, version)


def test_a_field_that_no_operator_knows_is_refused():
    (document,) = documents(EXAMPLES / "kubeflow-sparkapplication.yaml")
    for at, said in (("executor", "no field misspelt"), ("dynamicAllocation", "no field misspelt")):
        spec = document["spec"] | {at: document["spec"][at] | {"misspelt": 1}}
        with pytest.raises(AssertionError, match=said):
            resources.check(document | {"spec": spec}, "1.34")
    (document,) = documents(EXAMPLES / "apache-sparkapplication.yaml")
    conf = document["spec"]["sparkConf"] | {"spark.executor.cores": 4}
    with pytest.raises(AssertionError, match="wants text"):
        resources.check(document | {"spec": document["spec"] | {"sparkConf": conf}}, "1.34")


@pytest.mark.parametrize("path", [*FILES, EXAMPLES / "spark-submit.sh", EXAMPLES / "README.md"], ids=lambda path: path.name)
def test_keys_names_and_versions_are_ours(path):
    text = path.read_text()
    for key in set(re.findall(r"spark\.forebay\.[A-Za-z.]*[A-Za-z]", text)):
        assert key == "spark.forebay.servers" or f"`{key}`" in KEYS, key
    version = loaded().version
    assert set(re.findall(r"forebay(?:-spark)?:(\d+\.[^\s\"`]*)", text)) <= {version}
    for jar in re.findall(r"(?:extraClassPath|CLASSPATH)[:= ]\s*(\S*forebay\S*)", text):
        assert jar == "/opt/forebay/forebay-spark.jar"
    assert "shuffle.service.enabled: \"true\"" not in text
    if "ForebayShuffleManager" in text:
        assert re.search(r"memoryOverhead[\"': =]+2g", text), "executors have room for native memory"


@pytest.mark.parametrize("way", ["packages", "init", "image"])
def test_spark_submit_is_called_with_files_that_are_there(tmp_path, way):
    (tmp_path / "bin").mkdir()
    submit = tmp_path / "bin" / "spark-submit"
    submit.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    submit.chmod(0o755)
    env = {"SPARK_HOME": str(tmp_path), "API": "https://api:6443", "IMAGE": "spark:x", "PATH": "/usr/bin:/bin"}
    told = subprocess.run([EXAMPLES / "spark-submit.sh", "--jar", way], env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told[:2] == ["--master", "k8s://https://api:6443"]
    assert "spark.forebay.servers=dns://forebay:7400" in told
    templates = {value.partition("=")[2] for value in told if "podTemplateFile" in value}
    assert templates == (set() if way == "packages" else {str(EXAMPLES / f"pod-template-{ {'init': 'init-container', 'image': 'image-volume'}[way] }.yaml")})
    assert all((EXAMPLES / template).exists() for template in templates)
    assert ("--packages" in told) == (way == "packages")
