"""Lets only one process write an output. A lock file beside the output names the process that holds it.

A POSIX record lock ends with its process, whatever ends that, and workers do not inherit it. On a file system without
locks there is neither protection nor an error.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ltpost.errors import DataError
from ltpost.output import signals_held_back

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]


class HeldError(DataError):
    """Another process is writing this output."""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of ``path`` inside the block.

    Raises:
        HeldError: another process holds it; the message names it.
    """
    if fcntl is None:
        yield
        return
    lock = path.with_name(f"{path.name}.lock")
    file = None
    try:
        with signals_held_back():  # a signal would leave the lock file behind
            file = _opened(lock, path)
        yield
    finally:
        if file is not None:
            lock.unlink(missing_ok=True)
            os.close(file)


def _opened(lock: Path, path: Path) -> int:
    """The lock file, locked."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _locked(lock, path)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: cannot be written ({reason}); choose another place with out=") from None


def _locked(lock: Path, path: Path) -> int:
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return file  # no locks on this file system
            holder = _holder(file)
            os.close(file)
            raise HeldError(f"{path}: is being written by {holder}; wait until it has finished, or stop it") from None
        if lock.exists() and os.fstat(file).st_ino == lock.stat().st_ino:
            break
        os.close(file)  # its last holder has just removed it
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    with contextlib.suppress(OSError):  # the disk is full: the lock is held all the same
        os.ftruncate(file, 0)
        os.write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}).encode())
    return file


def _holder(file: int) -> str:
    try:
        holder = json.loads(os.pread(file, 1000, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, OSError):
        return "another process"
