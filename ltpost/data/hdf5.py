"""Reading an HDF5 file that may be damaged, or made to do harm.

Only what is asked for is read, by name; nothing outside of the file is; and every error of the library is a DataError
of one sentence. What this module does not do: know what a feature file holds (``load``), or how HDF5 lays out its texts
(``heaps``).
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import h5py
import numpy as np

from ltpost.data import heaps
from ltpost.data.rows import StoredDataset, damaged, decoded
from ltpost.errors import DataError
from ltpost.heads import Array

_MOST_LINKS = 16
#: what h5py raises for a damaged file
_LIBRARY_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError, SystemError)
#: types of attributes
_SIMPLE = (h5py.h5t.TypeStringID, h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeEnumID)
_LARGE = 2**20  # bytes of a dataset that are not searched for heaps


class File:
    """An open file; close it, or use ``with``.

    Args:
        path: of the file.

    Raises:
        DataError: it cannot be opened.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb"):
                self._file = h5py.File(path, "r", locking="best-effort")
        except BlockingIOError:
            raise DataError(f"{path}: another process is writing this file; wait until it has finished") from None
        except PermissionError as error:
            raise DataError(f"{path}: cannot be opened ({error.strerror or error})") from None
        except _LIBRARY_ERRORS as error:
            reason = "is truncated" if "truncated" in str(error) else "is not an HDF5 file"
            raise DataError(f"{path}: {reason}; write it again with ltpost extract") from None
        self._heaps: set[int] | None = None  # where they are, once that has been looked up
        self._small: list[tuple[int, int]] | None = None  # the parts between the large matrices, likewise

    def attribute(self, name: str, of: str = "") -> Any:
        """One attribute as a Python number or str; None where there is none. Of the root, or of the dataset ``of``.

        Raises:
            DataError: it has no value or several, or cannot be read.
        """
        node = self.dataset(of) if of else self._file
        if node is None:
            return None
        with self._errors_about(f"attribute '{name}'"):
            if not h5py.h5a.exists(node.id, name.encode()):
                return None
            stored = h5py.h5a.open(node.id, name.encode())
            shape, kind = stored.shape, stored.get_type()
        self._require(shape is not None and math.prod(shape) == 1, f"attribute '{name}' must be one value")
        self._require(
            isinstance(kind, _SIMPLE),
            f"attribute '{name}' must be text or a number",
        )
        if isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str():
            self._check_heaps()
            self._require(self._leads_to_a_heap(name), f"attribute '{name}' cannot be read, as its text is missing")
        with self._errors_about(f"attribute '{name}'"):
            value = np.asarray(node.attrs[name]).reshape(-1)[0]
        return decoded(value) if isinstance(value, (str, bytes)) else value.item()

    def members(self, group: str) -> list[str]:
        """The names in a group; none where there is no such group.

        Raises:
            DataError: there is a dataset of that name, or a name is not UTF-8.
        """
        with self._errors_about(f"'{group}'"):
            node = self._find(self._file, group, group, 0)
        if node is None:
            return []
        self._require(isinstance(node, h5py.Group), f"'{group}' must be a group of datasets, but is a dataset")
        with self._errors_about(f"'{group}'"):
            return [str(name) for name in node]

    def dataset(self, key: str) -> h5py.Dataset | None:
        """A dataset whose values all lie in this file, unread; None where there is none.

        Raises:
            DataError: there is something else of that name.
        """
        with self._errors_about(f"'{key}'"):
            node = self._find(self._file, key, key, 0)
        if node is None:
            return None
        self._require(isinstance(node, h5py.Dataset), f"'{key}' must be a dataset, but is a group or a type")
        with self._errors_about(f"'{key}'"):
            shape, dtype, external, virtual = node.shape, node.dtype, node.external, node.is_virtual
        self._require(shape is not None, f"'{key}' must hold values, but is empty")
        self._require(shape != (), f"'{key}' must have rows, but is one value")
        self._require(
            not external, f"'{key}' keeps its values in another file (external storage); copy them into this one"
        )
        self._require(
            not virtual, f"'{key}' takes its values from other datasets (a virtual dataset); copy them into this file"
        )
        self._require(
            dtype.kind in "iufbSO" and dtype.names is None and dtype.subdtype is None,
            f"'{key}' must hold numbers or text, but holds {dtype}",
        )
        with self._errors_about(f"'{key}'"):
            written, wanted = _written(node)
        self._require(
            written >= wanted,
            f"'{key}' must be written in full, but only {written:,} of {wanted:,} "
            f"{'bytes' if node.chunks is None else 'chunks'} are in the file",
        )
        if dtype.hasobject:
            self._require(h5py.check_string_dtype(dtype) is not None, f"'{key}' must hold numbers or text")
            self._check_heaps()
        return node

    def values(self, key: str) -> Array | None:
        """All values of a dataset in memory; None where there is none."""
        dataset = self.dataset(key)
        if dataset is None:
            return None
        with self._errors_about(f"'{key}'"):
            return np.asarray(dataset[()])

    def stored(self, key: str) -> Any:
        """A memory map of a contiguous dataset, else something that reads it when indexed; None where there is none."""
        dataset = self.dataset(key)
        if dataset is None:
            return None
        with self._errors_about(f"'{key}'"):
            shape, dtype, place = dataset.shape, dataset.dtype, dataset.id.get_offset()
            if dataset.size == 0:
                return np.empty(shape, dtype)
            rows = StoredDataset(self.path, dataset)
            if place is None or not shape or dtype.hasobject or not _is_plain(dataset):
                return rows
            raw = self._raw()  # not by the path, which may name another file by now
            end, size = place + dataset.size * dtype.itemsize, os.fstat(raw.fileno()).st_size
            self._require(end <= size, f"is cut off: '{key}' ends at byte {end:,}, the file at {size:,}")
            with raw:
                mapped = np.memmap(raw, dtype, "r", offset=place, shape=shape)
            ends = slice(0, None, max(1, shape[0] - 1))  # a map of the wrong place would be silent
            same = np.asarray(mapped[ends]).tobytes() == np.asarray(dataset[ends]).tobytes()
            return mapped if same else rows

    def _raw(self) -> BinaryIO:
        """The bytes of the file that HDF5 has open.

        The file is opened again, as a copy of HDF5's descriptor would keep HDF5's lock for as long as a memory map
        lives. Only where another file has this name by now, which leaves nobody to lock out, it is a copy.
        """
        descriptor = self._file.id.get_vfd_handle()
        with suppress(OSError):
            again = self.path.open("rb")
            if os.path.samestat(os.fstat(again.fileno()), os.fstat(descriptor)):
                return again
            again.close()
        return os.fdopen(os.dup(descriptor), "rb")

    def _find(self, group: Any, path: str, key: str, links: int) -> Any:
        """What a path leads to, without leaving the file; None where there is nothing."""
        if links > _MOST_LINKS:
            raise DataError(f"{self.path}: '{key}' is a loop of links")
        node = self._file if path.startswith("/") else group
        for name in path.split("/"):
            if not name or name == ".":
                continue
            self._require(isinstance(node, h5py.Group), f"'{key}' cannot be reached: a part of its name is no group")
            link = node.get(name, getlink=True)
            self._require(
                link is None or not isinstance(link, h5py.ExternalLink),
                f"'{key}' is a link to another file; copy it into this one",
            )
            if isinstance(link, h5py.SoftLink):
                target = self._find(node, link.path, key, links + 1)
                self._require(target is not None, f"'{key}' is a link to '{link.path}', which does not exist")
                node = target
            else:
                node = None if link is None else node[name]
            if node is None:
                return None
        return node

    def _check_heaps(self) -> None:
        """Refuse a damaged heap of texts: HDF5 would search it for ever."""
        if self._heaps is None:
            with self._raw() as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
                self._heaps = set()
                for place, is_sound in heaps.all_heaps(content, self._small_parts(len(content))):
                    self._require(is_sound, f"is damaged: the texts at byte {place:,}")
                    self._heaps.add(place)

    def _leads_to_a_heap(self, name: str) -> bool:
        """Whether the place that an attribute names for its text is a heap; HDF5 would search elsewhere for ever."""
        with self._raw() as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
            text = heaps.text_of_attribute(content, self._small_parts(len(content)), name)
        return text is None or not text[0] or text[1] + self._file.userblock_size in (self._heaps or ())

    def _small_parts(self, size: int) -> list[tuple[int, int]]:
        """The parts of the file, of ``size`` bytes, that hold no large matrix."""
        if self._small is None:
            self._small = list(heaps.outside(self._extents(), size))
        return self._small

    def _extents(self) -> Iterator[tuple[int, int]]:
        """Where the large matrices lie."""
        for key in ("features", "logits", *(f"layers/{name}" for name in self.members("layers"))):
            with self._errors_about(f"'{key}'"):
                node = self._find(self._file, key, key, 0)
                if not isinstance(node, h5py.Dataset):
                    continue
                place, size = node.id.get_offset(), node.id.get_storage_size()
                chunks: list[Any] = []
                if node.chunks is not None and size > _LARGE:
                    node.id.chunk_iter(chunks.append)
            if place is not None and size > _LARGE:
                yield place, place + size
            yield from ((chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks)

    def _require(self, holds: bool, requirement: str) -> None:
        if not holds:
            raise DataError(f"{self.path}: {requirement}")

    @contextmanager
    def _errors_about(self, what: str) -> Iterator[None]:
        """Turn errors of the library into one sentence about ``what``; only calls of the library belong inside."""
        try:
            yield
        except _LIBRARY_ERRORS as error:
            raise DataError(damaged(self.path, what, error)) from None

    def __enter__(self) -> File:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._errors_about("the end"):
            self._file.close()


def _written(dataset: h5py.Dataset) -> tuple[int, int]:
    """How much of a dataset is in the file and how much should be: bytes, or chunks where there are some."""
    if dataset.size == 0:
        return 0, 0
    if dataset.chunks is None:
        return dataset.id.get_storage_size(), dataset.size * dataset.id.get_type().get_size()
    wanted = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    return dataset.id.get_num_chunks(), wanted


def _is_plain(dataset: h5py.Dataset) -> bool:
    """Whether the bytes in the file are those of numpy's type; h5py reads unusual floats as the next larger type."""
    return bool(dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype, logical=True))
