"""A pool that asks drivers who they are: the secret of a file, and Spark's own; a wrong one stops the job at its start, with the reason.
The secret is in nobody's log and in no event."""

import time

import pytest

from harness.application import Application, CallFailed
from harness.server import Server

SECRET = "planted-pool-secret-of-the-servers"
WRONG = "planted-pool-secret-of-somebody-else"


@pytest.fixture(scope="module")
def pool(run):
    """Two servers that ask, and the file with their secret."""
    file = run.folder("secrets") / "pool"
    file.write_text(f"# the pool's\n{SECRET}\n")
    flags = ("--auth", "secret", "--pool-secret-file", str(file), "--log", "debug")
    servers = [Server(run, f"asking-{number}", flags=flags).start() for number in range(2)]
    yield servers, file
    for server in servers:
        assert server.stop() == 0
        assert server.errors() == []
        assert "planted" not in server.log.read_text()


def said(app) -> str:
    """All that an application has written: its logs, and its events."""
    files = [app.log, *app.executor_logs(), *(path for path in (app.folder / "events").rglob("*") if path.is_file())]
    return "\n".join(path.read_text(errors="replace") for path in files)


@pytest.mark.parametrize("proof", ["secret", "spark"])
def test_driver_that_has_the_pools_secret_is_served_and_its_executors_have_none(run, newest, pool, proof):
    servers, file = pool
    conf = {"spark.master": "local-cluster[2,1,1024]", "spark.forebay.auth": proof}
    if proof == "secret":
        conf["spark.forebay.auth.file"] = str(file)
    else:
        conf |= {"spark.authenticate": "true", "spark.authenticate.secret": SECRET}
    app = Application(run, newest, f"proof-{proof}", servers, conf)
    assert app.call("tagged", base=1000) == [1000, 1000, 1999, 1_499_500]
    assert sum(server.metric("forebay_pushed_bytes_total") for server in servers) > 0
    told = said(app)
    app.stop()
    told += said(app)
    registered = [line for server in servers for line in server.log.read_text().splitlines() if " audit: " in line and 'action="register"' in line]
    assert any("who=secret" in line for line in registered), registered
    if proof == "secret":
        assert SECRET not in told
    # The servers' tokens are JWTs, and in nothing that a person reads.
    assert "eyJ0eXAi" not in told and "eyJhbGci" not in told


@pytest.mark.parametrize("conf", ["wrong", "none"])
def test_driver_without_the_pools_secret_is_stopped_at_its_start_with_the_remedy(run, newest, pool, conf):
    servers, _ = pool
    settings = {"spark.master": "local[1]"}
    if conf == "wrong":
        file = run.folder("secrets") / "wrong"
        file.write_text(WRONG)
        settings |= {"spark.forebay.auth": "secret", "spark.forebay.auth.file": str(file)}
    app = Application(run, newest, f"unproven-{conf}", servers, settings)
    begun = time.monotonic()
    with pytest.raises(CallFailed) as failed:
        app.call("tagged", base=1000)
    # Not what is waited for when servers are away.
    assert time.monotonic() - begun < 60
    text = str(failed.value)
    assert "does not take app" in text and "spark.forebay.auth.file" in text
    if conf == "wrong":
        assert "pool-secret-file" in text and "signed with a pool secret that is not among those here" in text
    assert "planted" not in text
    app.stop()
    assert "planted-" not in said(app)
