"""Images as they lie on disk to rows: pixels, labels, names, and the training samples per class.

``SOURCES`` is the table of data forms. Each finds the rows of one split and, for the class counts, the labels of the
train split beside it. Rows keep the order of the list, file or sorted folder tree.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError, UsageError
from ltpost.extract.preprocess import Preprocess, need

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"))


class Images(Protocol):
    """Pixels of the rows of a split, read when asked for; goes to worker processes."""

    #: whether reading is dear enough for worker processes
    dear: bool

    def read(self, rows: slice, preprocess: Preprocess) -> tuple[list[NDArray[np.uint8]], dict[int, str]]:
        """The uint8 pixels (h, w, channels) of the rows, and why some of them (by position) could not be read."""

    def close(self) -> None:
        """Close what reading has opened in this process."""


@dataclass(frozen=True)
class Source:
    """One split of images.

    Args:
        name: where it came from, for messages and provenance.
        labels: (N,) int64.
        images: the pixels.
        fingerprint: sha256 of what identifies the rows and their order.
        paths: N names of the rows, or None.
        class_names: C names, or None.
        train_labels: the labels of the train split, or None where there is none.
        train_name: where those came from.
    """

    name: str
    labels: NDArray[np.int64]
    images: Images
    fingerprint: str
    paths: list[str] | None = None
    class_names: list[str] | None = None
    train_labels: NDArray[np.int64] | None = None
    train_name: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def class_counts(self, num_classes: int) -> NDArray[np.int64] | None:
        """(C,) training samples per class, or None where the train split is not known."""
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


# -- image files -------------------------------------------------------------------------------------------------------


@dataclass
class ImageFiles:
    """Image files under a root folder."""

    root: Path
    paths: Sequence[str]
    dear: bool = True

    def read(self, rows: slice, preprocess: Preprocess) -> tuple[list[NDArray[np.uint8]], dict[int, str]]:
        """See :class:`Images`; a file that cannot be read gives an empty array."""
        from PIL import Image

        pixels, bad = [], {}
        for position, path in enumerate(self.paths[rows]):
            try:
                with Image.open(self.root / path) as image:
                    pixels.append(preprocess.cut(image.convert("RGB")))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                pixels.append(np.empty((0, 0, 3), np.uint8))
                bad[position] = str(error) or type(error).__name__
        return pixels, bad

    def close(self) -> None:
        """Nothing stays open."""


def _image_files(root: Path, paths: Sequence[str]) -> ImageFiles:
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise need("pillow", "reading image files") from None
    return ImageFiles(root, paths)


# -- folder tree -------------------------------------------------------------------------------------------------------


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def _tree(data: Path, split: str) -> Source:
    """``ROOT/<split>/<class>/…``: classes are numbered by the sorted names of the train folder, like ImageFolder."""
    train = _folders(data / "train")
    names = train or _folders(data / split)
    if not names:
        raise DataError(f"{data / split}: must hold one folder per class, but holds none")
    unknown = sorted(set(_folders(data / split)) - set(names))
    if unknown:
        raise DataError(f"{data / split}: has class folder '{unknown[0]}', which {data / 'train'} has not")
    paths, labels = _tree_rows(data, split, names)
    if not paths:
        raise DataError(f"{data / split}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    train_labels = labels if split == "train" else _tree_rows(data, "train", names)[1] if train else None
    return Source(
        str(data / split),
        labels,
        _image_files(data, paths),
        _sha256_of_rows(paths, labels),
        paths,
        names,
        train_labels,
        str(data / "train"),
    )


def _tree_rows(data: Path, split: str, names: list[str]) -> tuple[list[str], NDArray[np.int64]]:
    paths, labels = [], []
    for label, name in enumerate(names):
        for folder, _, files in sorted(os.walk(data / split / name, followlinks=True)):
            inside = [str(Path(folder, file).relative_to(data)) for file in sorted(files) if _is_image(file)]
            paths += inside
            labels += [label] * len(inside)
    return paths, np.array(labels, dtype=np.int64)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("._")  # noqa: PTH122 - speed


# -- list files --------------------------------------------------------------------------------------------------------


def _list_in(data: Path, split: str) -> Path | None:
    """``<split>.txt`` or the one ``*_<split>.txt`` in a folder."""
    if (data / f"{split}.txt").is_file():
        return data / f"{split}.txt"
    found = sorted(data.glob(f"*_{split}.txt")) if data.is_dir() else []
    if len(found) > 1:
        raise UsageError(f"{data}: has several lists for '{split}' ({', '.join(p.name for p in found)}); use --list")
    return found[0] if found else None


def read_list(file: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Lines ``path label``; the label is the last word, so that paths may hold spaces."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as a list of images ({error})") from None
    paths, labels = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        words = line.rsplit(None, 1)
        if len(words) != 2 or not words[1].lstrip("-").isdigit():
            raise DataError(f"{file}:{number}: must be 'path label' with a whole number at the end, but is '{line}'")
        paths.append(words[0].strip())
        labels.append(int(words[1]))
    if not paths:
        raise DataError(f"{file}: holds no lines 'path label'")
    return paths, np.array(labels, dtype=np.int64)


def _list(file: Path, split: str, root: Path) -> Source:
    """A list file; the train list beside it has the same name with 'train' for the split."""
    paths, labels = read_list(file)
    if not any((root / path).is_file() for path in paths[:100]):
        raise DataError(
            f"{file}: '{paths[0]}' and the lines after it are not files under {root}; name the folder with --root"
        )
    train = file if split == "train" else _train_beside(file, split)
    train_labels = labels if train == file else read_list(train)[1] if train else None
    fingerprint = _sha256_of_rows(paths, labels)
    return Source(str(file), labels, _image_files(root, paths), fingerprint, paths, None, train_labels, str(train))


def _train_beside(file: Path, split: str) -> Path | None:
    for word in (split, "val", "test"):
        if word in file.stem:
            head, tail = file.stem.rsplit(word, 1)
            train = file.with_name(f"{head}train{tail}{file.suffix}")
            return train if train.is_file() else None
    return None


def _sha256_of_rows(paths: list[str], labels: NDArray[np.int64]) -> str:
    digest = hashlib.sha256()
    for path, label in zip(paths, labels, strict=True):
        digest.update(f"{path} {label}\n".encode())
    return digest.hexdigest()


# -- .npz --------------------------------------------------------------------------------------------------------------


@dataclass
class NpzImages:
    """A uint8 array (N, H, W, channels) or (N, H, W) inside an .npz file, read in order a batch at a time.

    The array is never in memory as a whole. The file is opened anew in each process.
    """

    file: Path
    member: str
    shape: tuple[int, ...]
    dear: bool = False
    _opened: tuple[int, zipfile.ZipFile, Any, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def read(self, rows: slice, preprocess: Preprocess) -> tuple[list[NDArray[np.uint8]], dict[int, str]]:
        """See :class:`Images`."""
        images = self[rows]
        if not preprocess.resizes:
            return list(images), {}
        try:
            from PIL import Image
        except ImportError:
            raise need("pillow", "resizing images (--img-size)") from None
        plain = images[..., 0] if images.shape[-1] == 1 else images
        return [preprocess.cut(Image.fromarray(image)) for image in plain], {}

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        if self._opened is None or self._opened[0] != os.getpid():
            archive = zipfile.ZipFile(self.file)
            stream = archive.open(f"{self.member}.npy")
            _npy_header(stream)
            self._opened = (os.getpid(), archive, stream, stream.tell())
        _, _, stream, begin = self._opened
        start, stop, _ = rows.indices(self.shape[0])
        size = int(np.prod(self.shape[1:]))
        stream.seek(begin + start * size)
        pixels = np.frombuffer(stream.read((stop - start) * size), dtype=np.uint8)
        images = pixels.reshape(stop - start, *self.shape[1:])
        return images[..., None] if images.ndim == 3 else images

    def close(self) -> None:
        """See :class:`Images`."""
        if self._opened is not None and self._opened[0] == os.getpid():
            self._opened[2].close()
            self._opened[1].close()
        self._opened = None


def _npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = reader(stream)
    return header


def _npz_keys(split: str) -> tuple[tuple[str, str], ...]:
    return (f"x_{split}", f"y_{split}"), ("images", "labels")


def _open_npz(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{file}: is not an .npz file ({error})") from None


def _npz(file: Path, split: str) -> Source:
    """``images`` and ``labels``, or ``x_<split>`` and ``y_<split>`` in one file for all splits."""
    with _open_npz(file) as archive:
        members = {name.removesuffix(".npy") for name in archive.namelist()}
        found = next((pair for pair in _npz_keys(split) if set(pair) <= members), None)
        if found is None:
            wanted = " or ".join(f"'{images}' and '{labels}'" for images, labels in _npz_keys(split))
            raise DataError(f"{file}: must hold {wanted}, but holds {', '.join(sorted(members))}")
        with archive.open(f"{found[0]}.npy") as stream:
            shape, fortran, dtype = _npy_header(stream)
        checksum = archive.getinfo(f"{found[0]}.npy").CRC
    if dtype != np.uint8 or len(shape) not in (3, 4) or fortran or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise DataError(
            f"{file}: '{found[0]}' must be uint8 (N, height, width, 3), but is {dtype} {shape}"
            f"{' in Fortran order' if fortran else ''}"
        )
    labels = _npz_labels(file, found[1])
    if len(labels) != shape[0]:
        raise DataError(f"{file}: '{found[1]}' must have {shape[0]} rows like '{found[0]}', but has {len(labels)}")
    names = _npz_array(file, "class_names") if "class_names" in members else None
    train_labels, train_name = _npz_train(file, split, found[1], members)
    return Source(
        f"{file}",
        labels,
        NpzImages(file, found[0], shape),
        hashlib.sha256(f"{checksum} {shape}".encode() + labels.tobytes()).hexdigest(),
        None,
        None if names is None else [name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()],
        train_labels,
        train_name,
    )


def _npz_train(file: Path, split: str, key: str, members: set[str]) -> tuple[NDArray[np.int64] | None, str]:
    if key == f"y_{split}":
        return (_npz_labels(file, "y_train") if "y_train" in members else None), f"{file}:y_train"
    train = file if split == "train" else _train_beside(file, split)
    return (None, "") if train is None else (_npz_labels(train, key), str(train))


def _npz_array(file: Path, key: str) -> NDArray[Any]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays[key])
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: '{key}' cannot be read ({error})") from None


def _npz_labels(file: Path, key: str) -> NDArray[np.int64]:
    labels = _npz_array(file, key)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{file}: '{key}' must be whole numbers of shape (N,), but is {labels.dtype} {labels.shape}")
    return labels.astype(np.int64)


def _npz_in(data: Path, split: str) -> Path | None:
    """An .npz file named, the ``<split>.npz`` of a folder, or the one .npz there that holds the split."""
    if data.suffix == ".npz" and data.is_file():
        return data
    if (data / f"{split}.npz").is_file():
        return data / f"{split}.npz"
    files = sorted(data.glob("*.npz")) if data.is_dir() else []
    return next((file for file in files if f"x_{split}.npy" in _open_npz(file).namelist()), None)


# -- the table ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """A form in which data lies on disk: ``find`` gives the file or folder that holds a split, ``open`` the rows."""

    name: str
    find: Callable[[Path, str], Path | None]
    open: Callable[[Path, str, Path], Source]


SOURCES: tuple[Form, ...] = (
    Form("<split>/<class>/ folders", lambda data, split: data if (data / split).is_dir() else None,
         lambda data, split, _: _tree(data, split)),
    Form("<split>.npz", _npz_in, lambda file, split, _: _npz(file, split)),
    Form("<split>.txt", _list_in, lambda file, split, data: _list(file, split, data)),
)  # fmt: skip


def open_source(
    data: str | os.PathLike[str], split: str, list_file: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Source:  # fmt: skip
    """The rows of one split.

    Args:
        data: a folder with ``<split>/<class>/…``, ``<split>.npz`` or ``<split>.txt``, or an .npz file.
        split: its name.
        list_file: a list ``path label``, relative to ``root``.
        root: the folder that the paths of a list start from; default ``data``.

    Raises:
        UsageError: nothing is there.
        DataError: what is there is not as it has to be.
    """
    folder = Path(data)
    if list_file is not None:
        return _list(Path(list_file), split, Path(root) if root is not None else folder)
    if not folder.exists():
        raise UsageError(
            f"{folder}: no such folder; put images into {folder / split}/<class>/, or name the place with --data "
            "(or LTPOST_DATA), or a list with --list"
        )
    for form in SOURCES:
        if (found := form.find(folder, split)) is not None:
            return form.open(found, split, Path(root) if root is not None else folder)
    forms = ", ".join(form.name.replace("<split>", split) for form in SOURCES)
    there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) if folder.is_dir() else folder.name
    raise UsageError(
        f"{folder}: holds no split '{split}' ({forms}); there is {there or 'nothing'}; see --split, --list"
    )


def read_class_counts(file: str | os.PathLike[str]) -> NDArray[np.int64]:
    """(C,) training samples per class, from a JSON list, a text file with one count a line, or an .npy file.

    Raises:
        DataError: it is none of these.
    """
    source = Path(file)
    try:
        if source.suffix == ".npy":
            counts = np.load(source, allow_pickle=False)
        elif source.suffix == ".json":
            counts = np.asarray(json.loads(source.read_text()))
        else:
            counts = np.asarray([json.loads(word) for word in re.split(r"[\s,]+", source.read_text().strip())])
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: cannot be read as class counts ({error})") from None
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise DataError(
            f"{source}: class counts must be whole numbers, one per class (a JSON list, one a line, or .npy), "
            f"but are {counts.dtype} of shape {counts.shape}"
        )
    return counts.astype(np.int64)
