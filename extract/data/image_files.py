"""Image files in folder trees."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError, first_line
from ltpost.extract.data.class_order import check_class_order, sort_key
from ltpost.extract.data.source import Source, Unreadable, sha256_of_files, sha256_of_rows
from ltpost.extract.messages import need, reading

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"))
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")


@dataclass
class ImageFiles:
    """Image files under a root folder."""

    root: Path
    paths: Sequence[str]
    slow: bool = True

    def read(self, samples: slice) -> Iterator[Any]:
        """See :class:`ltpost.extract.data.source.Images`."""
        for path in self.paths[samples]:
            yield decode(self.root / path)

    def close(self) -> None:
        """Nothing stays open."""

    def state(self) -> str:
        """The sizes and times of the files, hashed."""
        return sha256_of_files(self.root / path for path in self.paths)


def decode(file: Path | BinaryIO) -> Any:
    """A PIL image in RGB, or :class:`Unreadable`."""
    from PIL import Image

    try:
        if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
            return Unreadable("is not a regular file")
        with Image.open(file, formats=_formats()) as image:
            return (_high_bytes(image) if image.mode[0] in "IF" else image).convert("RGB")
    except Exception as error:  # noqa: BLE001,RUF100 - Pillow's plugins raise errors of any kind on damaged files
        return Unreadable(getattr(error, "strerror", None) or first_line(error))


@functools.cache
def _formats() -> list[str]:
    """The formats of Pillow that are tried, whatever the name of a file ends in. For others it may start programs."""
    from PIL import Image

    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _high_bytes(image: Any) -> Any:
    """Turn a grey image of 16 bits into one of 8, as Pillow itself does with colour images of 16 bits.

    NOTE[DIFF] Pillow's ``convert`` clips such an image at 255 instead, which leaves it nearly white.

    Raises:
        ValueError: the pixels are not whole numbers of 16 bits.
    """
    from PIL import Image

    pixels = np.asarray(image)
    if pixels.dtype.kind not in "iu" or pixels.min(initial=0) < 0 or pixels.max(initial=0) > 0xFFFF:
        raise ValueError(f"pixels of mode {image.mode} must be whole numbers in 0..65535")
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def need_pillow() -> None:
    """Raise UsageError where Pillow is not installed."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise need("pillow", "reading image files") from None


def image_files(root: Path, paths: Sequence[str]) -> ImageFiles:
    """The images of ``paths``.

    Raises:
        UsageError: Pillow is not installed.
    """
    need_pillow()
    return ImageFiles(root, paths)


# -- folder tree -------------------------------------------------------------------------------------------------------


def _folders(folder: Path, class_order: str | None) -> list[str]:
    with reading(folder, "a folder of class folders"):
        names = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    return sorted(names, key=sort_key(class_order))


def open_tree(data: Path, split: str, class_order: str | None = None) -> Source:
    """``ROOT/<split>/<class>/…``: classes are numbered by the sorted names of the train folder.

    Args:
        data: ROOT.
        split: its name.
        class_order: one of ``CLASS_ORDERS``. For "frequency" and None the names are sorted as text here.
    """
    check_class_order(class_order)
    train = _folders(data / "train", class_order)
    names = train or _folders(data / split, class_order)
    if not names:
        raise DataError(f"{data / split}: must hold one folder per class, but holds none")
    unknown = sorted(set(_folders(data / split, class_order)) - set(names))
    if unknown:
        raise DataError(f"{data / split}: has class folder '{unknown[0]}', which is not in {data / 'train'}")
    paths, labels = _tree_rows(data, split, names)
    if not paths:
        raise DataError(f"{data / split}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    train_labels = labels if split == "train" else _tree_rows(data, "train", names)[1] if train else None
    return Source(
        str(data / split),
        labels,
        image_files(data, paths),
        sha256_of_rows(paths, labels),
        paths,
        names,
        train_labels,
        str(data / "train"),
        "natural" if class_order == "natural" else "string",
    )


def _tree_rows(data: Path, split: str, names: list[str]) -> tuple[list[str], NDArray[np.int64]]:
    paths, labels = [], []
    for label, name in enumerate(names):
        for folder, _, files in sorted(walk(data / split / name)):
            inside = [str(Path(folder, file).relative_to(data)) for file in sorted(files) if _is_image(file)]
            paths += inside
            labels += [label] * len(inside)
    return paths, np.array(labels, dtype=np.int64)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("._")  # noqa: PTH122 - speed


def walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk through all folders below ``root``, as ``os.walk`` does, but skip links to a folder that led there.

    Raises:
        DataError: a folder cannot be read, whose images would be missing.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError) and error.filename == str(root):
            return  # val/ may lack a class
        raise DataError(f"{error.filename}: this folder cannot be read ({error.strerror})")

    above = {str(root): (os.path.realpath(root),)}  # the real places of a folder and of those that led to it
    for folder, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        places = above.pop(str(Path(folder)))  # Path drops the ./ of a root that is the current folder
        inside = {name: os.path.realpath(Path(folder, name)) for name in folders}
        folders[:] = [
            name for name in folders if not (Path(folder, name).is_symlink() and _holds(inside[name], places))
        ]
        above.update({str(Path(folder, name)): (*places, inside[name]) for name in folders})
        yield folder, folders, files


def _holds(folder: str, places: tuple[str, ...]) -> bool:
    """Whether one of the places is the folder or lies in it."""
    return any((place + os.sep).startswith(folder.rstrip(os.sep) + os.sep) for place in places)
