"""Spark on the cluster: an image that is nothing but an entry point, and this machine's own Spark, Java and checkout mounted into it.

(An image with all of it would be a gigabyte to write and to unpack on each node.)
"""

import glob
import os
import shutil
from pathlib import Path

from harness.application import Application
from harness.places import CACHE, JAR, ROOT, TARGET, SparkLine
from harness.run import Run, wait_until
from kube import oci
from kube.cluster import API, Cluster

IMAGE = "localhost/spark:1"
PROGRAM = ROOT / "tests" / "cluster" / "submitted.py"

# What the entry point of Spark's own image does. In cluster mode Spark asks for `driver` and gives spark-submit's arguments.
ENTRYPOINT = """#!/bin/bash
readarray -t OPTIONS < <(env | grep ^SPARK_JAVA_OPT_ | sort -t_ -k4 -n | sed 's/[^=]*=\\(.*\\)/\\1/g')
case "$1" in
driver)
  shift
  exec "$SPARK_HOME/bin/spark-submit" --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" --deploy-mode client "$@" ;;
executor)
  exec "$JAVA_HOME/bin/java" "${OPTIONS[@]}" -Xms"$SPARK_EXECUTOR_MEMORY" -Xmx"$SPARK_EXECUTOR_MEMORY" -cp "$SPARK_CLASSPATH:$SPARK_HOME/jars/*" \\
    org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" \\
    --cores "$SPARK_EXECUTOR_CORES" --app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \\
    --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME" ;;
*) exec "$@" ;;
esac
"""

# An executor's pod: on which node and in which zone it is comes from the cluster, as the chart's notes say.
EXECUTOR_POD = """
apiVersion: v1
kind: Pod
spec:
  containers:
    - name: executor
      env:
        - {name: FOREBAY_NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
  topologySpreadConstraints:
    - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {spark-role: executor, spark-app-name: @APP@}}}
"""

ACCOUNT = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: spark}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: spark}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{kind: ServiceAccount, name: spark, namespace: default}]
"""


def image(run: Run, line: SparkLine, archive: Path):
    root = run.folder("spark-image")
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("etc", "tmp", "opt"):
        (root / name).mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc" / "nsswitch.conf").write_text("hosts: files dns\n")
    shutil.copy("/etc/ld.so.cache", root / "etc")
    entrypoint = root / "opt" / "entrypoint.sh"
    entrypoint.write_text(ENTRYPOINT)
    entrypoint.chmod(0o755)
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "SPARK_HOME": line.home, "JAVA_HOME": _java(), "PYSPARK_PYTHON": line.python}
    oci.write(archive, IMAGE, root, Entrypoint=["/opt/entrypoint.sh"], WorkingDir="/tmp", Env=[f"{key}={value}" for key, value in env.items()])


def _java() -> Path:
    return Path(os.environ.get("JAVA_HOME") or Path(shutil.which("java")).resolve().parent.parent)


def mounts(run: Run, line: SparkLine) -> list[Path]:
    """What pods need of this machine, under its own name there; nothing that lies in another of them."""
    python = line.python.resolve().parent.parent
    wanted = [Path("/usr"), Path("/etc/alternatives"), Path("/etc/ssl"), *map(Path, glob.glob("/etc/java*"))]
    wanted += [_java(), _java().resolve(), python, CACHE, ROOT, TARGET.resolve(), run.dir]
    return sorted({path for path in wanted if not any(other in path.parents for other in wanted)})


def conf(run: Run, line: SparkLine, name: str) -> dict[str, str]:
    """What both kinds of application here have in common: where they run, and in pods of what."""
    settings = {
        "spark.master": f"k8s://{API}",
        "spark.executor.cores": "1",
        "spark.executor.maxNumFailures": "100",  # what goes away here is what is tested
        "spark.executor.instances": "2",
        "spark.executor.memory": "512m",
        "spark.executor.memoryOverhead": "768m",
        "spark.kubernetes.allocation.batch.delay": "1s",
        "spark.kubernetes.authenticate.driver.serviceAccountName": "spark",
        "spark.kubernetes.container.image": IMAGE,
        "spark.kubernetes.container.image.pullPolicy": "Never",
        "spark.kubernetes.driver.request.cores": "50m",
        "spark.kubernetes.executor.request.cores": "50m",
        "spark.kubernetes.executor.podTemplateFile": str(_template(run, name)),
        "spark.network.timeout": "240s",  # this machine has two cores for all of it
    }
    for number, path in enumerate(mounts(run, line)):
        for role in ("driver", "executor"):
            prefix = f"spark.kubernetes.{role}.volumes.hostPath.machine{number}"
            settings |= {f"{prefix}.mount.path": str(path), f"{prefix}.options.path": str(path)}
            settings[f"{prefix}.mount.readOnly"] = str(path != run.dir).lower()
    return settings


def _template(run: Run, name: str) -> Path:
    file = run.dir / f"executor-{name}.yaml"
    file.write_text(EXECUTOR_POD.replace("@APP@", name))
    return file


class Outside(Application):
    """Client mode: the driver is a process beside the pods, under orders as in the tests without a cluster; its executors are pods."""

    address = "10.88.0.1"

    def __init__(self, cluster: Cluster, line: SparkLine, name: str, servers: str | None, extra: dict | None = None):
        self.prefix = [cluster.enter]
        self.cluster = cluster
        settings = conf(cluster.run, line, name) | {"spark.kubernetes.executor.podNamePrefix": name}
        if servers:
            settings["spark.shuffle.manager"] = "io.forebay.spark.ForebayShuffleManager"
            settings["spark.forebay.servers"] = servers
        super().__init__(cluster.run, line, name, None, settings | (extra or {}), 512)
        instances = int((extra or {}).get("spark.executor.instances", "2"))
        wait_until(lambda: self.call("executors") >= instances, 240, f"{name} got no executors")

    def executors_on(self) -> dict[str, str]:
        """The node of each executor's pod, by executor id."""
        pods = self.cluster.get("pods", "-l", f"spark-role=executor,spark-app-name={self.name}")["items"]
        return {pod["metadata"]["labels"]["spark-exec-id"]: pod["spec"].get("nodeName") for pod in pods}


