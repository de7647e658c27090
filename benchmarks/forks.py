"""Runs the ``ltpost`` command in forks of this process, which has all modules loaded, and strikes them with signals.

So a signal falls into the work of the command, not into the import of its modules.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ltpost.cli import main as ltpost_command

HANGS, HUNG = 180.0, 1000  # seconds without an end, and the code for it


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code (minus the signal that ended it, or ``HUNG``), and what it said."""

    code: int
    said: str
    seconds: float


@dataclass(frozen=True)
class Kill:
    """A signal, sent so many times after so many seconds, to all processes of the command or to the first alone."""

    number: int
    times: int
    delay: float
    to_all: bool = True


def start(words: Sequence[str], folder: Path, log: Path, room: int | None = None, rank: int = 0, ranks: int = 1) -> int:
    """Run the command in a fork of this process, as one of several ranks; its process number."""
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, caught)  # until the child has its own ways with them
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)
        return process
    code = 99
    try:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)
        os.chdir(folder)
        if ranks > 1:
            os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
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
    words: Sequence[str], folder: Path, *, ranks: int = 1, kill: Kill | None = None, room: int | None = None
) -> Ended:
    """Run to the end, or to a signal; of several ranks the first exit code that is not 0 counts."""
    logs = [folder.parent / f"said-{rank}.txt" for rank in range(ranks)]
    for log in logs:
        log.unlink(missing_ok=True)
    started = time.monotonic()
    processes = [start(words, folder, log, room, rank, ranks) for rank, log in enumerate(logs)]
    if kill is not None:
        time.sleep(kill.delay)
        for _ in range(kill.times):
            for process in processes if kill.to_all else processes[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, kill.number)
    codes = [exit_code(process) for process in processes]
    seconds = time.monotonic() - started
    if room is not None:
        time.sleep(0.02)  # for the one that takes down what is said
    said = "".join(log.read_text(errors="replace") for log in logs if log.exists())
    return Ended(next((code for code in codes if code), 0), said, seconds)


def exit_code(process: int) -> int:
    """Wait for the exit code of a process; one that does not end is killed."""
    limit = time.monotonic() + HANGS
    while time.monotonic() < limit:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return HUNG


def in_a_fork(work: Callable[[], None]) -> None:
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


def load_everything() -> None:
    """Import what the commands import, without computing anything."""
    for package in ("ltpost", "ltpost.extract"):
        for found in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if not found.name.endswith("__main__"):
                import_module(found.name)
    for name in ("torchvision", "timm", "sklearn.datasets", "tqdm"):
        with contextlib.suppress(ImportError):
            import_module(name)
