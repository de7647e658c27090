"""Measuring: interleaved repeats, medians, and the machine's own ceilings in the same run."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of RESULTS.md. ``goal`` is text such as "<= 4"; it is met where ``met(value)``."""

    name: str
    value: float
    unit: str
    goal: str = ""

    @property
    def verdict(self) -> str:
        """Yes, no, or nothing where there is no goal."""
        if not self.goal:
            return ""
        sign, bound = self.goal.split()
        return "yes" if (self.value <= float(bound) if sign == "<=" else self.value >= float(bound)) else "NO"


def medians(functions: Mapping[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """Median seconds of each function: one warm-up of all, then A B C A B C …, so that drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


@contextmanager
def cores(number: int) -> Iterator[None]:
    """Only so many cores for this process and its threads."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def process(command: Sequence[str], **options: object) -> Callable[[], object]:
    """A whole process as something to time; its output is thrown away, a failure is raised."""
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]
