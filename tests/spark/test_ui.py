"""What people see of Forebay: the tab in the UI of a live application and in the history server, the metrics in Spark's sinks, and
the executors' logs. The tests share one application and follow it: its first shuffle, a server that loses its disk, its end.
"""

import html
import re
import urllib.request

import pytest

from conftest import SHARED
from harness.application import Application
from harness.history import HistoryServer
from harness.run import wait_until

MAPS = 20
TAB = 'href="/forebay/"'  # how a page links to the tab: class paths hold the name too


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def tables(page: str) -> str:
    """What the page says of servers, shuffles and failures. Settings and the frame around it are left out."""
    start, end = page.index('id="forebay-servers"'), page.index('id="forebay-settings"')
    return page[start:end]


def rows(page: str, table: str) -> list[list[str]]:
    """The cells' texts of one table of the page."""
    start = page.index(f'id="forebay-{table}"')
    body = page[page.index("<tbody>", start) : page.index("</tbody>", start)]
    return [
        [html.unescape(re.sub(r"<[^>]+>", " ", cell)).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)]
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.S)
    ]


def counted(folder, name: str) -> dict[str, int]:
    """The last value of one of our metrics in the files of Spark's CSV sink, by executor id or "driver"."""
    found = {}
    for path in folder.glob(f"*.forebay.{name}.csv"):
        lines = path.read_text().splitlines()
        found[path.name.split(".")[1]] = int(float(lines[-1].split(",")[1])) if len(lines) > 1 else 0
    return found


def executor_logs(app) -> str:
    return "\n".join(path.read_text(errors="replace") for path in app.home.glob("work/*/*/stderr"))


@pytest.fixture(scope="module")
def sink(run, line):
    return run.folder("sink", line.version)


@pytest.fixture(scope="module")
def app(run, line, servers, sink):
    csv = "spark.metrics.conf.*.sink.csv"
    conf = {
        **SHARED,
        "spark.ui.enabled": "true",
        "spark.ui.port": "0",
        f"{csv}.class": "org.apache.spark.metrics.sink.CsvSink",
        f"{csv}.directory": str(sink),
        f"{csv}.period": "1",
        f"{csv}.unit": "seconds",
    }
    app = Application(run, line, f"ui-{line.version}", servers, conf)
    yield app
    app.stop()


@pytest.fixture(scope="module")
def shuffle(app) -> int:
    """The application's first shuffle. Before it there is nothing to show."""
    assert TAB not in get(f"{app.call('ui')}/environment/")
    (shuffle,) = app.call("run_maps", name="job", kind="aggregation", maps=MAPS)
    return shuffle


def page(app) -> str:
    app.call("settle")
    assert TAB in get(f"{app.call('ui')}/environment/"), "no tab"
    return get(f"{app.call('ui')}/forebay/")


def test_tab_comes_with_the_first_shuffle_and_shows_servers_and_shuffles(servers, app, shuffle):
    shown = page(app)
    assert [row[0].split()[0] for row in rows(shown, "servers")] == sorted(server.address for server in servers)
    assert sum(int(row[1]) for row in rows(shown, "servers")) == MAPS
    number, _, outputs, partitions, used, durability, *_ = rows(shown, "shuffles")[0]
    assert (number, outputs, partitions, used, durability) == (str(shuffle), f"{MAPS} / {MAPS}", "16", "2", "disk")
    assert 'id="forebay-failures"' not in shown
    assert "spark.forebay.durability" in shown
    assert re.search(r"spark.executor.memoryOverhead.{1,40}384 MiB beside the heap, of which \d+ cores may need \d+", shown, re.S)
    assert re.search(rf'<code id="forebay-app">{app.id}-[0-9a-f]+</code>', shown), "what the servers call it"


def test_sparks_sinks_get_counts_of_each_executor_and_of_the_whole_application(app, shuffle, sink):
    app.call("settle")
    ends = [end["Task Metrics"]["Shuffle Write Metrics"] for end in app.events.task_ends()]
    for name, field in (("write.bytes", "Shuffle Bytes Written"), ("write.records", "Shuffle Records Written")):
        total = sum(end[field] for end in ends)

        def is_there() -> bool:
            by_process = counted(sink, name)
            driver = by_process.pop("driver", None)
            return driver == total == sum(by_process.values()) and len(by_process) == 2

        wait_until(is_there, 30, f"{name} should be {total} in {counted(sink, name)}")
    assert counted(sink, "write.outputs")["driver"] == MAPS


def test_lost_disk_is_shown_with_its_reason_live_and_in_the_history_server(run, line, servers, app, shuffle):
    lost = int(next(row for row in rows(page(app), "servers") if row[0].startswith(servers[0].address))[1])
    servers[0].restart(empty=True)
    app.call("run_reduces", name="job")
    live = page(app)
    failures = rows(live, "failures")
    assert failures
    for failure in failures:
        assert failure[5].startswith(servers[0].address)
        assert failure[6].startswith("map output ") and "is not served at" in failure[6]
    assert rows(live, "shuffles")[0][2] == f"{MAPS + lost} / {MAPS}", "the lost outputs were written once more"
    broken = next(row for row in rows(live, "servers") if row[0].startswith(servers[0].address))
    assert int(broken[6]) == len(failures)
    said = rf"input of partitions \S+ \(attempt \d+\) of shuffle {shuffle}, app {app.id}-[0-9a-f]+: tries that failed at {servers[0].address}: "
    assert re.search(said, executor_logs(app))

    app.stop()
    history = HistoryServer(run, line, app.events.folder)
    try:
        wait_until(lambda: app.id in get(f"{history.url}/api/v1/applications"), 60, "the history server does not know the application")
        assert tables(get(f"{history.url}/history/{app.id}/forebay/")) == tables(live)
    finally:
        history.stop()
