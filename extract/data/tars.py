"""WebDataset shards: tar files that hold ``KEY.jpg`` and ``KEY.cls`` for every row. Nothing is unpacked."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.extract.data.image_files import IMAGE_SUFFIXES, decode, need_pillow
from ltpost.extract.data.source import Source, sha256_of_files, sha256_of_rows
from ltpost.extract.messages import reading


@dataclass
class TarImages:
    """Images inside tar files, by file, offset and size."""

    files: Sequence[Path]
    places: NDArray[np.int64]  # (N, 3): file, offset, size
    slow: bool = True

    def read(self, samples: slice) -> Iterator[Any]:
        """See :class:`ltpost.extract.data.source.Images`."""
        for file, offset, size in self.places[samples].tolist():
            with self.files[file].open("rb") as stream:
                stream.seek(offset)
                yield decode(io.BytesIO(stream.read(size)))

    def close(self) -> None:
        """Nothing stays open."""

    def state(self) -> str:
        """The sizes and times of the files, hashed."""
        return sha256_of_files(self.files)


def tars_in(data: Path, split: str) -> Path | None:
    """``data`` where it holds ``<split>*.tar``, or ``<split>/*.tar``."""
    return data if tar_files(data, split) else None


def tar_files(data: Path, split: str) -> list[Path]:
    """The shards of a split, in order."""
    found = (
        sorted(file for file in data.glob(where) if file.is_file()) for where in (f"{split}/*.tar", f"{split}*.tar")
    )
    return next(filter(None, found), [])


def open_tars(data: Path, split: str) -> Source:
    """The rows of all shards of a split, in the order of the files and of the members in them."""
    need_pillow()
    files = tar_files(data, split)
    paths, labels, places = _index(files)
    train = files if split == "train" else tar_files(data, "train")
    train_labels = labels if split == "train" else _index(train)[1] if train else None
    images = TarImages(files, np.array(places, np.int64).reshape(-1, 3))
    counted = None if train_labels is None else np.array(train_labels, np.int64)
    name = f"{data}/{split}*.tar"
    return Source(
        name,
        np.array(labels, np.int64),
        images,
        sha256_of_rows(paths, np.array(labels, np.int64)),
        paths,
        None,
        counted,
        f"{data}/train*.tar",
    )


def _index(files: Sequence[Path]) -> tuple[list[str], list[int], list[tuple[int, int, int]]]:
    """The name, label and place of every image."""
    paths, labels, places = [], [], []
    for number, file in enumerate(files):
        images: dict[str, tuple[str, int, int]] = {}
        classes: dict[str, int] = {}
        with reading(file, "a tar file of images and .cls labels"), tarfile.open(file, "r:") as archive:
            for member in archive:
                key, _, suffix = member.name.rpartition(".")
                rows: dict[str, Any] = images if f".{suffix.lower()}" in IMAGE_SUFFIXES else classes
                if not member.isreg() or not (rows is images or suffix == "cls"):
                    continue
                if key in rows:
                    raise DataError(
                        f"{file}: must hold every key once, but '{member.name}' is not the first of its key"
                    )
                if rows is images:
                    images[key] = (member.name, member.offset_data, member.size)
                else:
                    content = archive.extractfile(member)
                    classes[key] = _label(content.read() if content is not None else b"")
        images = {key: image for key, image in images.items() if not _is_second_image(key, images, classes)}
        without = next((name for key, (name, _, _) in images.items() if key not in classes), None)
        if without is not None or not images:
            what = f"'{without}' has no .cls beside it" if without else "it holds no images"
            raise DataError(f"{file}: must hold KEY.jpg and KEY.cls for every row, but {what}")
        for key, (name, offset, size) in images.items():
            paths.append(f"{file.name}/{name}")
            labels.append(classes[key])
            places.append((number, offset, size))
    return paths, labels, places


def _label(content: bytes) -> int:
    if re.fullmatch(rb"\s*-?[0-9]{1,18}\s*", content) is None:
        raise ValueError(f"a label must be a whole number, but is {content[:20]!r}")
    return int(content)


def _is_second_image(key: str, images: Mapping[str, Any], classes: Mapping[str, int]) -> bool:
    """Whether it is like ``1.mask.png`` beside ``1.jpg`` and ``1.cls``: an image of their row, which is left out."""
    folder, _, name = key.rpartition("/")
    first = f"{folder}/{name.partition('.')[0]}" if folder else name.partition(".")[0]
    return key not in classes and first != key and first in images and first in classes
