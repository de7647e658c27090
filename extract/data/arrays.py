"""Images as arrays in .npz files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.extract.data.source import Source, as_labels, train_beside
from ltpost.extract.messages import reading


@dataclass
class NpzImages:
    """A uint8 array (N, H, W, channels) or (N, H, W) inside an .npz file, which is read in order, batch by batch.

    The whole array is never in memory. Each process opens the file for itself.
    """

    file: Path
    member: str
    shape: tuple[int, ...]
    slow: bool = False
    _opened: tuple[int, zipfile.ZipFile, Any, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def read(self, samples: slice) -> Iterator[NDArray[np.uint8]]:
        """See :class:`ltpost.extract.data.source.Images`."""
        yield from self[samples]

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        start, stop, _ = rows.indices(self.shape[0])
        size = int(np.prod(self.shape[1:]))
        with reading(self.file, "an .npz file"):
            if self._opened is None or self._opened[0] != os.getpid():
                with contextlib.ExitStack() as stack:
                    archive = stack.enter_context(zipfile.ZipFile(self.file))
                    stream = stack.enter_context(archive.open(f"{self.member}.npy"))
                    _npy_header(stream)
                    self._opened = (os.getpid(), archive, stream, stream.tell())
                    stack.pop_all()  # they stay open for the next batch
            _, _, stream, begin = self._opened
            stream.seek(begin + start * size)
            pixels = np.frombuffer(stream.read((stop - start) * size), dtype=np.uint8)
            images = pixels.reshape(stop - start, *self.shape[1:])
        return images[..., None] if images.ndim == 3 else images

    def close(self) -> None:
        """See :class:`ltpost.extract.data.source.Images`."""
        if self._opened is not None and self._opened[0] == os.getpid():
            self._opened[2].close()
            self._opened[1].close()
        self._opened = None

    def state(self) -> str:
        """The fingerprint of the rows covers the pixels."""
        return ""


def _npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = reader(stream)
    return header


def _npz_keys(split: str) -> tuple[tuple[str, str], ...]:
    return (f"x_{split}", f"y_{split}"), ("images", "labels")


def _archive(file: Path) -> zipfile.ZipFile:
    with reading(file, "an .npz file"):
        return zipfile.ZipFile(file)


def open_npz(file: Path, split: str) -> Source:
    """``images`` and ``labels``, or ``x_<split>`` and ``y_<split>`` in one file for all splits."""
    with _archive(file) as archive:
        members = {name.removesuffix(".npy") for name in archive.namelist()}
        keys_of_pair = next((pair for pair in _npz_keys(split) if set(pair) <= members), None)
        if keys_of_pair is None:
            wanted = " or ".join(f"'{images}' and '{labels}'" for images, labels in _npz_keys(split))
            raise DataError(f"{file}: must hold {wanted}, but holds {', '.join(sorted(members))}")
        with reading(file, "an .npz file"), archive.open(f"{keys_of_pair[0]}.npy") as stream:
            shape, fortran, dtype = _npy_header(stream)
        checksum = archive.getinfo(f"{keys_of_pair[0]}.npy").CRC
    if dtype != np.uint8 or len(shape) not in (3, 4) or fortran or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise DataError(
            f"{file}: '{keys_of_pair[0]}' must be uint8 (N, height, width, 3), but is {dtype} {shape}"
            f"{' in Fortran order' if fortran else ''}"
        )
    labels = _npz_labels(file, keys_of_pair[1])
    if len(labels) != shape[0]:
        raise DataError(
            f"{file}: '{keys_of_pair[1]}' must have {shape[0]} rows like '{keys_of_pair[0]}', but has {len(labels)}"
        )
    names = _npz_array(file, "class_names") if "class_names" in members else None
    train_labels, train_name = _npz_train(file, split, keys_of_pair[1], members)
    return Source(
        f"{file}",
        labels,
        NpzImages(file, keys_of_pair[0], shape),
        hashlib.sha256(f"{checksum} {shape}".encode() + labels.tobytes()).hexdigest(),
        None,
        None if names is None else [name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()],
        train_labels,
        train_name,
    )


def _npz_train(file: Path, split: str, key: str, members: set[str]) -> tuple[NDArray[np.int64] | None, str]:
    if key == f"y_{split}":
        return (_npz_labels(file, "y_train") if "y_train" in members else None), f"{file}:y_train"
    train = train_beside(file, split)
    return (None, "") if train is None else (_npz_labels(train, key), str(train))


def _npz_array(file: Path, key: str) -> NDArray[Any]:
    with reading(file, f"an .npz file ('{key}')"), file.open("rb") as stream, np.load(stream) as arrays:
        return np.asarray(arrays[key])


def _npz_labels(file: Path, key: str) -> NDArray[np.int64]:
    return as_labels(f"{file}: '{key}'", _npz_array(file, key))


def npz_in(data: Path, split: str) -> Path | None:
    """The .npz file of a split: ``data`` itself, ``<split>.npz`` in it, or its first .npz file that has the split."""
    if data.suffix == ".npz" and data.is_file():
        return data
    if (data / f"{split}.npz").is_file():
        return data / f"{split}.npz"
    files = sorted(file for file in data.glob("*.npz") if file.is_file()) if data.is_dir() else []
    return next((file for file in files if f"x_{split}.npy" in _archive(file).namelist()), None)
