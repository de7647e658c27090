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
from ltpost.extract.data.source import Source

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
    parts = [_unpickled(folder / file) for file in splits[split]]
    try:
        pixels = np.concatenate([np.asarray(part[b"data"], np.uint8).reshape(-1, 3, 32, 32) for part in parts])
        labels = np.concatenate([np.asarray(part[key], np.int64) for part in parts])
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{folder / splits[split][0]}: is not a file of CIFAR ({error!r})") from None
    names = _unpickled(folder / meta).get(names_key) if (folder / meta).is_file() else None
    images = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    return Source(
        str(folder),
        labels,
        ArrayImages(images),
        hashlib.sha256(images.data).hexdigest(),
        None,
        None if names is None else [name.decode() for name in names],
    )


def _unpickled(file: Path) -> dict[bytes, Any]:
    content = unpickle_arrays(file)
    if not isinstance(content, dict):
        raise DataError(f"{file}: must hold a dictionary, but holds a {type(content).__name__}")
    return content
