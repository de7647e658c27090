"""Measuring: interleaved repeats, medians, and the machine's own ceilings in the same run."""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path


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
    """Median seconds of each function: one warm-up of all, then A B C A B C …, so that drift hits all alike.

    A function that takes less than 50 ms is called so often in a row that it takes that. A short rest comes before
    each: OpenBLAS keeps its threads busy for some 30 ms after a product, at the cost of what is measured next.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    times = {name: max(1, round(0.05 / _seconds(function, 1))) for name, function in functions.items()}
    for _ in range(repeats):
        for name, function in functions.items():
            time.sleep(0.05)
            seconds[name].append(_seconds(function, times[name]))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _seconds(function: Callable[[], object], times: int) -> float:
    """Of one call, out of several in a row."""
    start = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - start) / times


def peak_memory(function: Callable[[], object]) -> int:
    """Bytes that this process grows by, at most, while ``function`` runs; numpy's, torch's and Python's alike (Linux).

    Run it once before: code that is loaded, and what libraries set up for good, would count too. glibc may hold two to
    three times what is in use; :func:`plain_memory` makes processes in which it does not.
    """
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is no longer there to be used again
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident size is now the present one
    before = _resident()["VmRSS"]
    function()
    return _resident()["VmHWM"] - before


@contextmanager
def plain_memory() -> Iterator[ProcessPoolExecutor]:
    """One new process, in which everything from 1 MiB on is given back as soon as it is freed."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            yield pool
    finally:
        os.environ.pop("MALLOC_MMAP_THRESHOLD_", None)


def _resident() -> dict[str, int]:
    """Bytes, by their names in /proc/self/status."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if words[-1] == "kB"}


def resident_of_no_file() -> int:
    """Bytes of this process in memory that are no file's."""
    return _resident()["RssAnon"]


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
    """A whole process as something to time; its output is thrown away, a failure is raised.

    It may keep compiled modules, as an installed package has them.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return lambda: subprocess.run(  # type: ignore[call-overload]
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, **options
    )
