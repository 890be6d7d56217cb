"""A real API server for the chart: etcd, kube-apiserver and kube-controller-manager of the cluster's programs, on loopback, without a
kubelet. Pods are made and admitted, and none runs.
"""

import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

from chart import helm_python

CACHE = Path(os.environ.get("FOREBAY_CACHE") or Path.home() / ".cache" / "forebay")
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
NODES = ("node-1", "node-2")
# Custom resources of others; what is in them is looked at elsewhere.
CUSTOM = {
    "monitoring.coreos.com": ("v1", ["ServiceMonitor", "PodMonitor", "PrometheusRule"]),
    "cert-manager.io": ("v1", ["Certificate"]),
    "keda.sh": ("v1alpha1", ["ScaledObject"]),
}


def programs() -> Path | None:
    """Where they are, if the cluster's programs were built."""
    for folder in sorted(CACHE.glob("kubernetes-*/bin")):
        if all((folder / name).exists() for name in PROGRAMS):
            return folder
    return None


def _die_with_us():
    """However the tests end, these end too (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Api:
    def __init__(self, folder: Path, bin: Path):
        self.dir, self.bin, self.processes, self.ports = folder, bin, [], []
        self.url = f"https://127.0.0.1:{self._port()}"

    def start(self):
        etcd, peers = f"http://127.0.0.1:{self._port()}", f"http://127.0.0.1:{self._port()}"
        token = secrets.token_hex(16)
        (self.dir / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
        self.config = json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": f"{self.dir}/api/apiserver.crt"}}],
            "users": [{"name": "u", "user": {"token": token}}],
        })  # fmt: skip
        (self.dir / "kubeconfig").write_text(self.config)
        (self.dir / "kubeconfig").chmod(0o600)
        key = self.dir / "accounts.key"
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
        self._spawn("etcd", f"--data-dir={self.dir}/etcd", "--unsafe-no-fsync", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
                    f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}")  # fmt: skip
        self._spawn("kube-apiserver", f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={self.url.rpartition(':')[2]}",
                    f"--cert-dir={self.dir}/api", f"--token-auth-file={self.dir}/tokens.csv", "--authorization-mode=RBAC", f"--service-account-key-file={key}",
                    f"--service-account-signing-key-file={key}", "--service-account-issuer=https://kubernetes.default.svc",
                    "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112")  # fmt: skip
        self.until(lambda: self.kubectl("get", "--raw", "/readyz", check=False).returncode == 0, "the API server is not ready")
        self._spawn("kube-controller-manager", f"--kubeconfig={self.dir}/kubeconfig", "--leader-elect=false", f"--service-account-private-key-file={key}",
                    "--secure-port=0", "--controllers=*,-nodelifecycle,-cloud-node-lifecycle")  # fmt: skip
        nodes = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}} for name in NODES]
        self.apply(nodes + [_definition(group, version, kind) for group, (version, kinds) in CUSTOM.items() for kind in kinds])
        self.kubectl("taint", "nodes", "--all", "node.kubernetes.io/not-ready:NoSchedule-")  # as a kubelet that is ready would have it
        self.until(lambda: self.kubectl("get", "serviceaccount", "default", check=False).returncode == 0, "no controllers")
        return self

    def _port(self) -> int:
        """A socket that is bound and does not listen keeps it from everybody but who asks for just this one with SO_REUSEADDR."""
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        self.ports.append(held)
        return held.getsockname()[1]

    def _spawn(self, name: str, *flags: str):
        with (self.dir / f"{name}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen([self.bin / name, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.dir, preexec_fn=_die_with_us)
            )

    def stop(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        for held in self.ports:
            held.close()

    def until(self, holds, why: str, seconds: float = 120):
        end = time.monotonic() + seconds
        while not (found := holds()):
            ended = [process.args[0].name for process in self.processes if process.poll() is not None]
            if ended or time.monotonic() > end:
                logs = {path.name: path.read_text(errors="replace")[-1500:] for path in self.dir.glob("*.log")}
                raise TimeoutError(f"{why}; ended: {ended}; {logs}")
            time.sleep(0.2)
        return found

    def kubectl(self, *words: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess:
        command = [self.bin / "kubectl", "--kubeconfig", self.dir / "kubeconfig", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(words)}: {done.stderr}")
        return done

    def apply(self, documents: list[dict], *words: str) -> str:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
        return self.kubectl("apply", "--validate=strict", "-f", "-", *words, stdin=text).stdout

    def get(self, namespace: str, kind: str) -> list[dict]:
        return json.loads(self.kubectl("get", "-n", namespace, kind, "-o", "json").stdout)["items"]

    @contextlib.contextmanager
    def namespace(self, name: str):
        """One in which only restricted pods are admitted."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}])
        self.until(lambda: self.kubectl("get", "-n", name, "serviceaccount", "default", check=False).returncode == 0, "no account")
        with helm_python.Config(kubeconfig_path=self.dir / "kubeconfig", namespace=name) as helm:
            yield helm
        self.kubectl("delete", "namespace", name, "--wait=false")


def _definition(group: str, version: str, kind: str) -> dict:
    plural = f"{kind.lower()}s"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }
