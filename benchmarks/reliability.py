"""Torture: kills at random moments, disks that fill, many processes at once. Writes ``benchmarks/RELIABILITY.md``.

    make torture                               everything; minutes
    python -m benchmarks.reliability --kills 20 --no-write

Every run is a fork of this process, which has all modules loaded, and calls the ``ltpost`` command as a user does. So a
kill falls into the work of the command, not into the import of its modules.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import pkgutil
import platform
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ltpost import FeatureSet, LinearHead, load
from ltpost.cli import main as ltpost_command

RESULTS = Path(__file__).parent / "RELIABILITY.md"
SIGNALS = {
    "SIGKILL": (signal.SIGKILL, 1),
    "SIGTERM": (signal.SIGTERM, 1),
    "SIGHUP": (signal.SIGHUP, 1),
    "SIGINT twice": (signal.SIGINT, 2),
}
TEMPORARY = re.compile(r".+\.\d+-[0-9a-f]{8}\.partial|partial-\d+-[0-9a-f]{8}-.+")
RESUMABLE, LOCK = re.compile(r".+\.h5\.partial"), re.compile(r".+\.h5\.lock")
STEPS = 16  # sizes of a full disk per command
AT_ONCE = 50
RESUMING = 0.1  # share of the kills that an extraction gets, which takes the longest


@dataclass(frozen=True)
class Scenario:
    """A command, the files that it writes, and what it may leave behind when it is killed.

    Attributes:
        name: what it does.
        words: of the command, run in the scenario's folder.
        outputs: the files.
        resumes: it keeps what it has done, and goes on from there.
        locks: it refuses to run while another process writes the same file.
    """

    name: str
    words: Sequence[str]
    outputs: Sequence[str]
    resumes: bool = False
    locks: bool = False


@dataclass
class Tally:
    """What was tried, and what went wrong."""

    tried: int = 0
    struck: int = 0  # of those that were killed or had no room, not finished before
    faults: list[str] = field(default_factory=list)

    def blame(self, fault: str) -> None:
        """Note a fault, and say it at once: a run that is stopped keeps what it has seen."""
        self.faults.append(fault)
        _tell(f"fault: {fault}")


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code (minus the signal that ended it), and what it said."""

    code: int
    said: str
    seconds: float


