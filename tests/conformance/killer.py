"""Kills executors of an application at random moments, one at a time, for as long as it is let."""

import os
import random
import signal
import threading

from harness.application import Application


class Killer:
    """Inside its `with`: SIGKILL for an executor after a random pause, as a spot VM would go; the next only when Spark has replaced it.
    (With both gone the run would stop, not limp, and Spark gives an application up whose executors all go again and again.)"""

    PAUSE = (5.0, 30.0)  # seconds: shorter ones leave no executor time to compile what it runs
    REPLACED = 120.0

    def __init__(self, app: Application, seed: int):
        self.app = app
        self.random = random.Random(seed)
        self.killed = 0
        self.failure = None
        self.executors = len(app.executor_pids())

    def __enter__(self):
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()

    def _run(self):
        try:
            while not self.stopping.wait(self.random.uniform(*self.PAUSE)):
                victim = self.random.choice(sorted(self.app.executor_pids().values()))
                os.kill(victim, signal.SIGKILL)
                self.killed += 1
                if not self._replaced(victim):
                    return
        except (OSError, IndexError) as failure:
            self.failure = repr(failure)

    def _replaced(self, victim: int) -> bool:
        waited = 0.0
        while True:
            alive = set(self.app.executor_pids().values()) - {victim}
            if len(alive) == self.executors and self.app.call("executors") >= self.executors:
                return True
            if self.stopping.wait(0.25):
                return False
            waited += 0.25
            if waited > self.REPLACED:
                self.failure = f"Spark did not replace an executor in {self.REPLACED:.0f} s"
                return False
