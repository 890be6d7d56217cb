"""A server with the settings that the chart writes, on ports of its own, as long as somebody asks."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from chart import ROOT, settings

BIN = ROOT / "target" / "release"


class Running:
    def __init__(self, place: Path):
        self.place = place

    def __enter__(self):
        if not (BIN / "forebay-server").exists():
            pytest.fail("target/release/forebay-server is not built: run make build", pytrace=False)
        values = {"memory": "640Mi", "remote": f"file://{self.place}/store", "storage": {"type": "emptyDir"}}
        own = {"data-dir": [f"{self.place}/data"], "listen": "127.0.0.1:0", "admin-listen": "127.0.0.1:0"}
        known = subprocess.run([BIN / "forebay-server", "--print-config"], env={}, capture_output=True, text=True, check=True).stdout
        if "allow-root-device" in known:
            own["allow-root-device"] = True  # the data of this test lie where the machine's own do
        config = self.place / "forebay.toml"
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in (settings(values) | own).items()))
        with (self.place / "log").open("w") as log:
            # As in a pod: node and zone are in the environment, the zone without a value before Kubernetes 1.35.
            env = {"FOREBAY_NODE": "node-1", "FOREBAY_ZONE": ""}
            self.process = subprocess.Popen([BIN / "forebay-server", "--config", config], stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        ready = self.process.stdout.readline()
        if not ready.startswith("ready "):
            self.__exit__()
            pytest.fail((self.place / "log").read_text(), pytrace=False)
        self.data, self.admin = re.findall(r"(?:data|admin)=(\S+)", ready)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
