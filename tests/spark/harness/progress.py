"""Says what is being done and for how long: a ticking line on a terminal, plain lines anywhere else."""

import sys
import threading
import time
from contextlib import contextmanager


class Progress:
    HEARTBEAT = 15.0  # seconds between signs of life where the line cannot be rewritten

    def __init__(self, out=sys.stdout):
        self.out = out
        self.live = out.isatty()
        self.began = time.monotonic()

    def _line(self, mark: str, text: str) -> str:
        return f"  {time.monotonic() - self.began:6.1f} s  {mark} {text}"

    def title(self, text: str):
        print(f"\n{text}", file=self.out, flush=True)

    @contextmanager
    def step(self, text: str):
        """The body may set `said` on what it gets, to be printed behind the text when it is done."""
        step = Step()
        done = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(text, done), daemon=True)
        ticker.start()
        try:
            yield step
        except BaseException:
            self._end(done, ticker, "✗", text)
            raise
        self._end(done, ticker, "✓", f"{text}{step.said and ': '}{step.said}")

    def _tick(self, text, done):
        started = time.monotonic()
        while not done.wait(0.2 if self.live else self.HEARTBEAT):
            line = self._line("…", f"{text} ({time.monotonic() - started:.0f} s)")
            print(f"\r\033[K{line}" if self.live else line, end="" if self.live else "\n", file=self.out, flush=True)

    def _end(self, done, ticker, mark, text):
        done.set()
        ticker.join()
        print(("\r\033[K" if self.live else "") + self._line(mark, text), file=self.out, flush=True)


class Step:
    said = ""
