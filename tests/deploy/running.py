"""A server with the settings that the chart writes, on ports of its own, as long as somebody asks."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from chart import ROOT, settings

BIN = ROOT / "target" / "release"


def certificates(place):
    """What the Secret of tls.secretName has, for 127.0.0.1."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl: apt-get install openssl")

    def openssl(*words):
        done = subprocess.run(["openssl", *words], cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=an authority of a test")
    openssl("req", *key, "-keyout", "tls.key", "-out", "tls.csr", "-subj", "/CN=forebay")
    (place / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "tls.crt")


class Running:
    def __init__(self, place: Path, certificates: Path | None = None):
        """With TLS where there is a folder with what the chart's Secret has."""
        self.place = place
        self.certificates = certificates

    def __enter__(self):
        if not (BIN / "forebay-server").exists():
            pytest.fail("target/release/forebay-server is not built: run make build", pytrace=False)
        values = {"memory": "640Mi", "remote": f"file://{self.place}/store", "storage": {"type": "emptyDir"}}
        own = {"data-dir": [f"{self.place}/data"], "listen": "127.0.0.1:0", "admin-listen": "127.0.0.1:0"}
        known = subprocess.run([BIN / "forebay-server", "--print-config"], env={}, capture_output=True, text=True, check=True).stdout
        if "allow-root-device" in known:
            own["allow-root-device"] = True  # the data of this test lie where the machine's own do
        if self.certificates:
            values["tls"] = {"enabled": True}
            own |= {"tls-cert": str(self.certificates / "tls.crt"), "tls-key": str(self.certificates / "tls.key")}
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