def start(words: Sequence[str], folder: Path, log: Path, room: int | None = None) -> int:
    """Run the command in a fork of this process; its process number."""
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(folder)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if room is not None:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.ftruncate(out, 0)
            reader, writer = os.pipe()  # what is said must not count as a file
            os.set_inheritable(writer, True)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            if os.fork() == 0:  # a small process that takes it down
                os.close(writer)
                os.close(1)
                os.close(2)
                while piece := os.read(reader, 65536):
                    os.write(out, piece)
                os._exit(0)
            os.close(reader)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        try:
            ltpost_command(words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        os.write(2, f"Traceback of the child: {error!r}\n".encode())
    finally:
        os._exit(code)


def run(
    words: Sequence[str], folder: Path, *, kill: tuple[int, int, float] | None = None, room: int | None = None
) -> Ended:
    """Run to the end, or to a signal, so many times, after so many seconds."""
    log = folder.parent / "said.txt"
    log.unlink(missing_ok=True)
    started = time.monotonic()
    process = start(words, folder, log, room)
    if kill is not None:
        number, times, delay = kill
        time.sleep(delay)
        for _ in range(times):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
    _, status = os.waitpid(process, 0)
    seconds = time.monotonic() - started
    if room is not None:
        time.sleep(0.02)  # for the one that takes down what is said
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace") if log.exists() else "", seconds)


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


def strays(folder: Path, scenario: Scenario, before: set[str]) -> tuple[list[str], list[str]]:
    """Files that were not there before, in two lists: explained by a kill, and not explained."""
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    new = sorted(there - before - set(scenario.outputs))
    explained = [
        name for name in new
        if TEMPORARY.fullmatch(Path(name).name)
        or (scenario.resumes and RESUMABLE.fullmatch(Path(name).name))
        or (scenario.locks and LOCK.fullmatch(Path(name).name))
    ]  # fmt: skip
    return explained, [name for name in new if name not in explained]


def inventory(folder: Path) -> set[str]:
    """All files, by their names below the folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Prepared:
    """A scenario in its folder: the earlier outputs, the right ones, and how long it takes."""

    scenario: Scenario
    folder: Path
    before: set[str]
    earlier: dict[str, bytes]
    allowed: dict[str, list[Any]]
    right: dict[str, Any]
    seconds: float

    def reset(self, *, keep_outputs: bool = False) -> None:
        """Only the inputs and, for half of the runs, the earlier outputs."""
        for name in inventory(self.folder) - self.before:
            (self.folder / name).unlink()
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
        ended = run(scenario.words, folder)
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
    return Prepared(scenario, folder, before, earlier, allowed, right, min(seconds))


def judge(made: Prepared, ended: Ended, what: str, tally: Tally, *, had_earlier: bool, killed: bool) -> None:
    """Note each fault of a run that was struck."""
    for name in made.scenario.outputs:
        path = made.folder / name
        if not path.exists():
            if had_earlier:
                tally.blame(f"{what}: {name} is lost")
        elif not whole(path, made.allowed[name]):
            tally.blame(f"{what}: {name} is neither the earlier nor the new one")
    explained, unexplained = strays(made.folder, made.scenario, made.before)
    if unexplained or (explained and not killed and not made.scenario.resumes):
        tally.blame(f"{what}: left {unexplained or explained}")
    if "Traceback" in ended.said or "Exception ignored" in ended.said:
        tally.blame(f"{what}: traceback\n{ended.said}")


def finish(made: Prepared, what: str, tally: Tally) -> None:
    """The same command again must end well, give the right files, and clear up."""
    again = run(made.scenario.words, made.folder)
    if again.code:
        tally.blame(f"{what}: does not run again: {again.said.strip()[-300:]}")
        return
    for name in made.scenario.outputs:
        if not whole(made.folder / name, [made.right[name]]):
            tally.blame(f"{what}: then {name} is wrong")
    explained, unexplained = strays(made.folder, made.scenario, made.before)
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
        ended = run(made.scenario.words, made.folder, kill=(which, times, delay))
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
    run(made.scenario.words, made.folder)
    largest = max((made.folder / name).stat().st_size for name in made.scenario.outputs)
    steps = STEPS // 4 if made.scenario.resumes else STEPS
    for room in sorted({int(largest * k / steps) for k in range(steps)} | {1, 4096, largest - 1}):
        made.reset(keep_outputs=True)
        ended = run(made.scenario.words, made.folder, room=room)
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
    logs = [made.folder.parent / f"said-{k}.txt" for k in range(number)]
    processes = [start(made.scenario.words, made.folder, log) for log in logs]
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
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


def inputs(folder: Path) -> None:
    """A network, images, features and a head, small enough that a command takes a moment."""
    from ltpost import demo

    folder.mkdir(parents=True)
    here = Path.cwd()
    os.chdir(folder)
    try:
        ltpost_command(["demo"])
    except SystemExit as error:
        if error.code:
            raise RuntimeError("the demo has failed") from None
    finally:
        os.chdir(here)
    assert demo.digits_cnn
    made = folder / "ltpost-demo"
    for name in ("features", "heads", "digits_cnn.pth", "digits.npz"):
        (made / name).rename(folder / name)
    shutil.rmtree(made)
    with np.load(folder / "digits.npz") as digits:
        fewer = {key: digits[key][:: 10 if "test" in key else 1] for key in digits}
    np.savez(folder / "digits.npz", **fewer)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 50, 20_000)
    np.savez(folder / "large.npz", features=rng.normal(size=(20_000, 128)).astype(np.float32), labels=labels)


def scenarios() -> list[Scenario]:
    """The commands that write files."""
    network = ["--ckpt", "digits_cnn.pth", "--arch", "ltpost.demo:digits_cnn", "--data", "digits.npz"]
    return [
        Scenario(
            "tnorm: head and CSV", ["tnorm", "--out", "out.safetensors", "--csv", "out.csv"],
            ["out.safetensors", "out.csv"],
        ),
        Scenario(
            "compare: heads and CSV",
            ["compare", "--methods", "tnorm,la,mla,ncm", "--heads", "made", "--csv", "out.csv"],
            ["out.csv", *(f"made/{key}.safetensors" for key in ("tnorm", "la", "mla", "ncm"))],
        ),
        Scenario("convert: a feature file", ["convert", "large.npz", "out.h5"], ["out.h5"], locks=True),
        Scenario(
            "export: a checkpoint",
            ["export", "--head", "heads/mla.safetensors", "--ckpt", "digits_cnn.pth", "--out", "out.pth"],
            ["out.pth"],
        ),
        Scenario(
            "extract: a feature file",
            ["extract", *network, "--split", "test", "--out", "made", "--workers", "0", "--batch-size", "8"],
            ["made/test.h5"],
            resumes=True,
            locks=True,
        ),
    ]  # fmt: skip


def table(title: str, rows: Sequence[tuple[str, str, Tally]]) -> str:
    """Markdown: what was done, to which command, how often it struck, and how many faults there were."""
    lines = [f"## {title}", "", "| command | what | runs | struck | faults |", "| --- | --- | ---: | ---: | ---: |"]
    for name, what, tally in rows:
        lines.append(f"| {name} | {what} | {tally.tried} | {tally.struck} | {len(tally.faults)} |")
    total = (sum(getattr(tally, key) for _, _, tally in rows) for key in ("tried", "struck"))
    faults = sum(len(tally.faults) for _, _, tally in rows)
    lines.append("| **all** | | {} | {} | {} |".format(*total, faults))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run everything, print the tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="commands whose name begins so")
    parser.add_argument("--no-write", action="store_true", help="print only, leave RELIABILITY.md alone")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    chosen = [scenario for scenario in scenarios() if scenario.name.startswith(args.only or "")]
    struck: list[tuple[str, str, Tally]] = []
    filled: list[tuple[str, str, Tally]] = []
    together: list[tuple[str, str, Tally]] = []
    with tempfile.TemporaryDirectory(prefix="ltpost-torture-") as home:
        _tell("inputs")
        source = Path(home) / "inputs"
        _in_a_fork(lambda: inputs(source))
        _load_everything()
        for scenario in chosen:
            made = prepare(scenario, source, Path(home))
            _tell(f"{scenario.name}: takes {made.seconds:.2f} s")
            share = RESUMING if scenario.resumes else (1 - RESUMING) / max(1, len(chosen) - 1)
            tallies = kills(made, max(len(SIGNALS), round(args.kills * share)), rng)
            struck += [(scenario.name, name, tally) for name, tally in tallies.items()]
            filled.append((scenario.name, "files of limited size", full_disk(made)))
            number = min(args.at_once, 8) if scenario.resumes else args.at_once
            together.append((scenario.name, f"{number} processes", at_once(made, number)))
            parts = [("Kills", struck), ("Disk full", filled), ("At once", together)]
            text = "\n".join(table(title, rows) for title, rows in parts)
            faults = [fault for _, rows in parts for _, _, tally in rows for fault in tally.faults]
            if faults:
                text += "\n## Faults\n" + "".join(f"\n```\n{fault}\n```\n" for fault in faults)
            if not args.no_write:
                RESULTS.write_text(_with_head(text))
    sys.stdout.write(text)
    sys.exit(bool(faults))


def _with_head(text: str) -> str:
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return (
        "# Reliability\n\n"
        f"Made by `make torture` on {datetime.date.today()} ({machine}). *Struck* are the runs that a signal or a full "
        "disk ended,\nor that a lock refused. A fault is a wrong row, a lost or half-written file, a traceback, "
        "another exit code, a file\nthat is left and not explained, or a command that does not run to the right files "
        "afterwards. Explained are, after\nSIGKILL, one temporary file per output and a lock, which the next run "
        f"removes, and the unfinished rows of an extraction,\nwhich the next run goes on from.\n\n{text}"
    )


def _in_a_fork(work: Callable[[], None]) -> None:
    """Torch starts threads when it computes, and a process with threads must not fork."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
            work()
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(process, 0)[1]:
        raise RuntimeError("the inputs could not be made")


def _load_everything() -> None:
    """Import what the commands import, without computing anything."""
    for package in ("ltpost", "ltpost.extract"):
        for found in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if not found.name.endswith("__main__"):
                import_module(found.name)
    for name in ("torchvision", "timm", "sklearn.datasets", "tqdm"):
        with contextlib.suppress(ImportError):
            import_module(name)


def _tell(what: str) -> None:
    sys.stderr.write(f"{what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
