"""Files that are either whole or not there: written beside their place, and moved there in one step.

The temporary file has a name of its own in every process, is locked while it is written, and is on the disk before it
gets its name. One that a killed process left behind is removed by the next process that writes the same file.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from ltpost.errors import DataError

fcntl: Any = None
with suppress(ImportError):  # not a POSIX system
    fcntl = import_module("fcntl")

_NAME = 40  # letters of the final name in the temporary one: both fit into the 255 bytes of a file system
_open_files: set[tuple[int, Path]] = set()  # the temporary ones, and the process that writes each
_KINDS = {stat.S_IFBLK: "a block device", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFIFO: "a pipe"}


@contextmanager
def replacing(
    path: str | os.PathLike[str], instead: str = "place", *, keep_ending: bool = False, called: Path | None = None
) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when the block ends well and is removed when it does not.

    A symlink is followed. Where ``path`` is a pipe or a device of characters, such as /dev/stdout or /dev/null, what
    was written is sent there.

    Args:
        path: the file to be.
        instead: what to choose another one of, where it cannot be written.
        keep_ending: the path to write to ends like ``path``, for writers that go by the ending.
        called: what messages call the file; default ``path``.

    Raises:
        DataError: the place cannot be written; what was there is untouched.
    """
    target = Path(path)
    try:
        mode = _mode_of(target)
        if mode is not None and (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
            import tempfile  # not at the top: every command would wait for it

            with tempfile.TemporaryDirectory(prefix="ltpost-") as folder:
                whole = Path(folder) / target.name
                yield whole
                _send(whole, target)
            return
        target = final_place(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        with _temporary(target, keep_ending) as (partial, descriptor):
            yield partial
            partial.chmod(_usual_mode(descriptor, target))
            _unlock(descriptor)  # HDF5 takes the lock for that of a writer
            settle(partial, target)
    except OSError as error:
        what = f"{called or target}: cannot be written ({error.strerror or error}); choose another {instead}"
        raise DataError(what) from None


def final_place(path: Path) -> Path:
    """The regular file that writing to ``path`` writes, symlinks followed, whether it is there already or not.

    Raises:
        DataError: there is something else: a folder, a device, a socket, a pipe.
    """
    mode = _mode_of(path)
    if mode is None or stat.S_ISREG(mode):
        return Path(os.path.realpath(path)) if path.is_symlink() else path
    if stat.S_ISDIR(mode):
        raise DataError(f"{path}: cannot be written, it is a folder; name a file")
    kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
    raise DataError(f"{path}: cannot be written, it is {kind}; name a regular file")


def settle(partial: Path, target: Path) -> None:
    """Put a complete file on the disk, and give it its name in one step."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)
    with suppress(OSError):  # a file system that cannot sync folders
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _mode_of(path: Path) -> int | None:
    """Type and permissions of what is at ``path``, symlinks followed; None where there is nothing."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


@contextmanager
def _temporary(target: Path, keep_ending: bool) -> Iterator[tuple[Path, int]]:
    """A new, empty, locked file beside ``target``, open, and removed at the end if it is still there."""
    partial, descriptor = target, None
    try:
        while descriptor is None:
            unique = f"{os.getpid()}-{secrets.token_hex(4)}"
            ends, plain = f"partial-{unique}-{target.name[-_NAME:]}", f"{target.name[:_NAME]}.{unique}.partial"
            partial = target.with_name(ends if keep_ending else plain)
            _open_files.add((os.getpid(), partial))  # known before it is there: a signal may come
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            if not (_lock(descriptor) and partial.exists()):  # another process took it for one that was left behind
                os.close(descriptor)
                descriptor = None
        yield partial, descriptor
    finally:
        if partial != target:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
                _open_files.discard((os.getpid(), partial))
        if descriptor is not None:
            os.close(descriptor)


def remove_temporary_files() -> None:
    """Remove what this process has begun to write and not finished, before it ends.

    A signal that comes between two steps of Python's ``with`` leaves the block without its end, and the file with it.
    """
    for process, partial in [*_open_files]:
        if process == os.getpid():
            with suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Let signals take effect after the block.

    For what must not be interrupted: taking a lock, or the import of protobuf, which crashes where a signal raises.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in came:
            signal.raise_signal(number)


def _usual_mode(descriptor: int, target: Path) -> int:
    """The permissions of the file that is there, else those of a new file."""
    with suppress(OSError):
        return stat.S_IMODE(target.stat().st_mode)
    return stat.S_IMODE(os.fstat(descriptor).st_mode)


def _lock(descriptor: int) -> bool:
    """Lock an open file for as long as it is open; False where another process has locked it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN)  # else: no locks on this file system
    return True


def _unlock(descriptor: int) -> None:
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _remove_stale(target: Path) -> None:
    """Remove temporary files of ``target`` whose process is gone: it was killed."""
    if fcntl is None:
        return
    unique = r"(\d+)-[0-9a-f]{8}"
    ours = re.compile(
        rf"{re.escape(target.name[:_NAME])}\.{unique}\.partial|partial-{unique}-{re.escape(target.name[-_NAME:])}"
    )
    for left in target.parent.iterdir():
        match = ours.fullmatch(left.name)
        if match is None or _is_running(int(match[1] or match[2])):
            continue
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)  # not that of a process on another machine
            left.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _send(whole: Path, target: Path) -> None:
    """Copy a file to a pipe or a device."""
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise DataError(f"{target}: cannot be written, it is a pipe that nothing reads; name a file") from None
        raise
    os.set_blocking(descriptor, True)
    with whole.open("rb") as source, os.fdopen(descriptor, "wb") as stream:
        while part := source.read(2**20):
            stream.write(part)
