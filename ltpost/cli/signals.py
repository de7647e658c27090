"""Ctrl-C, and the signals that schedulers and closing terminals send: one sentence, an exit code, no traceback.

The first signal raises KeyboardInterrupt, so that temporary files are removed and finished rows kept. A second one soon
after it changes nothing, as that takes a moment. A later one ends the process at once.

A signal that comes while Python's own code takes or gives back a lock, or enters a block, waits a little: raised there,
it can leave the lock held for ever, or the block without its end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from ltpost.output import remove_temporary_files

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_MOMENT = 1.0  # seconds
_first: tuple[int, float] | None = None  # the signal, and when it came
_process = 0  # that takes signals
#: files of Python's library that take and give back locks or enter blocks; named, as importing them takes a moment
_LOCKS = {
    str(Path(threading.__file__).parent / name)
    for name in (
        "contextlib.py",
        "threading.py",
        "queue.py",
        "concurrent/futures/thread.py",
        "concurrent/futures/_base.py",
    )
}
_TRIES = 20  # a thread that sleeps in such code is woken after so many hundredths of a second


def catch() -> None:
    """Take the signals from now on, but those that whoever started the process wants ignored (nohup)."""
    global _process
    if threading.current_thread() is not threading.main_thread():
        return
    _process = os.getpid()
    sys.unraisablehook = _raise_later
    for name in SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _stop)


def _raise_later(lost: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised while it frees an object; raise KeyboardInterrupt again a moment later.

    Other errors after the signal are those of objects that it left half-made, and say nothing to a reader.
    """
    if _first is None:
        sys.__unraisablehook__(lost)
    if _first is None or not isinstance(lost.exc_value, KeyboardInterrupt) or not hasattr(signal, "setitimer"):
        return
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def say() -> int:
    """Remove temporary files, and say which signal stopped the process; the exit code for it."""
    remove_temporary_files()
    number = signal.SIGINT if _first is None else _first[0]
    with suppress(OSError, ValueError):  # nobody listens any more
        sys.stderr.write(f"Stopped by {signal.Signals(number).name}; no file is half-written.\n")
        sys.stderr.flush()
    return 128 + number


def _stop(number: int, frame: FrameType | None, tries: int = _TRIES) -> None:
    global _first
    if os.getpid() != _process:  # a worker, which its parent ends
        raise SystemExit(128 + number)
    if _first is None:
        if tries and frame is not None and frame.f_code.co_filename in _LOCKS and hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda _, frame: _stop(number, frame, tries - 1))
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            return
        _first = (number, time.monotonic())
        raise KeyboardInterrupt
    if time.monotonic() - _first[1] > _MOMENT:
        os._exit(say())
