"""A real Kubernetes of one or several nodes in namespaces of this machine: no service, address, mount or sysctl outside of them.

What is inside: etcd, API server, controller manager, scheduler, CoreDNS and kube-proxy once, and per node containerd and a kubelet
with a /run, /var/log and /var/lib/kubelet of its own. The nodes share one network: a bridge with both address families, which is the
pods' too. All processes are a `Run`'s, so they end with it and the folder with them, also after SIGKILL; the first of them is the init
of a PID namespace, and with it the kernel ends whatever is in there, containers too.

Not there: anything outside (no pulls: images are the archives given here), network policies, load balancers, dynamic volumes. `disks`
gives local volumes instead, and each node has two more file systems at the same places.
"""

import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

from harness.places import CACHE
from harness.run import Run, wait_until
from kube import oci

HERE = Path(__file__).resolve().parent
API = "https://10.88.0.1:6443"
VOLUMES = (1, 2, 3, 4)  # disks of each node that are local volumes
DIRECTORIES = (5, 6)  # and those that nobody claims, for `hostPath`; node.sh makes all of them
GROUPS = {"admin": "system:masters", "controller-manager": "", "scheduler": "", "proxy": "", "coredns": ""}
USERS = {"controller-manager": "system:kube-controller-manager", "scheduler": "system:kube-scheduler", "proxy": "system:kube-proxy"}


