"""What the chart and the documents say of the server is asked of the server: settings, the commands of `helm test`."""

import re
import subprocess

import pytest
from chart import ROOT, objects, one, settings, tomllib
from running import BIN, Running, certificates
from sets import SETS

DOCUMENTS = [*sorted((ROOT / "deploy").glob("*.md")), ROOT / "deploy" / "examples" / "README.md"]


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_the_server_takes_the_settings_that_the_chart_writes(values, tmp_path):
    """--print-config reads them all, without opening anything."""
    config = tmp_path / "forebay.toml"
    config.write_text(one_config(values))
    told = subprocess.run([BIN / "forebay-server", "--config", config, "--print-config"], env={}, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    effective = tomllib.loads(told.stdout)
    for key, value in settings(values).items():
        found = effective[key]
        assert found == value or seconds(found) == seconds(value), key


def one_config(values: dict) -> str:
    (config,) = [o for o in objects(values) if o["kind"] == "ConfigMap" and "forebay.toml" in o["data"]]
    return config["data"]["forebay.toml"]


def seconds(value):
    """The server prints 15min for 900s."""
    units = {"s": 1, "min": 60, "h": 3600}
    number, unit = re.fullmatch(r"(\d+)(\D*)", str(value)).groups() if re.fullmatch(r"\d+\D*", str(value)) else (value, "")
    return int(number) * units[unit] if unit in units else value


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_helm_test_runs_against_a_server(tmp_path, secure):
    if secure:
        certificates(tmp_path)
    with Running(tmp_path, tmp_path if secure else None) as server:
        for container in one({"replicas": 1, "tls": {"enabled": secure}}, "Pod")["spec"]["containers"]:
            command = [part.replace("forebay-0.forebay:7401", server.admin).replace("forebay-0.forebay:7400", server.data) for part in container["command"]]
            command = [part.replace("/etc/forebay-tls", str(tmp_path)) for part in command]
            command[0] = command[0].replace("/usr/local/bin", str(BIN))
            # The image may have no certificates, and these are no questions for them.
            bare = {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": "/nowhere"}
            told = subprocess.run(command, env=bare, capture_output=True, text=True, timeout=120)
            assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]*(?:#[^)]*)?)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads], target
