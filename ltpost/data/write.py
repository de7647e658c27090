"""Writing a feature file, in two halves: :func:`create_file` makes room, :func:`finish_file` gives it its name.

Data first goes to ``<name>.partial``, which takes the final name in one step when it is complete.
"""

from __future__ import annotations

import datetime
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ltpost._version import __version__
from ltpost.heads import Array, LinearHead
from ltpost.output import final_place, settle

FORMAT = "ltpost-features"
FORMAT_VERSION = 1
#: the type of a column of text
TEXT = h5py.string_dtype()


#: what HDF5 may add to a file when one attribute is changed
_CHANGE_BYTES = 2**14


def partial_name(path: Path) -> Path:
    """Where the rows of an unfinished ``path`` are: beside the file that it stands for."""
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    return path.with_name(f"{path.name}.partial")


def create_file(
    partial: Path,
    labels: NDArray[np.int64],
    datasets: Mapping[str, tuple[tuple[int, ...], Any]],
    *,
    head: LinearHead | None = None,
    expert_bias: Array | None = None,
    class_counts: Any = None,
    class_names: list[str] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> None:
    """Create a partial file with everything that is known before the first row, and room for the rest.

    Args:
        partial: its path.
        labels: (N,).
        datasets: name to (shape, dtype) of what is to be filled in; contiguous, uncompressed.
        head: the joint classifier.
        expert_bias: (E, C), of several experts; see :meth:`FeatureSet.expert`.
        class_counts: (C,).
        class_names: C names.
        attrs: provenance; ``format``, ``format_version``, ``state``, ``ltpost_version`` and ``created`` are set here.

    Raises:
        OSError: it cannot be written.
    """
    with open_checked(partial, "w") as file:
        file.attrs.update(
            {
                "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "ltpost_version": __version__,
                **(attrs or {}),
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "state": "partial",
            }
        )
        file.create_dataset("labels", data=np.asarray(labels, dtype=np.int64))
        for key, (shape, dtype) in datasets.items():
            file.create_dataset(
                key, shape=shape, dtype=dtype, dcpl=None if np.dtype(dtype).hasobject else _allocated_now()
            )
        if head is not None:
            file.create_dataset("head/weight", data=head.weight)
            if head.bias is not None:
                file.create_dataset("head/bias", data=head.bias)
        if expert_bias is not None:
            file.create_dataset("head/expert_bias", data=np.asarray(expert_bias, dtype=np.float32))
        if class_counts is not None:
            file.create_dataset("class_counts", data=np.asarray(class_counts, dtype=np.int64))
        if class_names is not None:
            file.create_dataset("class_names", data=class_names, dtype=TEXT)


def _allocated_now() -> h5py.h5p.PropDCID:
    """Contiguous, with its place in the file from the start, and not filled before its writer does."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return properties


class _Checked:
    """A file for h5py that remembers the first error and goes on, for HDF5 crashes when the disk is full.

    What is written after an error is thrown away. Whoever opened the file raises the error when HDF5 has closed it.
    Where a signal comes as HDF5 closes it, HDF5 writes once more when Python ends: the file is closed then, and that is
    thrown away too.
    """

    def __init__(self, path: Path, mode: str):
        self._file = io.FileIO(path, mode)
        self.error: OSError | None = None

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return place if self._file.closed else self._file.seek(place, whence)

    def tell(self) -> int:
        return 0 if self._file.closed else self._file.tell()

    def read(self, size: int = -1) -> bytes:
        """How h5py recognises a file; it reads with ``readinto``."""
        return self._file.read(size) or b""

    def readinto(self, memory: Any) -> int:
        """Fill all of ``memory``; the system may give less at a time."""
        view, done = memoryview(memory).cast("B"), 0
        while done < len(view) and not self._file.closed:
            got = self._file.readinto(view[done:])
            if not got:
                break
            done += got
        view[done:] = bytes(len(view) - done)  # what was thrown away
        return len(view)

    def write(self, memory: Any) -> int:
        """Write all of ``memory``, or remember why not."""
        view, done = memoryview(memory).cast("B"), 0
        try:
            while self.error is None and not self._file.closed and done < len(view):
                done += self._file.write(view[done:]) or 0
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int) -> int:
        try:
            if self.error is None and not self._file.closed:
                self._file.truncate(size)
        except OSError as error:
            self.error = error
        return size

    def flush(self) -> None:
        """Nothing is buffered here."""

    def close(self) -> None:
        """Close, whatever happened."""
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error


@contextmanager
def open_checked(path: Path, mode: str) -> Iterator[h5py.File]:
    """An HDF5 file to write ("w") or change ("r+").

    Raises:
        OSError: it could not be written; HDF5 itself would end the process.
    """
    raw = _Checked(path, {"w": "w+", "r+": "r+"}[mode])
    try:
        try:
            with h5py.File(raw, mode) as file:
                yield file
        finally:
            raw.close()
    except Exception:
        if raw.error is not None:
            raise raw.error from None
        raise
    if raw.error is not None:
        raise raw.error


def finish_file(partial: Path, path: Path) -> None:
    """Mark a partial file complete and give it its final name in one step, on disk before anything says so.

    Raises:
        OSError: there is no room for it; the partial file is as it was.
    """
    if hasattr(os, "posix_fallocate"):  # ask first, for a change that stops half-way would spoil the file
        with partial.open("r+b") as room:
            os.posix_fallocate(room.fileno(), 0, partial.stat().st_size + _CHANGE_BYTES)
    with open_checked(partial, "r+") as file:
        file.attrs["state"] = "complete"
    settle(partial, final_place(path))
