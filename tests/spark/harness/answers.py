"""Compares two answers to one query: the rows, in whatever order, exactly but for floats and doubles.

A sum of doubles depends on the order of its terms, and Spark reads the blocks of a shuffle in whatever order they arrive: its own
answers may differ from run to run in the last bits. So a float or double may differ by `TOLERANCE`, relative to the larger; how much
the worst one did is told. All other types are compared as they are.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

# The order of a million terms of one size moves their sum by some 1e-13; a row too many or too few among them, by 1e-6.
TOLERANCE = 1e-12


@dataclass
class Comparison:
    difference: str | None  # in words, None if the answers are the same
    inexact: int = 0  # doubles that were not equal to the last bit
    worst: float = 0.0  # the largest relative difference of those


def read(path: Path) -> list[list]:
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def compare(theirs: list[list], ours: list[list]) -> Comparison:
    if len(theirs) != len(ours):
        return Comparison(f"{len(theirs)} and {len(ours)} rows")
    inexact, worst = 0, 0.0
    for row, other in zip(sorted(theirs, key=_order), sorted(ours, key=_order), strict=True):
        if _exact(row) != _exact(other):
            return Comparison(f"{row} and {other}", inexact, worst)
        for a, b in zip(_floats(row), _floats(other), strict=True):
            distance = _distance(a, b)
            if distance > TOLERANCE:
                return Comparison(f"{row} and {other} ({a!r} is not {b!r})", inexact, worst)
            inexact += distance > 0
            worst = max(worst, distance)
    return Comparison(None, inexact, worst)


def _distance(a: float, b: float) -> float:
    """Relative to the larger; infinite where only one is a number or the signs differ."""
    if a == b or math.isnan(a) and math.isnan(b):
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return abs(a - b) / max(abs(a), abs(b))


def _order(row: list):
    """First by what is compared exactly, so that last bits do not decide which rows are held against each other."""
    return _exact(row), _floats(row)


def _exact(row: list) -> str:
    return json.dumps(["a float" if isinstance(value, float) else [value] for value in row])


def _floats(row: list) -> list[float]:
    return [value for value in row if isinstance(value, float)]
