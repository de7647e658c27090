"""Strikes a command that writes files: kills at random moments, disks that fill, many processes at once."""

from __future__ import annotations

import re
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.forks import Ended, Kill, exit_code, run, start
from ltpost import FeatureSet, LinearHead, load

SIGNALS = {
    "SIGKILL": (signal.SIGKILL, 1),
    "SIGTERM": (signal.SIGTERM, 1),
    "SIGHUP": (signal.SIGHUP, 1),
    "SIGINT twice": (signal.SIGINT, 2),
}
TEMPORARY = re.compile(r".+\.\d+-[0-9a-f]{8}\.partial|partial-\d+-[0-9a-f]{8}-.+")
RESUMABLE = re.compile(r".+\.h5\.partial|\d+-of-\d+\.h5")  # rows of an extraction, and the shards of its ranks
LOCK = re.compile(r".+\.h5\.lock")
STEPS = 16  # sizes of a full disk per command


@dataclass(frozen=True)
class Scenario:
    """A command, the files that it writes, and what it may leave behind when it is killed.

    Attributes:
        name: what it does.
        words: of the command, run in the scenario's folder.
        outputs: the files.
        resumes: it keeps what it has done, and goes on from there.
        locks: it refuses to run while another process writes the same file.
        ranks: how many processes work on it together.
        parts: it keeps what is finished: a table of which lines are missing at the end, where none was there before.
    """

    name: str
    words: Sequence[str]
    outputs: Sequence[str]
    resumes: bool = False
    locks: bool = False
    ranks: int = 1
    parts: bool = False


@dataclass
class Tally:
    """What was tried, and what went wrong."""

    tried: int = 0
    struck: int = 0  # of those that were killed or had no room, not finished before
    faults: list[str] = field(default_factory=list)

    def blame(self, fault: str) -> None:
        """Note a fault, and say it at once: a run that is stopped keeps what it has seen."""
        self.faults.append(fault)
        tell(f"fault: {fault}")


def tell(what: str) -> None:
    """A line on stderr."""
    sys.stderr.write(f"{what}\n")
    sys.stderr.flush()


def content(path: Path) -> Any:
    """What matters of a file: all bytes, or of a feature file all values but the time when it was made."""
    if path.suffix != ".h5":
        return path.read_bytes()
    load(path)
    values: dict[str, Any] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: values.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
        )
        values.update({name: str(value) for name, value in file.attrs.items() if name != "created"})
    values.pop("class_names", None)  # pointers
    values.pop("paths", None)
    return values


def whole(path: Path, known: Sequence[Any]) -> bool:
    """Whether a file is one of those that it may be."""
    try:
        return content(path) in known
    except Exception:
        return False


def is_a_part(path: Path, right: Any) -> bool:
    """Whether a table has some of the lines that it should have, each whole."""
    lines = path.read_bytes().splitlines(keepends=True)
    return path.suffix == ".csv" and len(lines) > 1 and set(lines) < set(right.splitlines(keepends=True))


def strays(made: Prepared) -> tuple[list[str], list[str]]:
    """Files that were not there before, in two lists: explained by a kill, and not explained."""
    scenario = made.scenario
    new = sorted(inventory(made.folder) - made.before - set(scenario.outputs))
    new = [name for name in new if not (name.endswith(".safetensors") and _is_earlier(made, name))]
    explained = [
        name for name in new
        if TEMPORARY.fullmatch(Path(name).name)
        or (scenario.resumes and RESUMABLE.fullmatch(Path(name).name))
        or (scenario.locks and LOCK.fullmatch(Path(name).name))
    ]  # fmt: skip
    return explained, [name for name in new if name not in explained]


def _is_earlier(made: Prepared, name: str) -> bool:
    """Whether it is an earlier head, which a command has kept under a second name as it had other settings."""
    return (made.folder / name).read_bytes() in made.earlier.values()


