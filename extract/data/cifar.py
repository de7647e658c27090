"""The pickles of CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.extract.data.pickles import unpickle_arrays
from ltpost.extract.data.source import Source, as_labels
from ltpost.extract.messages import reading

#: folder to the files of its splits, the key of the labels, and the file and key of the class names
_CIFAR = {
    "cifar-10-batches-py": (
        {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]},
        b"labels",
        ("batches.meta", b"label_names"),
    ),
    "cifar-100-python": ({"train": ["train"], "test": ["test"]}, b"fine_labels", ("meta", b"fine_label_names")),
}


@dataclass
class ArrayImages:
    """A uint8 array (N, H, W, 3) in memory."""

    array: NDArray[np.uint8]
    slow: bool = False

    def read(self, samples: slice) -> Iterator[NDArray[np.uint8]]:
        """See :class:`ltpost.extract.data.source.Images`."""
        yield from self.array[samples]

    def close(self) -> None:
        """Nothing is open."""

    def state(self) -> str:
        """The fingerprint of the rows covers the pixels."""
        return ""


def cifar_in(data: Path, split: str) -> Path | None:
    """The folder of CIFAR-10's or CIFAR-100's Python files: ``data`` itself, or a folder in it."""
    for folder in (data, *(data / name for name in _CIFAR)):
        files = _CIFAR[folder.name][0].get(split, []) if folder.name in _CIFAR else []
        if files and (folder / files[0]).is_file():
            return folder
    return None


def open_cifar(folder: Path, split: str) -> Source:
    """A split of CIFAR. It has no class counts, as long-tailed training uses an unknown part of the train split."""
    splits, key, (meta, names_key) = _CIFAR[folder.name]
    parts = [_part(folder / file, key) for file in splits[split]]
    labels = np.concatenate([part for _, part in parts])
    images = np.ascontiguousarray(np.concatenate([part for part, _ in parts]).transpose(0, 2, 3, 1))
    names = _unpickled(folder / meta).get(names_key) if (folder / meta).is_file() else None
    with reading(folder / meta, "the class names of CIFAR"):
        class_names = None if names is None else [name.decode() for name in names]
    return Source(
        str(folder),
        labels,
        ArrayImages(images),
        hashlib.sha256(images.data).hexdigest(),
        None,
        class_names,
    )


def _part(file: Path, key: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (N, 3, 32, 32) and labels (N,) of one file."""
    content = _unpickled(file)
    with reading(file, "a file of CIFAR"):
        pixels, labels = np.asarray(content[b"data"]), as_labels(f"{file}: '{key.decode()}'", content[key])
        if pixels.dtype != np.uint8:
            raise DataError(f"{file}: 'data' must be uint8, but is {pixels.dtype}")
        pixels = pixels.reshape(-1, 3, 32, 32)
    if len(pixels) != len(labels):
        what = f"must have equally many rows, not {len(pixels)} and {len(labels)}"
        raise DataError(f"{file}: 'data' and '{key.decode()}' {what}")
    return pixels, labels


def _unpickled(file: Path) -> dict[bytes, Any]:
    content = unpickle_arrays(file)
    if not isinstance(content, dict):
        raise DataError(f"{file}: must hold a dictionary, but holds a {type(content).__name__}")
    return content
