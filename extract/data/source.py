"""One split of images: labels and names of its rows, and a reader of their pixels."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError, UsageError
from ltpost.extract.messages import reading


@dataclass(frozen=True)
class Unreadable:
    """The reason why an image cannot be read. It takes the place of the image."""

    reason: str


class Images(Protocol):
    """The pixels of a split. They are read on demand; worker processes get a copy of this object."""

    #: whether reading is slow enough for worker processes
    slow: bool

    def read(self, samples: slice) -> Iterator[Any]:
        """Give each image in turn: a PIL image, an array (h, w, channels) uint8, or an :class:`Unreadable`."""

    def close(self) -> None:
        """Close the files that this process has opened."""

    def state(self) -> str:
        """A text that changes when a file is replaced under its name; empty where ``fingerprint`` covers the pixels."""


@dataclass(frozen=True)
class Source:
    """One split of images.

    Args:
        name: the file or folder, for messages and provenance.
        labels: (N,) int64.
        images: the pixels.
        fingerprint: sha256 that identifies the rows and their order.
        paths: N names of the rows, or None.
        class_names: C names, or None.
        train_labels: the labels of the train split, or None where it is missing.
        train_name: the file or folder of the train split.
        class_order: the order in which classes are numbered; None where the labels of the data are left as they are.
    """

    name: str
    labels: NDArray[np.int64]
    images: Images
    fingerprint: str
    paths: list[str] | None = None
    class_names: list[str] | None = None
    train_labels: NDArray[np.int64] | None = None
    train_name: str = ""
    class_order: str | None = None

    def __post_init__(self) -> None:
        for name in ("paths", "class_names"):
            texts = getattr(self, name)
            if texts is not None:
                object.__setattr__(self, name, [storable(text) for text in texts])

    def __len__(self) -> int:
        return len(self.labels)

    def class_counts(self, num_classes: int) -> NDArray[np.int64] | None:
        """(C,) training samples per class, or None where the train split is missing."""
        if self.train_labels is None:
            return None
        check_labels(self.train_name, self.train_labels, num_classes)
        return np.bincount(self.train_labels, minlength=num_classes)


def check_labels(name: str, labels: NDArray[np.int64], num_classes: int) -> None:
    """Raise DataError unless all labels are in 0..C-1."""
    bad = labels[(labels < 0) | (labels >= num_classes)]
    if len(bad):
        raise DataError(
            f"{name}: labels must be in 0..{num_classes - 1}, as the classifier has {num_classes} classes, but one is "
            f"{bad[0]}; the checkpoint belongs to other data, or the labels are numbered otherwise"
        )


def check_split(split: str) -> None:
    """Raise UsageError unless ``split`` can be the name of a split and of a file."""
    if not split or split in (".", "..") or any(sign in split for sign in "/\\\0"):
        raise UsageError(f"split= must be a name like train, val or test, but is {split!r}")


def storable(text: str) -> str:
    """The text in UTF-8. Bytes of a file name that are not UTF-8 become \\xNN."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def as_labels(name: str, values: Any) -> NDArray[np.int64]:
    """(N,) int64.

    Args:
        name: of the values, for messages.
        values: whole numbers.

    Raises:
        DataError: they are not whole numbers of one axis, or one is beyond 64 bits.
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{name} must be whole numbers of shape (N,), but is {array.dtype} {array.shape}")
    if array.dtype.kind == "u" and array.max(initial=0) > np.iinfo(np.int64).max:
        raise DataError(f"{name} must fit into 64 bits with a sign, but one is {array.max()}")
    return array.astype(np.int64)


def train_beside(file: Path, split: str) -> Path | None:
    """The file of the train split, which has the same name with 'train' for the split; None where it is missing."""
    if split == "train":
        return file
    for word in (split, "val", "test"):
        if word in file.stem:
            head, tail = file.stem.rsplit(word, 1)
            train = file.with_name(f"{head}train{tail}{file.suffix}")
            return train if train.is_file() else None
    return None


def sha256_of_files(files: Iterable[Path]) -> str:
    """One sha256 over the sizes and modification times of files. No file is read."""
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
        except (OSError, ValueError):
            digest.update(b"missing\n")
        else:
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def sha256_of_rows(paths: Sequence[str], labels: NDArray[np.int64]) -> str:
    """One sha256 over the paths and labels of rows, in their order."""
    digest = hashlib.sha256()
    for path, label in zip(paths, labels, strict=True):
        digest.update(f"{path} {label}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read_class_counts(file: str | os.PathLike[str]) -> NDArray[np.int64]:
    """(C,) training samples per class, from a JSON list, a text file with one count a line, or an .npy file.

    Raises:
        DataError: it is none of these.
    """
    source = Path(file)
    with reading(source, "class counts"):
        if source.suffix == ".npy":
            counts = np.load(source, allow_pickle=False)
        elif source.suffix == ".json":
            counts = np.asarray(json.loads(source.read_text(encoding="utf-8-sig")))
        else:
            words = re.split(r"[\s,]+", source.read_text(encoding="utf-8-sig").strip())
            counts = np.asarray([json.loads(word) for word in words])
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise DataError(
            f"{source}: class counts must be whole numbers, one per class (a JSON list, one a line, or .npy), "
            f"but are {counts.dtype} of shape {counts.shape}"
        )
    return as_labels(f"{source}: class counts", counts)
