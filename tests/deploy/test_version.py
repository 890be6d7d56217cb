"""Needs neither Helm nor Kubernetes."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_chart_has_the_version_of_the_workspace():
    (version,) = re.findall(r'^version = "([^"]*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    chart = (ROOT / "deploy" / "helm" / "forebay" / "Chart.yaml").read_text()
    assert re.findall(r'^(?:appV|v)ersion: "?([^"\n]*)"?$', chart, re.MULTILINE) == [version, version]
