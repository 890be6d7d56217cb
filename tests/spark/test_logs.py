"""The logs of executors: what the native client says is in them by Spark's own logging, in whatever layout that has."""

import json

import pytest

from harness.application import Application
from harness.server import Server

LAYOUT = """
rootLogger.level = info
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = JsonLayout
appender.stderr.layout.compact = true
appender.stderr.layout.eventEol = true
logger.native.name = io.forebay.native
logger.native.level = debug
"""
# Written by who starts the executor, and by the JVM before it runs anything.
JVMS = ("WARNING: Using incubator modules", "OpenJDK 64-Bit Server VM warning")


@pytest.mark.every_line
def test_every_line_of_executors_that_log_json_is_json(run, line):
    """Also while a server of theirs is gone."""
    servers = [Server(run, f"json-logs-{line.version}-{number}").start() for number in range(2)]
    layout = run.folder("json-logs") / "log4j2.properties"
    layout.write_text(LAYOUT)
    conf = {"spark.executorEnv.FOREBAY_LOG": "debug", "spark.forebay.retryDeadline": "8s"}
    app = Application(run, line, f"json-logs-{line.version}", servers, conf, executor_jvm=f"-Dlog4j2.configurationFile={layout}")
    app.call("pairs", job="reduceByKey", records=20_000)
    servers[0].kill()
    app.call("pairs", job="reduceByKey", records=20_000)
    events = []
    for log in app.executor_logs():
        text = log.read_text(errors="replace")
        text = text[: text.rindex("\n")]  # it is written still
        lines = text.split("=" * 40, 1)[1].split("\n")  # the command line of the executor comes first
        events += [parsed(line) for line in lines if line and not line.startswith(JVMS)]
    native = [event for event in events if event["loggerName"].startswith("io.forebay.native.")]
    assert {"DEBUG"} <= {event["level"] for event in native} <= {"DEBUG", "INFO", "WARN"}
    assert all(event["message"] for event in native)
    assert {event["thread"] for event in native} == {"forebay-log"}
    assert len(events) > len(native), "Spark itself has logged nothing"
    app.stop()
    assert servers[1].stop() == 0


def parsed(line: str) -> dict:
    try:
        return json.loads(line)
    except ValueError:
        raise AssertionError(f"not JSON: {line}") from None
