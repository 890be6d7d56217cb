"""A job of two stages to which something happens while its maps run, held against the same job on Spark's own shuffle."""

from collections import Counter

from harness.run import wait_until
from kube.spark import Outside

MAPS = 40
JOB = {"kind": "count", "maps": MAPS, "reduces": 8, "records": 2_000_000}


class Underway:
    """Starts it, and returns when some maps are done and some are not."""

    def __init__(self, app: Outside):
        self.app = app
        self.before = app.maps_rerun()
        self.failed = len(app.events.task_failures())
        self.known = app.call("shuffles")
        self.maps = app.start_call("run_maps", name="underway", **JOB)
        wait_until(lambda: self.done() >= 4, 300, "no map of the job ends")
        assert self.done() < MAPS, "the maps were done before anything could happen to them"

    def done(self) -> int:
        new = [shuffle for shuffle in self.app.call("shuffles") if shuffle not in self.known]
        return sum(where != "-" for where in self.app.call("map_locations", shuffles=new).values())

    def maps_done(self):
        if self.maps:
            self.maps.result(900)
        self.maps = None

    def finish(self, own_answer) -> Counter:
        """The rest of it, with Spark's own answer; returns the maps that ran more than once, of which there should be none."""
        self.maps_done()
        answer = self.app.call("run_reduces", timeout=900, name="underway")
        own_answer("run_maps", name="underway", **JOB)
        assert answer == own_answer("run_reduces", name="underway")
        return self.app.maps_rerun() - self.before

    def failures(self) -> list[str]:
        """Of tasks, since it began."""
        return self.app.events.task_failures()[self.failed :]
