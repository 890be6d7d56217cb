"""Forebay for Python: the settings that Spark needs, and a server for trying things out.

    $ forebay dev                                  # in another terminal

    >>> import forebay
    >>> from pyspark.sql import SparkSession
    >>> spark = SparkSession.builder.config(map=forebay.conf()).getOrCreate()

Or in one process, with a server that ends with it:

    >>> with forebay.dev() as conf:
    ...     spark = SparkSession.builder.config(map=conf).getOrCreate()

The package brings the programs `forebay-server`, `forebay` and `forebay-bench`, and the jar for Spark. It needs nothing but
Python's own library; Spark is whichever you have.
"""

import contextlib
import json
import os
import stat
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

__all__ = ["NotRunning", "conf", "dev", "jar", "program"]
__version__ = metadata.version("forebay")

MANAGER = "io.forebay.spark.ForebayShuffleManager"


class NotRunning(RuntimeError):
    """There is no server to name; the message says how to have one."""


def conf(servers=None) -> dict[str, str]:
    """What Spark must be told: for `SparkSession.builder.config(map=forebay.conf())`.

    `servers` names them: "host:7400,host:7400", a list of such, or "dns://name:7400". Without it they are those of the environment
    (FOREBAY_SERVERS), or else the one that `forebay dev` runs for this user.
    """
    servers = servers or os.environ.get("FOREBAY_SERVERS")
    if not servers:
        servers = _running_dev()["data"]
    elif not isinstance(servers, str):
        servers = ",".join(servers)
    archive = str(jar())
    return {
        "spark.shuffle.manager": MANAGER,
        "spark.forebay.servers": servers,
        # Not spark.jars: Spark 3.5 makes the shuffle manager before it fetches those.
        "spark.driver.extraClassPath": archive,
        "spark.executor.extraClassPath": archive,
    }


@contextlib.contextmanager
def dev(memory: str = "512MiB"):
    """A server on this machine as long as the block runs; gives what `conf()` gives for it. Nothing is left at its end."""
    command = [program("forebay"), "dev", "--json", "--port", "0", "--memory", memory]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            said = server.stdout.readline()
            if not said:
                raise NotRunning(f"forebay dev ended with exit code {server.wait()}: {server.stderr.read().strip()}")
            yield json.loads(said)
        finally:
            server.terminate()
            server.communicate()


def jar() -> Path:
    """The plugin for Spark, one file for all its lines and both kinds of processors."""
    return _installed("share/forebay/forebay-spark.jar")


def program(name: str) -> Path:
    """Where one of the programs is: "forebay", "forebay-server" or "forebay-bench"."""
    return _installed(f"bin/{name}")


def _installed(end: str) -> Path:
    """A file of this package outside of its folder: pip has noted where it put each."""
    for file in metadata.files("forebay") or []:
        if file.as_posix().endswith(f"/{end}"):
            found = Path(file.locate()).resolve()
            if found.exists():
                return found
    raise FileNotFoundError(f"the package forebay has no {end} here: pip install --force-reinstall forebay")


def _running_dev() -> dict:
    folder = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(folder) if folder and os.path.isdir(folder) else Path(tempfile.gettempdir())
    path = folder / f"forebay-dev-{os.getuid()}.json"
    remedy = "start one with `forebay dev`, or name yours: forebay.conf('host:7400')"
    try:
        # A file that somebody else laid there must not decide where rows go.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as file:
            seen = os.fstat(file.fileno())
            if seen.st_uid != os.getuid() or not stat.S_ISREG(seen.st_mode) or seen.st_mode & 0o022:
                raise NotRunning(f"{path} is not yours alone, so it is not believed: {remedy}")
            state = json.load(file)
        os.kill(state["pid"], 0)
    except (FileNotFoundError, ProcessLookupError):
        raise NotRunning(f"no server runs here: {remedy}") from None
    return state