def submit(cluster: Cluster, line: SparkLine, name: str, servers: str, arguments: list, extra: dict | None = None):
    """Cluster mode, as a person says it: driver and executors in pods. Starts it; `finished` waits for it."""
    class_path = f"{JAR}:{line.jobs_jar()}"
    settings = conf(cluster.run, line, name) | {
        "spark.driver.extraClassPath": class_path,
        "spark.executor.extraClassPath": class_path,
        "spark.driver.memory": "700m",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.rolling.enabled": "false",
        "spark.eventLog.dir": cluster.run.folder("spark", name, "events").as_uri(),
        "spark.forebay.servers": servers,
        "spark.kubernetes.driver.pod.name": name,
        "spark.kubernetes.executor.podNamePrefix": name,
        "spark.shuffle.manager": "io.forebay.spark.ForebayShuffleManager",
        "spark.ui.enabled": "false",
    }
    settings |= extra or {}
    words = [word for key, value in settings.items() if key != "spark.master" for word in ("--conf", f"{key}={value}")]
    return cluster.inside("env", f"SPARK_HOME={line.home}", f"JAVA_HOME={_java()}", "SPARK_LOCAL_IP=10.88.0.1", line.home / "bin" / "spark-submit",
        "--master", f"k8s://{API}", "--deploy-mode", "cluster", "--name", name, *words, "--conf", "spark.kubernetes.submission.waitAppCompletion=false",
        f"local://{PROGRAM}", *arguments, timeout=300)  # fmt: skip


def finished(cluster: Cluster, name: str, seconds: float = 600) -> str:
    """What the driver of a submitted application printed, once it has ended well."""

    def phase():
        return cluster.get("pod", name)["status"]["phase"]

    wait_until(lambda: phase() in ("Succeeded", "Failed"), seconds, f"the driver {name} does not end")
    log = cluster.kubectl("logs", name).stdout
    if phase() != "Succeeded":
        raise RuntimeError(f"{name} failed:\n" + "\n".join(log.splitlines()[-60:]))
    return log