class Cluster:
    @staticmethod
    def built() -> bool:
        return bool(_programs())

    @staticmethod
    def missing() -> str | None:
        """Why there can be none here, with the remedy."""
        if os.geteuid() != 0:
            return "only root makes namespaces with mounts and networks"
        if not _programs():
            return f"no Kubernetes is built in {CACHE}: run ./setup.sh --cluster (10 minutes of two free cores)"
        for tool in ("nsenter", "unshare", "ip", "nft", "openssl", "losetup", "mkfs.ext4"):
            if not shutil.which(tool, path=_path()):
                return f"{tool} is not here: run ./setup.sh --cluster --disks"
        if not Path("/dev/loop-control").exists():
            return "no loop devices (/dev/loop-control): the nodes' disks are files"
        probe = subprocess.run(["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "ip", "link", "add", "name", "cni0", "type", "bridge"],
                               capture_output=True, text=True, check=False, env=os.environ | {"PATH": _path()})
        return f"no namespaces with a bridge here: {probe.stderr.strip()}" if probe.returncode else None

    def __init__(self, run: Run, nodes: int = 2):
        """What lies in `images` when it starts is what its nodes can run."""
        self.run = run
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.programs = Path(_programs())
        self.dir = run.folder("kube")
        if len(str(self.dir)) > 60:
            raise RuntimeError(f"{self.dir} is too long for the sockets in it: set TMPDIR to a short path")
        self.cgroup = run.dir.name  # harness.guard removes control groups of that name
        self.daemons: dict[str, subprocess.Popen] = {}
        self.images = run.folder("kube", "images")

    # === starting ===

    def start(self) -> "Cluster":
        for names in (["log"], ["etcd"], *(["disks", str(disk)] for disk in (*VOLUMES, *DIRECTORIES))):
            self.run.folder("kube", *names)
        self._images()
        self._namespaces()
        self._credentials()
        self._control_plane()
        for number, node in enumerate(self.nodes, 1):
            env = {"DIR": self.dir, "PROGRAMS": self.programs, "CGROUP": self.cgroup}
            self._daemon(node, ["env", *(f"{key}={value}" for key, value in env.items()), "bash", HERE / "node.sh", number])
        self.apply((HERE / "settings" / "coredns.yaml").read_text())
        (self.dir / "Corefile").write_text((HERE / "settings" / "Corefile").read_text().replace("@DIR@", str(self.dir)))
        self._daemon("coredns", ["coredns", "-conf", self.dir / "Corefile"])
        self._daemon("kube-proxy", ["kube-proxy", f"--kubeconfig={self.dir}/proxy.conf", "--proxy-mode=nftables", "--bind-address=10.88.0.1",
                                    "--cluster-cidr=10.88.0.0/16,fd00:88::/64", f"--hostname-override={self.nodes[0]}", "--conntrack-max-per-core=0"])  # fmt: skip
        for node in self.nodes:
            self._await(lambda: self.kubectl("get", "node", node, check=False).returncode == 0, f"{node} did not register", node)
        self.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=300s")
        for node in self.nodes:  # what the nodes are labelled with by clouds
            self.kubectl("label", "node", node, f"topology.kubernetes.io/zone=zone-{node}")
        self.disks()
        return self

    def _images(self):
        oci.write(self.images / "pause.tar", "localhost/pause:1", programs={"/pause": self.programs / "bin" / "pause"}, Entrypoint=["/pause"])

    def _namespaces(self):
        """Their init reaps, and holds them."""
        Path("/var/lib/kubelet").mkdir(exist_ok=True)  # the one path of a kubelet that cannot be set; stays empty outside
        (self.dir / "resolv.conf").write_text("")  # of pods, beside the cluster's own names
        (self.dir / "names.conf").write_text("nameserver 10.88.0.1\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n")
        outer = self.run.spawn("cluster-init", ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child",
                               "--propagation", "private", "--mount-proc", self.programs / "bin" / "pause"], stdin=subprocess.DEVNULL)  # fmt: skip
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        wait_until(lambda: children.read_text().split(), 30, "no namespaces")
        self.init = int(children.read_text().split()[0])
        wait_until(lambda: Path(f"/proc/{self.init}/exe").resolve().name == "pause", 30, "the init of the namespaces did not start")
        enter = self.dir / "enter"
        enter.write_text("#!/bin/sh\n# Runs a command inside the cluster, with this machine's files.\n" + f"export PATH={_path()} KUBECONFIG={self.dir}/admin.conf KUBECACHEDIR={self.dir}/cache"
                         + "".join(f" HELM_{what}_HOME={self.dir}/helm" for what in ("CACHE", "CONFIG", "DATA")) + "\n"
                         + 'exec nsenter --wdns="$PWD" -t ' + str(self.init) + ' --mount --net --pid --uts --ipc -- "$@"\n')  # fmt: skip
        enter.chmod(0o755)
        self.enter = enter
        self.inside("sh", "-ec", f"""
            hostname kube
            mount --bind {self.dir}/names.conf /etc/resolv.conf
            ip link set lo up
            ip link add cni0 type bridge && ip link set cni0 up
            ip addr add 10.88.0.1/16 dev cni0 && ip addr add fd00:88::1/64 dev cni0 nodad
            ip route add default via 10.88.0.254 # never answers; kube-proxy and clients only want one to exist
            echo 1 | tee /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding > /dev/null
            [ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables""")

    def _credentials(self):
        """A token for each part. The API server makes its own certificate."""
        rows = []
        users = {name: (USERS.get(name, name), group) for name, group in GROUPS.items()}
        users |= {f"kubelet-{node}": (f"system:node:{node}", "system:nodes") for node in self.nodes}
        for name, (user, group) in users.items():
            token = secrets.token_hex(16)
            rows.append(f'{token},{user},{user},"{group}"')
            (self.dir / f"{name}.conf").write_text(json.dumps({
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": API, "certificate-authority": f"{self.dir}/api/apiserver.crt"}}],
                "users": [{"name": "u", "user": {"token": token}}],
            }))  # fmt: skip
            (self.dir / f"{name}.conf").chmod(0o600)
        (self.dir / "tokens.csv").write_text("\n".join(rows) + "\n")
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.dir / "accounts.key"], check=True)

    def _control_plane(self):
        self._daemon("etcd", ["etcd", f"--data-dir={self.dir}/etcd", "--unsafe-no-fsync", "--listen-client-urls=http://127.0.0.1:2379",
                              "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380"])  # fmt: skip
        self._daemon("kube-apiserver", ["kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--bind-address=10.88.0.1", "--secure-port=6443",
            f"--cert-dir={self.dir}/api", f"--token-auth-file={self.dir}/tokens.csv", "--authorization-mode=Node,RBAC", "--allow-privileged=true",
            f"--service-account-key-file={self.dir}/accounts.key", f"--service-account-signing-key-file={self.dir}/accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc", "--kubelet-preferred-address-types=InternalIP",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112", "--enable-admission-plugins=NodeRestriction"])  # fmt: skip
        self._await(lambda: self.kubectl("get", "--raw", "/readyz", check=False).returncode == 0, "the API server is not ready", "kube-apiserver")
        self._daemon("kube-controller-manager", ["kube-controller-manager", f"--kubeconfig={self.dir}/controller-manager.conf", "--leader-elect=false",
            f"--service-account-private-key-file={self.dir}/accounts.key", f"--root-ca-file={self.dir}/api/apiserver.crt", "--use-service-account-credentials=true"])  # fmt: skip
        self._daemon("kube-scheduler", ["kube-scheduler", f"--kubeconfig={self.dir}/scheduler.conf", "--leader-elect=false"])

    def _daemon(self, name: str, command: list):
        with open(self.dir / "log" / f"{name}.log", "ab") as log:
            self.daemons[name] = self.run.spawn("cluster", [self.enter, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.dir)

    def _await(self, what, message: str, daemon: str, seconds: float = 240):
        def ready():
            if self.daemons[daemon].poll() is not None:
                raise RuntimeError(f"{message}: it ended\n{self.log(daemon)}")
            return what()

        try:
            wait_until(ready, seconds, message)
        except TimeoutError as late:
            raise TimeoutError(f"{late}\n{self.log(daemon)}") from None

    def log(self, daemon: str, lines: int = 30) -> str:
        return "\n".join((self.dir / "log" / f"{daemon}.log").read_text(errors="replace").splitlines()[-lines:])

    # === use ===

    def inside(self, *command, check: bool = True, stdin: str | None = None, timeout: float = 600) -> subprocess.CompletedProcess:
        """A command in the cluster's network, to its end. What it said is in the exception."""
        done = subprocess.run([self.enter, *map(str, command)], input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
                              capture_output=True, text=True, timeout=timeout, check=False, cwd=self.dir)  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def kubectl(self, *words, **options) -> subprocess.CompletedProcess:
        return self.inside("kubectl", *words, **options)

    def helm(self, *words, **options) -> subprocess.CompletedProcess:
        return self.inside("helm", *words, **options)

    def apply(self, text: str, namespace: str = "default"):
        self.kubectl("apply", "-n", namespace, "-f", "-", stdin=text)

    def get(self, *words) -> dict:
        return json.loads(self.kubectl("get", *words, "-o", "json").stdout)

    def load(self, archive: Path):
        """An image into the nodes that run already."""
        for node in self.nodes:
            self.inside("ctr", "-a", self.dir / node / "containerd.sock", "-n", "k8s.io", "images", "import", archive)

    def disks(self):
        """Empty local volumes of the class `local`, each a file system of a node; what was released is given again."""
        self.apply(json.dumps({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local"},
                               "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}))  # fmt: skip
        there = {volume["metadata"]["name"]: volume["status"].get("phase") for volume in self.get("pv")["items"]}
        for node in self.nodes:
            for disk in VOLUMES:
                name, path = f"{node}-{disk}", self.dir / "disks" / str(disk)
                if there.get(name) == "Bound":
                    continue
                if name in there:
                    self.kubectl("delete", "pv", name, "--wait")
                self.in_node(node, "find", path, "-mindepth", "1", "-delete")
                self.apply(json.dumps({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
                    "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local", "local": {"path": str(path)},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                        {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}}))  # fmt: skip

    def in_node(self, node: str, *command, **options):
        """A command with a node's own mounts."""
        return self.inside("nsenter", "-t", self._in_namespace(self.node_pid(node)), "--mount", "--", *command, **options)

    def node_pid(self, node: str) -> int:
        """Of the script that is the node."""
        number = node.removeprefix("n")
        for pid in self.run.processes("cluster"):
            if _words(pid)[-2:] == [number, "inside"] and _words(pid)[0] == "bash":
                return pid
        raise RuntimeError(f"{node} has ended\n{self.log(node)}")

    @staticmethod
    def _in_namespace(pid: int) -> int:
        """The number that a process has inside."""
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("NSpid:")).split()[-1])

    # === what is done to it ===

    def kill_kubelet(self, node: str):
        """SIGKILL; it stays away until `start_kubelet`."""
        for pid in self.run.processes("cluster"):
            if f"--hostname-override={node}" in _words(pid) and _words(pid)[0] == "kubelet":
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: (self.dir / node / "stopped").exists(), 30, f"the kubelet of {node} did not end")

    def start_kubelet(self, node: str):
        (self.dir / node / "stopped").unlink(missing_ok=True)

    def kill_pods(self, node: str) -> int:
        """SIGKILL for every process of every pod of a node; returns how many there were."""
        pids = self.pod_pids(node)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # its container's first process was killed before
        return len(pids)

    def pod_pids(self, node: str) -> list[int]:
        hierarchy = Path("/sys/fs/cgroup")
        if not (hierarchy / "cgroup.controllers").exists():
            hierarchy = hierarchy / "memory"
        return [int(pid) for file in (hierarchy / f"{self.cgroup}-{node}").rglob("cgroup.procs") for pid in file.read_text().split()]


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
    except OSError:
        return [""]


@functools.cache
def _programs() -> str:
    """Where they are, or nothing."""
    return subprocess.run([HERE.parent / "programs.sh", "--if-built", CACHE], capture_output=True, text=True, check=True).stdout.strip()


def _path() -> str:
    return f"{_programs()}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