def inventory(folder: Path) -> set[str]:
    """All files, by their names below the folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Prepared:
    """A scenario in its folder: the earlier outputs, the right ones, and how long it takes."""

    scenario: Scenario
    source: Path
    folder: Path
    before: set[str]
    earlier: dict[str, bytes]
    allowed: dict[str, list[Any]]
    right: dict[str, Any]
    seconds: float

    def run(self, kill: Kill | None = None, room: int | None = None) -> Ended:
        """Run the command in its folder."""
        return run(self.scenario.words, self.folder, ranks=self.scenario.ranks, kill=kill, room=room)

    def reset(self, *, keep_outputs: bool = False) -> None:
        """Only the inputs and, for half of the runs, the earlier outputs."""
        for name in inventory(self.folder) - self.before:
            (self.folder / name).unlink()
        for name in self.before - inventory(self.folder):  # a merge removes the shards
            (self.folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(self.source / name, self.folder / name)
        if keep_outputs:
            for name, raw in self.earlier.items():
                (self.folder / name).write_bytes(raw)


def prepare(scenario: Scenario, source: Path, home: Path) -> Prepared:
    """Copy the inputs, run once for the right outputs, and make earlier ones."""
    folder = home / re.sub(r"\W+", "-", scenario.name)
    shutil.copytree(source, folder)
    before = inventory(folder)
    seconds = []
    for _ in range(2):
        made = Prepared(scenario, source, folder, before, {}, {}, {}, 0.0)
        made.reset()
        ended = made.run()
        if ended.code:
            raise RuntimeError(f"{scenario.name}: {ended.said}")
        seconds.append(ended.seconds)
    right = {name: content(folder / name) for name in scenario.outputs}
    earlier = {}
    for name in scenario.outputs:
        path = folder / name
        if path.suffix == ".h5":
            FeatureSet(np.ones((3, 2), np.float32), np.arange(3), split="earlier").save(path)
        elif path.suffix == ".safetensors":
            LinearHead(np.ones((2, 3))).save(path)
        else:
            path.write_bytes(b"earlier")
        earlier[name] = path.read_bytes()
    allowed = {name: [content(folder / name), right[name]] for name in scenario.outputs}
    return Prepared(scenario, source, folder, before, earlier, allowed, right, min(seconds))


def judge(made: Prepared, ended: Ended, what: str, tally: Tally, *, had_earlier: bool, killed: bool) -> None:
    """Note each fault of a run that was struck."""
    for name in made.scenario.outputs:
        path = made.folder / name
        if not path.exists():
            if had_earlier:
                tally.blame(f"{what}: {name} is lost")
        elif not whole(path, made.allowed[name]) and not (
            made.scenario.parts and not had_earlier and ended.code and is_a_part(path, made.right[name])
        ):
            tally.blame(f"{what}: {name} is neither the earlier nor the new one")
    explained, unexplained = strays(made)
    if unexplained or (explained and not killed and not made.scenario.resumes):
        tally.blame(f"{what}: left {unexplained or explained}")
    if "Traceback" in ended.said or "Exception ignored" in ended.said:
        tally.blame(f"{what}: traceback\n{ended.said}")


def finish(made: Prepared, what: str, tally: Tally) -> None:
    """The same command again must end well, give the right files, and clear up."""
    again = made.run()
    if again.code:
        tally.blame(f"{what}: does not run again: {again.said.strip()[-300:]}")
        return
    for name in made.scenario.outputs:
        if not whole(made.folder / name, [made.right[name]]):
            tally.blame(f"{what}: then {name} is wrong")
    explained, unexplained = strays(made)
    if explained or unexplained:
        tally.blame(f"{what}: then {explained + unexplained} are left")


def kills(made: Prepared, number: int, rng: np.random.Generator) -> dict[str, Tally]:
    """Signals at random moments of the command."""
    tallies = {name: Tally() for name in SIGNALS}
    for index in range(number):
        name = [*SIGNALS][index % len(SIGNALS)]
        which, times = SIGNALS[name]
        delay = float(rng.uniform(0.02, 1.05)) * made.seconds
        had_earlier = bool(rng.integers(2))
        made.reset(keep_outputs=had_earlier)
        ended = made.run(Kill(which, times, delay, to_all=bool(index // len(SIGNALS) % 2)))
        what = f"{made.scenario.name}, {name} after {delay:.3f} s"
        tally = tallies[name]
        tally.tried += 1
        tally.struck += ended.code != 0
        if ended.code not in (0, -int(which), 128 + int(which)):
            tally.blame(f"{what}: exit code {ended.code}: {ended.said.strip()[-300:]}")
        judge(made, ended, what, tally, had_earlier=had_earlier, killed=which == signal.SIGKILL)
        finish(made, what, tally)
    return tallies


def full_disk(made: Prepared) -> Tally:
    """Every size of file at which writing may stop, from nothing to a little less than the largest output."""
    tally = Tally()
    made.reset()
    made.run()
    largest = max((made.folder / name).stat().st_size for name in made.scenario.outputs)
    steps = STEPS // 4 if made.scenario.resumes else STEPS
    for room in sorted({int(largest * k / steps) for k in range(steps)} | {1, 4096, largest - 1}):
        made.reset(keep_outputs=True)
        ended = made.run(room=room)
        what = f"{made.scenario.name}, {room} of {largest} bytes"
        tally.tried += 1
        tally.struck += ended.code != 0
        if ended.code not in (0, 1):
            tally.blame(f"{what}: exit code {ended.code}: {ended.said.strip()[-300:]}")
        if ended.code == 1 and "cannot be written" not in ended.said:
            tally.blame(f"{what}: does not say why: {ended.said.strip()[-300:]}")
        judge(made, ended, what, tally, had_earlier=True, killed=False)
        finish(made, what, tally)
    return tally


def at_once(made: Prepared, number: int) -> Tally:
    """Many processes that write the same files."""
    tally = Tally()
    made.reset(keep_outputs=True)
    logs, ranks = [made.folder.parent / f"said-{k}.txt" for k in range(number)], made.scenario.ranks
    processes = [
        start(made.scenario.words, made.folder, log, rank=k % ranks, ranks=ranks) for k, log in enumerate(logs)
    ]
    codes = [exit_code(process) for process in processes]
    for code, log in zip(codes, logs, strict=True):
        said = log.read_text(errors="replace")
        tally.tried += 1
        refused = made.scenario.locks and code == 1 and "is being written by" in said
        tally.struck += refused
        if (code and not refused) or "Traceback" in said:
            tally.blame(f"{made.scenario.name}, {number} at once: exit code {code}: {said.strip()[-300:]}")
    if 0 not in codes:
        tally.blame(f"{made.scenario.name}: none of {number} has finished")
    finish(made, f"{made.scenario.name}, {number} at once", tally)
    return tally
