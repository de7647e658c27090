"""Rows of a matrix that stays where it is, in an array, a memory map or an HDF5 file, until they are read.

What this module does not do: check values, or know what the rows are (``features``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.heads import Array, Key

BLOCK_ELEMENTS = 2**22  # of the widest of features and logits: 16 MiB as float32


class Matrix(Protocol):
    """A matrix that gives rows when it is indexed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> Array: ...


class Rows:
    """Rows of a matrix that stays where it is until indexed.

    ``source`` is an array (often a memory map), a chunked HDF5 dataset or the rows of several experts, ``index`` the
    rows of it that count and ``columns`` the columns. A slice or an integer array gives a numpy array;
    ``np.asarray(rows)`` reads everything.
    """

    def __init__(self, source: Array | Matrix, index: NDArray[np.int64] | None = None, columns: slice | None = None):
        self.source, self.index, self.columns = source, index, columns
        width = source.shape[1:] if columns is None else (columns.stop - columns.start,)
        self.shape: tuple[int, ...] = (len(source) if index is None else len(index), *width)
        #: of what is read; another byte order than the machine's is turned round
        self.dtype: np.dtype[Any] = source.dtype.newbyteorder("=")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Array:
        result: Array = self.source[key if self.index is None else self.index[key]]
        result = result.astype(self.dtype, copy=False)
        return result if self.columns is None else result[:, self.columns]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[:], dtype=dtype)

    def take(self, rows: slice | NDArray[np.int64], out: Array) -> Array:
        """The rows of ``rows`` in ``out``, without another copy where possible."""
        index = rows if self.index is None else self.index[rows]
        plain = self.columns is None and self.source.dtype == out.dtype
        if plain and isinstance(self.source, np.ndarray) and isinstance(index, np.ndarray):
            return np.take(self.source, index, axis=0, out=out, mode="clip")
        with np.errstate(over="ignore"):  # what float32 does not hold is infinity, which is not finite
            out[...] = self[rows]
        return out

    def subset(self, rows: NDArray[np.int64]) -> Rows:
        """The rows of ``rows``, still unread."""
        return Rows(self.source, rows if self.index is None else self.index[rows], self.columns)


class StoredDataset:
    """A chunked or compressed HDF5 dataset, opened anew in every process that reads it."""

    def __init__(self, path: Path, dataset: h5py.Dataset):
        self.path, self.name = path, str(dataset.name)
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self._opened: tuple[int, h5py.Dataset] | None = None

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> Array:
        try:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), h5py.File(self.path, "r", locking="best-effort")[self.name])
            dataset = self._opened[1]
            if isinstance(key, slice):
                return np.asarray(dataset[key])
            distinct, inverse = np.unique(np.asarray(key), return_inverse=True)  # h5py wants increasing indices
            return np.asarray(dataset[distinct])[inverse]
        except (OSError, RuntimeError, KeyError, MemoryError) as error:
            raise DataError(damaged(self.path, f"'{self.name.lstrip('/')}'", error)) from None


def damaged(path: Path, what: str, error: BaseException) -> str:
    """The sentence for an error of h5py."""
    if not path.exists():
        return f"{path}: {what} cannot be read, the file is not there any more; put it back or load another one"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{path}: {what} cannot be read ({reason[:200]}); the file is damaged, write it again"


def decoded(value: Any) -> str:
    """Text of any encoding as str; what is not UTF-8 is shown as \\x.."""
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace")


def parts(total: int, size: int, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[slice, Key]]:
    """Pairs (slice of the result, key into the stored rows), ``size`` rows at a time.

    Args:
        total: how many rows in all.
        size: how many of them at a time.
        rows: the numbers of the rows that are wanted; default all.
    """
    for start in range(0, total, size):
        part = slice(start, min(start + size, total))
        yield part, part if rows is None else rows[part]
