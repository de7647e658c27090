"""WebDataset shards: tar files whose members ``KEY.jpg`` and ``KEY.cls`` are a row, read in place."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.extract.data.image_files import IMAGE_SUFFIXES, decode, need_pillow
from ltpost.extract.data.source import Source


@dataclass
class TarImages:
    """Images inside tar files: which file, where in it, how long."""

    files: Sequence[Path]
    places: NDArray[np.int64]  # (N, 3): file, offset, size
    dear: bool = True

    def read(self, samples: slice) -> Iterator[Any]:
        """See :class:`ltpost.extract.source.Images`."""
        for file, offset, size in self.places[samples].tolist():
            with self.files[file].open("rb") as stream:
                stream.seek(offset)
                yield decode(io.BytesIO(stream.read(size)))

    def close(self) -> None:
        """Nothing stays open."""


def tars_in(data: Path, split: str) -> Path | None:
    """``data`` where it holds ``<split>*.tar``, or ``<split>/*.tar``."""
    return data if tar_files(data, split) else None


def tar_files(data: Path, split: str) -> list[Path]:
    """The shards of a split, in order."""
    return sorted(data.glob(f"{split}/*.tar")) or sorted(data.glob(f"{split}*.tar"))


def open_tars(data: Path, split: str) -> Source:
    """The rows of all shards of a split, in the order of the files and of the members in them."""
    need_pillow()
    files = tar_files(data, split)
    paths, labels, places = _index(files)
    digest = hashlib.sha256("".join(f"{path} {label}\n" for path, label in zip(paths, labels, strict=True)).encode())
    train = files if split == "train" else tar_files(data, "train")
    train_labels = labels if split == "train" else _index(train)[1] if train else None
    images = TarImages(files, np.array(places, np.int64).reshape(-1, 3))
    counted = None if train_labels is None else np.array(train_labels, np.int64)
    name = f"{data}/{split}*.tar"
    return Source(
        name, np.array(labels, np.int64), images, digest.hexdigest(), paths, None, counted, f"{data}/train*.tar"
    )


def _index(files: Sequence[Path]) -> tuple[list[str], list[int], list[tuple[int, int, int]]]:
    """Name, label and place of every image."""
    paths, labels, places = [], [], []
    for number, file in enumerate(files):
        images: dict[str, tuple[str, int, int]] = {}
        classes: dict[str, int] = {}
        try:
            with tarfile.open(file, "r:") as archive:
                for member in archive:
                    folder, _, name = member.name.rpartition("/")
                    key, _, suffix = name.partition(".")
                    key = f"{folder}/{key}"
                    if f".{suffix.lower()}" in IMAGE_SUFFIXES:
                        images[key] = (member.name, member.offset_data, member.size)
                    elif suffix == "cls":
                        content = archive.extractfile(member)
                        classes[key] = int(content.read()) if content is not None else -1
        except (tarfile.TarError, OSError, ValueError) as error:
            raise DataError(f"{file}: cannot be read as a tar file of images and .cls labels ({error})") from None
        without = next((name for key, (name, _, _) in images.items() if key not in classes), None)
        if without is not None or not images:
            what = f"'{without}' has no .cls beside it" if without else "it holds no images"
            raise DataError(f"{file}: must hold KEY.jpg and KEY.cls for every row, but {what}")
        for key, (name, offset, size) in images.items():
            paths.append(f"{file.name}/{name}")
            labels.append(classes[key])
            places.append((number, offset, size))
    return paths, labels, places
