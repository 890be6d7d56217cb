"""Alerts and the dashboard: promtool reads them, each alert comes when it should and not before, and every metric is one that the
server has.
"""

import json
import os
import re
import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest
from chart import CHART, NAME, NAMESPACE, ROOT, one, yaml
from running import Running, certificates

CACHE = Path(os.environ.get("FOREBAY_CACHE") or Path.home() / ".cache" / "forebay")
PROMTOOL = CACHE / "prometheus" / "usr" / "bin" / "promtool"
RULES = one({"prometheusRule": {"enabled": True}}, "PrometheusRule")["spec"]
DASHBOARD = json.loads((CHART / "dashboards" / "forebay.json").read_text())
POD = f'namespace="{NAMESPACE}",pod="{NAME}-0"'


def promtool(*words, cwd: Path) -> str:
    if not PROMTOOL.exists():
        pytest.skip("no promtool: ./setup.sh --prometheus fetches it")
    done = subprocess.run([PROMTOOL, *words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def expressions() -> list[str]:
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [expr.replace("$__rate_interval", "5m").replace("$namespace", "a").replace("$pod", "b") for expr in asked]


def test_promtool_reads_every_expression(tmp_path):
    panels = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(expressions())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [*RULES["groups"], {"name": "dashboard", "rules": panels}]}))
    assert f"{len(RULES['groups'][0]['rules']) + len(panels)} rules found" in promtool("check", "rules", "rules.yaml", cwd=tmp_path)


# alert: series that bring it, when it is there, and when it is not yet.
COMES = {
    "ForebayServerDown": ({f"up{{{POD}}}": "0x30"}, "6m", "4m"),
    "ForebayVolumeOut": ({f'forebay_volume_state{{{POD},disk="/data/0",state="failed"}}': "0 0 1x30"}, "4m", "1m"),
    "ForebayVolumeFull": ({f'forebay_volume_state{{{POD},disk="/data/0",state="full"}}': "1x60"}, "16m", "14m"),
    "ForebayStoreFails": (
        {f"forebay_writeback_failures_total{{{POD}}}": "0+1x60", f"forebay_writeback_backlog_bytes{{{POD}}}": "5x60"},
        "20m",
        "10m",
    ),
    "ForebayServersFull": ({f"forebay_permit_wait_seconds_sum{{{POD}}}": "0+90x60"}, "30m", "14m"),
    "ForebayDeniesCalls": ({f'forebay_refusals_total{{{POD},kind="denied"}}': "0x3 1x30"}, "5m", "2m"),
    "ForebayCertificateEnds": ({f'forebay_tls_certificate_expiry_seconds{{{POD},setting="tls-cert"}}': "604000x120"}, "80m", "50m"),
    "ForebayCertificateRejected": ({f"forebay_tls_reload_failing{{{POD}}}": "1x60"}, "6m", "4m"),
    "ForebayDrainHangs": ({f"forebay_draining{{{POD}}}": "1x60"}, "4m", "2m"),
}
# What goes on in a pool that is well, or in somebody else's.
WELL = {
    f"up{{{POD}}}": "1x60",
    'up{namespace="other",pod="forebay-0"}': "0x60",
    f'up{{namespace="{NAMESPACE}",pod="forebayer"}}': "0x60",
    f'forebay_tls_certificate_expiry_seconds{{{POD},setting="tls-cert"}}': "700000x60",
    f"forebay_tls_reload_failing{{{POD}}}": "0x60",
    f'forebay_volume_state{{{POD},disk="/data/0",state="ok"}}': "1x60",
    f'forebay_volume_state{{{POD},disk="/data/0",state="failed"}}': "0x60",
    f'forebay_volume_state{{{POD},disk="/data/0",state="full"}}': "0 1 1 0x60",
    f"forebay_writeback_failures_total{{{POD}}}": "7x60",
    f"forebay_writeback_backlog_bytes{{{POD}}}": "1000x60",
    f"forebay_permit_wait_seconds_sum{{{POD}}}": "0+3x60",
    f'forebay_refusals_total{{{POD},kind="denied"}}': "3x60",
    f'forebay_refusals_total{{{POD},kind="busy"}}': "0+9x60",
    f"forebay_draining{{{POD}}}": "0 1 1 0x60",
}


def test_every_alert_comes_when_it_should_and_not_before(tmp_path):
    names = {rule["alert"] for rule in RULES["groups"][0]["rules"]}
    assert names == set(COMES), "each alert has its case here"
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    # promtool compares annotations too: what it is told has to be exact, so the alert is asked for as a series.
    tests = []
    for alert, (series, then, before) in COMES.items():
        asked = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
        cases = [{"expr": asked, "eval_time": time, "exp_samples": [{"labels": "{}", "value": value}]} for time, value in ((before, 0), (then, 1))]
        tests.append(_case(series, cases))
    for at in ("3m", "20m", "59m"):
        asked = 'count(ALERTS{alertstate="firing"}) or vector(0)'
        tests.append(_case(WELL, [{"expr": asked, "eval_time": at, "exp_samples": [{"labels": "{}", "value": 0}]}]))
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": tests}))
    assert "SUCCESS" in promtool("test", "rules", "tests.yaml", cwd=tmp_path)


def _case(series: dict, cases: list) -> dict:
    return {"interval": "1m", "input_series": [{"series": name, "values": values} for name, values in series.items()], "promql_expr_test": cases}


def test_every_metric_is_one_that_the_server_has(tmp_path):
    certificates(tmp_path)  # without TLS there is nothing that could end
    trusting = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    with Running(tmp_path, tmp_path) as server, urllib.request.urlopen(f"https://{server.admin}/metrics", timeout=60, context=trusting) as answer:
        text = answer.read().decode()
    names = set(re.findall(r"^([a-z_]+)(?:\{| )", text, re.MULTILINE)) | set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    states = set(re.findall(r'forebay_volume_state\{.*state="([a-z-]+)"', text))
    documents = "".join(path.read_text() for path in (ROOT / "deploy").glob("*.md"))
    for asking in (str(RULES), " ".join(expressions()), documents):
        asked = set(re.findall(r"\bforebay_[a-z_]+[a-z]\b", asking))
        assert asked
        for name in asked:
            assert {name, name.removesuffix("_total"), re.sub("_(sum|count|bucket)$", "", name)} & names, name
        for wanted in re.findall(r'state=~"([a-z|-]+)"', asking):
            assert set(wanted.split("|")) <= states
