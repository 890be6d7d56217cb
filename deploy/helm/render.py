"""Writes what is generated from the chart: deploy/manifests/*.yaml, and the table of values in the chart's README.

    ./setup.sh --charts -- sh -c '$FOREBAY_CACHE/charts/bin/python deploy/helm/render.py'

A test holds all of it equal to what this writes.
"""

import json
from pathlib import Path

import helm_python
import yaml

HELM = Path(__file__).resolve().parent
CHART = HELM / "forebay"
MANIFESTS = HELM.parent / "manifests"
BEGIN, END = "<!-- values: written by deploy/helm/render.py -->", "<!-- /values -->"


def manifest(kind: str) -> str:
    """`helm template forebay deploy/helm/forebay --set kind=KIND --skip-tests`: all defaults, no namespace."""
    rendered = helm_python.Chart.load(CHART).render({"kind": kind}, name="forebay", namespace="default")
    head = f"# Forebay as a {kind}, for `kubectl apply -f`. Written by deploy/helm/render.py: change the chart, not this file.\n"
    documents = [text.strip() for path, text in sorted(rendered.items()) if path.endswith(".yaml") and "/tests/" not in path]
    return head + "\n".join(f"---\n{text}\n" for text in documents if text)


def table() -> str:
    """A row for each value, as the schema describes it."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for name, inner in schema["properties"].items():
        lines += rows(schema, name, inner, defaults.get(name))
    return "\n".join(lines)


def rows(schema: dict, name: str, value: dict, default):
    inner = value.get("properties")
    if not inner:
        return [row(name, value, default)]
    found = []
    if name == "config":
        # The server's own settings: deploy/README.md and `forebay-server --help` have them.
        return [row(name, value, default)]
    for key, of in inner.items():
        found += rows(schema, f"{name}.{key}", of, (default or {}).get(key))
    # What an object as a whole is, where its parts do not say it.
    lines = [f"| **{name}** | | {cell(value['description'])} |"] if "enabled" in inner or name in ("storage", "autoscaling", "drain", "service") else []
    return lines + found


def row(name: str, value: dict, default) -> str:
    meaning = cell(value["description"])
    if "enum" in value:
        meaning += " One of " + ", ".join(f"`{choice}`" for choice in value["enum"] if choice) + "."
    if isinstance(default, (dict, list)) and default:
        shown = "[see values.yaml](values.yaml)"
    elif default is None or default == "":
        shown = ""
    else:
        shown = f"`{json.dumps(default).strip(chr(34))}`"
    return f"| `{name}` | {shown} | {meaning} |"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def readme() -> str:
    text = (CHART / "README.md").read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def generated() -> dict[Path, str]:
    return {
        MANIFESTS / "statefulset.yaml": manifest("StatefulSet"),
        MANIFESTS / "daemonset.yaml": manifest("DaemonSet"),
        CHART / "README.md": readme(),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)
        print(path)
