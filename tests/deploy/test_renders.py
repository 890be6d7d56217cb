"""What is generated is as it would be generated now."""

import importlib.util
import re

import pytest
from chart import KUBERNETES, ROOT, check, loaded, objects, yaml

spec = importlib.util.spec_from_file_location("render", ROOT / "deploy" / "helm" / "render.py")
render = importlib.util.module_from_spec(spec)
spec.loader.exec_module(render)


@pytest.mark.parametrize("path", [path.relative_to(ROOT) for path in render.generated()], ids=str)
def test_what_is_generated_is_not_stale(path):
    assert (ROOT / path).read_text() == render.generated()[ROOT / path], "run deploy/helm/render.py"


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_plain_manifests_are_what_helm_installs(kind):
    plain = list(yaml.safe_load_all((ROOT / "deploy" / "manifests" / f"{kind.lower()}.yaml").read_text()))
    installed = [document for document in objects({"kind": kind}, namespace="default") if "helm.sh/hook" not in document["metadata"].get("annotations", {})]
    assert plain == installed
    assert kind in [document["kind"] for document in plain]
    for document in plain:
        assert "namespace" not in document["metadata"], "kubectl apply -n decides"
        for version in KUBERNETES:
            check(document, version)


def test_every_value_has_a_row():
    table = render.table()

    def leaves(schema, at):
        for name, inner in schema.get("properties", {}).items():
            if inner.get("properties") and name != "config":
                yield from leaves(inner, f"{at}{name}.")
            else:
                yield f"{at}{name}"

    for name in leaves(loaded().schema, ""):
        assert f"| `{name}` |" in table, name


def test_the_schema_knows_all_settings_of_the_server():
    """Each is set by the chart, by its environment, or below `config`."""
    source = (ROOT / "shuffle-server" / "src" / "config.rs").read_text()
    struct = source[source.index("pub struct Config {") : source.index("\n}", source.index("pub struct Config {"))]
    settings = {name.replace("_", "-") for name in re.findall(r"^    pub (\w+):", struct, re.MULTILINE)}
    assert len(settings) > 20
    ours = {"config", "print-config"}  # the file itself, and a question
    known = set(loaded().schema["properties"]["config"]["properties"])
    assert settings - ours - known == set(), "properties.config of values.schema.json"
    assert known - settings <= {"allow-root-device", "node", "zone"}
