"""Forebay on the cluster, as a platform team installs it: the chart, with the release's image or one made of what is built here."""

import json
import os
import subprocess
from pathlib import Path

from harness.places import BENCH, CLI, JAR, ROOT, SERVER
from harness.run import wait_until
from kube import oci
from kube.cluster import Cluster

CHART = ROOT / "deploy" / "helm" / "forebay"
REPOSITORY = "localhost/forebay"
METRICS = "forebay_"  # what all names of the server's own begin with


def image(archive: Path, tag: str):
    """FOREBAY_IMAGE is an archive of `make release`; without it the image holds the programs as they are built here, laid out alike."""
    released = os.environ.get("FOREBAY_IMAGE")
    if released:
        oci.named(archive, Path(released), f"{REPOSITORY}:{tag}")
        return
    programs = {"/usr/share/forebay/forebay-spark.jar": JAR}
    for program in (SERVER, CLI, BENCH):  # without what only debuggers read, most of their size
        stripped = archive.with_suffix(f".{program.name}")
        subprocess.run(["strip", "-o", stripped, program], check=True)
        programs[f"/usr/local/bin/{program.name}"] = stripped
    oci.write(archive, f"{REPOSITORY}:{tag}", programs=programs, Entrypoint=["/usr/local/bin/forebay-server"], User="10001:10001")
    for program in list(programs.values())[1:]:
        program.unlink()


class Forebay:
    """One release of the chart. `values` are the chart's, for what a test is about."""

    def __init__(self, cluster: Cluster, name: str = "forebay", namespace: str = "default", **values):
        self.cluster, self.name, self.namespace = cluster, name, namespace
        self.values = {
            "fullnameOverride": name,
            "image": {"repository": REPOSITORY, "tag": "1", "pullPolicy": "Never"},
            "memory": "1Gi",
            "drain": {"timeout": "60s"},
            "resources": {"requests": {"cpu": "50m"}},
        } | values
        if self.values.get("kind", "StatefulSet") == "StatefulSet":
            self.values = {"replicas": 2, "storage": {"class": "local", "size": "1Gi"}} | self.values
        self.servers = f"dns://{name}.{namespace}.svc.cluster.local:7400"

    def install(self, wait: bool = True) -> "Forebay":
        self._helm("install")
        if wait:
            self.ready()
        return self

    def upgrade(self, **values):
        """Says what is to be; the rolling itself goes on afterwards."""
        self.values |= values
        self._helm("upgrade")

    def _helm(self, verb: str):
        file = self.cluster.dir / f"values-{self.name}.json"
        file.write_text(json.dumps(self.values))
        self.cluster.helm(verb, self.name, CHART, "--namespace", self.namespace, "--create-namespace", "--values", file)

    def uninstall(self):
        self.cluster.helm("uninstall", self.name, "--namespace", self.namespace, "--wait")
        self.cluster.kubectl("delete", "pvc", "-l", f"app.kubernetes.io/instance={self.name}", "-n", self.namespace, "--wait")
        self.cluster.disks()

    def ready(self, seconds: int = 300):
        """All pods are there, in the version that is wanted, and ready."""
        rolled = self.cluster.kubectl("rollout", "status", self.workload, "-n", self.namespace, f"--timeout={seconds}s", check=False)
        if rolled.returncode:
            events = self.cluster.kubectl("get", "events", "-n", self.namespace, "--sort-by=.lastTimestamp").stdout.splitlines()[-20:]
            logs = self.logs("--tail=20") or self.logs("--tail=20", "--previous")
            raise TimeoutError("\n".join([f"{self.name} is not ready: {rolled.stderr}", *events, logs]))

    @property
    def workload(self) -> str:
        return f"{self.values.get('kind', 'StatefulSet').lower()}/{self.name}"

    def pods(self) -> list[dict]:
        return self.cluster.get("pods", "-n", self.namespace, "-l", f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component=server")["items"]

    def names(self) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.pods())

    def pod_on(self, node: str) -> str:
        return next(pod["metadata"]["name"] for pod in self.pods() if pod["spec"].get("nodeName") == node)

    def exec(self, pod: str, *command, **options):
        return self.cluster.kubectl("exec", "-n", self.namespace, pod, "--", *command, **options)

    def metric(self, pod: str, name: str) -> float:
        """The sum of a server's samples whose name starts so."""
        text = self.cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{self.namespace}/pods/{pod}:7401/proxy/metrics").stdout
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(METRICS + name))

    def delete_pod(self, pod: str, seconds: float = 300):
        """As `kubectl delete pod` does; returns when the pod that takes its place is ready."""
        old = self._uid(pod)
        self.cluster.kubectl("delete", "pod", "-n", self.namespace, pod, "--wait=false")
        wait_until(lambda: self._uid(pod) not in (None, old), seconds, f"{pod} is not made again")
        self.ready()

    def _uid(self, pod: str) -> str | None:
        found = self.cluster.kubectl("get", "pod", "-n", self.namespace, pod, "-o", "jsonpath={.metadata.uid}", check=False)
        return found.stdout if found.returncode == 0 else None

    def logs(self, *words) -> str:
        return "".join(self.cluster.kubectl("logs", "-n", self.namespace, name, *words, check=False).stdout for name in self.names())

    def errors(self) -> list[str]:
        """ERROR lines of the pods that are there."""
        return [line for line in self.logs().splitlines() if " ERROR " in line or "panicked at" in line]
