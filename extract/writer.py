"""Rows to a feature file, in any order, in a thread of its own; what is on disk survives a kill.

The file is created by ``ltpost.features.start_file`` at its full size. ``done`` (N,) uint8 says which rows are there:
data, flush, ``done``, flush. ``finish`` drops it and gives the file its name.
"""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.features import finish_file, partial_name

MISSING, DONE, UNREADABLE = 0, 1, 2
_FLUSH_SECONDS = 1.0


class FeatureWriter:
    """Fills a partial file.

    Args:
        path: the final name; ``start_file`` has made the partial one, with a dataset ``done``.

    Raises:
        DataError: a row cannot be stored (from ``write`` or ``finish``, after it happened).
    """

    def __init__(self, path: Path):
        self.path = path
        self.file = h5py.File(partial_name(path), "r+")
        self._queue: queue.Queue[tuple[int, dict[str, NDArray[Any]], NDArray[np.uint8]] | None] = queue.Queue(8)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ltpost-writer", daemon=True)
        self._thread.start()

    def write(self, start: int, rows: dict[str, NDArray[Any]], done: NDArray[np.uint8]) -> None:
        """Store rows ``start…`` of each dataset; ``done`` is DONE or UNREADABLE for each."""
        self._raise()
        self._queue.put((start, rows, done))

    def finish(self) -> Path:
        """Wait for the last row, and give the file its name."""
        self._stop()
        self._raise()
        done = self.file["done"][:]
        del self.file["done"]
        if (done == UNREADABLE).any():
            self.file.create_dataset("valid", data=(done == DONE).astype(np.uint8))
        self.file.close()
        finish_file(partial_name(self.path), self.path)
        return self.path

    def _run(self) -> None:
        import time

        pending: list[tuple[int, NDArray[np.uint8]]] = []
        flushed = time.monotonic()
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # keep taking, so that nobody waits for room
            try:
                start, rows, done = item
                for key, block in rows.items():
                    self.file[key][start : start + len(block)] = block
                pending.append((start, done))
                if time.monotonic() - flushed > _FLUSH_SECONDS:
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
                f"{self.path}: cannot be written ({self._error}); the finished rows are kept in "
                f"{partial_name(self.path).name}"
            ) from None
        if self._error is not None:
            raise self._error

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Stop; what has been written so far stays in the partial file."""
        self._stop()
        if self.file.id.valid:
            self.file.close()
