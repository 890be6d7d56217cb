"""A job of two stages with something in between, held against the same job on Spark's own shuffle."""

from harness.application import Application

KINDS = ["aggregation", "count"]
MAPS = 40


class Job:
    """Two stages of one kind, and what it cost."""

    def __init__(self, app: Application, own_answer, kind: str):
        self.app, self.own_answer, self.kind = app, own_answer, kind
        self.before = app.maps_rerun()

    def maps(self):
        self.shuffles = self.app.call("run_maps", name=self.kind, kind=self.kind, maps=MAPS)

    def finish(self) -> set[int]:
        """The rest of the job, and Spark's own answer; returns the maps that had to run again for it, each once."""
        failed = len(self.app.events.task_failures())
        answer = self.app.call("run_reduces", name=self.kind)
        self.own_answer("run_maps", name=self.kind, kind=self.kind, maps=MAPS)
        assert answer == self.own_answer("run_reduces", name=self.kind)
        ran = self.app.maps_rerun() - self.before
        assert set(ran.values()) <= {1}, f"maps ran more than once again: {ran}"
        assert set(self.app.events.task_failures()[failed:]) == ({"FetchFailed"} if ran else set())
        return {number for _, number in ran}

    def locations(self) -> dict[int, str]:
        """What Spark was told of each map."""
        where = self.app.call("map_locations", shuffles=self.shuffles)
        return {int(output.split("/")[1]): location for output, location in where.items()}

    def maps_on(self, server) -> set[int]:
        """Those of which a volume of the server has a copy."""
        volumes = [plain(volume) for volume in server.volumes]
        return {number for number, location in self.locations().items() if any(volume in plain(location) for volume in volumes)}


def plain(uuid: str) -> str:
    return uuid.replace("-", "").lower()
