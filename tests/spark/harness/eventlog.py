"""Reads Spark's event log: which map tasks ran, and which of them ran again."""

import json
from collections import Counter
from pathlib import Path


class EventLog:
    """The log of one application, read afresh on each question (it grows while the application runs)."""

    def __init__(self, folder: Path):
        self.folder = folder

    def events(self):
        for path in sorted(self.folder.iterdir()):
            with open(path, encoding="utf-8") as lines:
                for line in lines:
                    if line.endswith("\n"):  # the last line may still be on its way
                        yield json.loads(line)

    def map_successes(self) -> Counter:
        """How often each map task of each shuffle ended well, by (RDD that the shuffle wrote, map index).

        A stage that runs again in a later job has another stage id but writes the same RDD, so the RDD is what names the
        shuffle. A task's place in its task set says nothing either: a second run's set holds the missing maps only.
        """
        rdd_of_stage, counts = {}, Counter()
        for event in self.events():
            match event["Event"]:
                case "SparkListenerStageSubmitted":
                    stage = event["Stage Info"]
                    rdd_of_stage[stage["Stage ID"]] = stage["RDD Info"][0]["RDD ID"]
                case "SparkListenerTaskEnd":
                    ended_well = event["Task End Reason"]["Reason"] == "Success"
                    if event["Task Type"] == "ShuffleMapTask" and ended_well:
                        counts[rdd_of_stage[event["Stage ID"]], event["Task Info"]["Partition ID"]] += 1
        return counts

    def maps_rerun(self) -> Counter:
        """Runs beyond the first, by (RDD, map index)."""
        return Counter({task: count - 1 for task, count in self.map_successes().items() if count > 1})

    def executors_removed(self) -> list[str]:
        return [e["Executor ID"] for e in self.events() if e["Event"] == "SparkListenerExecutorRemoved"]

    def task_ends(self) -> list[dict]:
        return [e for e in self.events() if e["Event"] == "SparkListenerTaskEnd"]

    def task_failures(self) -> list[str]:
        """The reasons of all attempts that did not end well, in Spark's words: FetchFailed, ExceptionFailure, TaskKilled…"""
        reasons = [end["Task End Reason"]["Reason"] for end in self.task_ends()]
        return [reason for reason in reasons if reason != "Success"]
