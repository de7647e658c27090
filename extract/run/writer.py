"""Writes rows to a feature file, in any order, in a thread of its own. Rows on disk survive a kill.

The file is created at its full size under its partial name. ``done`` (N,) uint8 marks the rows that are on disk. Their
data are flushed before they are marked, so a later run of the same extraction goes on from them. ``finish`` drops
``done`` and gives the file its name.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ltpost.data.write import finish_file, partial_name
from ltpost.errors import DataError
from ltpost.extract.run.partial import DONE, IMAGES_STATE, UNREADABLE, done_of

_FLUSH_SECONDS = 1.0
_AHEAD = 8  # blocks of rows that wait to be written


class FeatureWriter:
    """Fills the partial file of ``path``.

    Args:
        path: the final name; ``prepare`` has made the partial file.

    Raises:
        DataError: a row could not be stored; a later ``write`` or ``finish`` raises it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.file = h5py.File(partial_name(path), "r+", locking=False)  # ``held`` is the lock
        # Queues in C: Ctrl-C inside of a queue.Queue can leave its lock held, or its reader asleep for ever
        self._queue: queue.SimpleQueue[tuple[int, dict[str, NDArray[Any]], NDArray[np.uint8]] | None]
        self._queue, self._room = queue.SimpleQueue(), queue.SimpleQueue[None]()
        for _ in range(_AHEAD):
            self._room.put(None)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ltpost-writer", daemon=True)
        self._thread.start()

    def write(self, start: int, rows: dict[str, NDArray[Any]], done: NDArray[np.uint8]) -> None:
        """Store rows ``start…`` of each dataset; ``done`` is DONE or UNREADABLE for each."""
        self._raise()
        self._room.get()
        self._queue.put((start, rows, done))

    def wait(self) -> None:
        """Wait until all rows are on disk. ``file`` may be read then."""
        self._stop()
        self._raise()

    def finish(self, errors: Mapping[int, str] | None = None) -> Path:
        """Wait for the last row, and give the file its name.

        Args:
            errors: why rows could not be read.
        """
        self.wait()
        try:
            done = done_of(self.file)
            if (done == UNREADABLE).any():
                self.file.create_dataset("valid", data=(done == DONE).astype(np.uint8))
            if errors:
                rows = sorted(errors)
                self.file.create_dataset("errors/row", data=np.array(rows, np.int64))
                reasons = [errors[row] for row in rows]
                self.file.create_dataset("errors/reason", data=reasons, dtype=h5py.string_dtype())
            self.file.attrs.pop(IMAGES_STATE, None)
            self.file.flush()
            self.file.pop("done", None)
            self.file.close()
            finish_file(partial_name(self.path), self.path)
        except OSError as error:
            self._error = error
            self._raise()
        return self.path

    def _run(self) -> None:
        pending: list[tuple[int, NDArray[np.uint8]]] = []
        flushed = time.monotonic()
        while (item := self._queue.get()) is not None:
            self._room.put(None)
            if self._error is not None:
                continue  # keep taking, so that nobody waits for room
            try:
                start, rows, done = item
                for key, block in rows.items():
                    self.file[key][start : start + len(block)] = block
                pending.append((start, done))
                if time.monotonic() - flushed >= _FLUSH_SECONDS:
                    self._flush(pending)
                    flushed = time.monotonic()
            except BaseException as error:  # noqa: BLE001,RUF100 - handed to the thread that writes
                self._error = error
        if self._error is None:
            try:
                self._flush(pending)
            except BaseException as error:  # noqa: BLE001,RUF100
                self._error = error

    def _flush(self, pending: list[tuple[int, NDArray[np.uint8]]]) -> None:
        self.file.flush()
        for start, done in pending:
            self.file["done"][start : start + len(done)] = done
        self.file.flush()
        pending.clear()

    def _stop(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise(self) -> None:
        if isinstance(self._error, OSError):
            raise DataError(
                f"{self.path}: cannot be written ({self._error}); make room and run the same command again, the "
                f"finished rows are kept in {partial_name(self.path).name}"
            ) from None
        if self._error is not None:
            raise self._error

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Stop. The rows that are written stay in the partial file."""
        self._stop()
        if self.file.id.valid:
            try:
                self.file.close()
            except OSError:  # the full disk has been reported already
                if error is None:
                    raise
