"""TLS with the servers: the driver has files, executors have none, and what does not fit is said at the first shuffle."""

import shutil

import pytest

from conftest import SHARED
from harness.application import Application, CallFailed
from harness.certificates import Authority
from harness.server import Server

NAME = "forebay.test"  # which no DNS has: the servers are reached by address


@pytest.fixture(scope="module")
def authority(run):
    if not shutil.which("openssl"):
        pytest.skip("no openssl: apt-get install openssl")
    return Authority(run.folder("authority"))


def serving(run, authority, name, *flags) -> Server:
    cert, key = authority.issue(NAME)
    return Server(run, name, flags=("--tls-cert", cert, "--tls-key", key, *flags)).start()


def copies(folder, *files) -> list:
    """Of the driver alone: they go once it has started."""
    folder.mkdir()
    return [shutil.copy(file, folder) for file in files]


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual"])
def test_answers_are_sparks_with_executors_that_have_no_file(run, line, authority, own_answer, mutual):
    name = f"{'mutual' if mutual else 'tls'}-{line.version}"
    server = serving(run, authority, name, *(("--tls-client-ca", authority.cert) if mutual else ()))
    files = copies(run.folder("driver-files") / name, authority.cert, *(authority.issue("app") if mutual else ()))
    keys = ["spark.forebay.tls.ca", "spark.forebay.tls.cert", "spark.forebay.tls.key"]
    conf = {"spark.forebay.tls.serverName": NAME, **{key: str(file) for key, file in zip(keys, files)}}
    secrets = [line for file in files[2:] for line in open(file).read().splitlines() if "-----" not in line]
    app = Application(run, line, name, [server], SHARED | conf)
    shutil.rmtree(run.folder("driver-files") / name)
    job = {"job": "reduceByKey", "records": 80_000}
    assert app.call("pairs", **job) == own_answer("pairs", **job)
    assert app.call("tagged", base=0) == [1000, 0, 999, 499_500]
    assert server.shuffle_files()
    app.stop()
    assert secrets or not mutual
    written = b"".join(file.read_bytes() for file in app.folder.rglob("*") if file.is_file() and not file.is_symlink())
    assert b"spark.forebay.tls.serverName" in written, "the event log is among them"
    for secret in secrets:
        assert secret.encode() not in written
    assert server.stop() == 0
    assert server.errors() == []


def test_what_does_not_fit_is_said_at_the_first_shuffle(run, newest, authority):
    secure, plain = serving(run, authority, "secure"), Server(run, "plain").start()
    stranger = Authority(run.folder("another-authority"))
    trusting = {"spark.forebay.tls.ca": str(authority.cert), "spark.forebay.tls.serverName": NAME}
    cases = {
        "in-the-clear": (secure, {}, ["TLS only", "spark.forebay.tls.ca"]),
        "to-plain": (plain, trusting, ["does not speak TLS", "tls-cert", "spark.forebay.tls.ca"]),
        "strange": (secure, trusting | {"spark.forebay.tls.ca": str(stranger.cert)}, ["invalid peer certificate", "spark.forebay.tls.ca"]),
        "nameless": (secure, trusting | {"spark.forebay.tls.serverName": None}, ["127.0.0.1", "spark.forebay.tls.serverName"]),
    }
    for name, (server, conf, words) in cases.items():
        app = Application(run, newest, f"unfit-{name}", [server], {"spark.master": "local[1]", **conf})
        with pytest.raises(CallFailed) as failed:
            app.call("tagged", base=0)
        for word in words:
            assert word in str(failed.value), name
        app.stop()
    assert "this port takes TLS only" in secure.log.read_text()
    assert "the client speaks TLS, and this port does not" in plain.log.read_text()
    for server in (secure, plain):
        assert server.stop() == 0
        assert server.errors() == []
