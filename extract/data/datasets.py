"""Data sets that the package datasets of Hugging Face has saved to disk. Nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError, first_line
from ltpost.extract.data.source import Source, Unreadable, as_labels
from ltpost.extract.messages import need


def dataset_in(data: Path, split: str) -> Path | None:
    """The folder that ``save_to_disk`` wrote for a split."""
    folder = data / split
    return folder if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file() else None


@dataclass
class DatasetImages:
    """Images of a data set on disk. Each process opens it for itself."""

    folder: Path
    column: str
    slow: bool = True
    _opened: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def read(self, samples: slice) -> Iterator[Any]:
        """See :class:`ltpost.extract.data.source.Images`."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), load_dataset_folder(self.folder)
        rows = self._opened[1]
        for sample in range(*samples.indices(len(rows))):
            try:
                yield rows[sample][self.column].convert("RGB")
            except (OSError, ValueError, SyntaxError, AttributeError) as error:
                yield Unreadable(first_line(error))

    def close(self) -> None:
        """Drop the opened tables."""
        self._opened = None

    def state(self) -> str:
        """The fingerprint of the rows covers the pixels."""
        return ""


def load_dataset_folder(folder: Path) -> Any:
    """What ``save_to_disk`` wrote.

    Raises:
        UsageError: the package datasets is not installed.
        DataError: it cannot be loaded.
    """
    try:
        from datasets import load_from_disk
    except ImportError:
        raise need("datasets", f"{folder}: a data set of Hugging Face", "transformers") from None
    try:
        return load_from_disk(str(folder))
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{folder}: is not a data set that datasets can load ({first_line(error)})") from None


def open_dataset(folder: Path, split: str) -> Source:
    """A split with a column of images and one called ``label`` or ``labels``."""
    rows = load_dataset_folder(folder)
    kinds = {name: type(feature).__name__ for name, feature in rows.features.items()}
    image = next((name for name, kind in kinds.items() if kind == "Image"), None)
    label = next((name for name in ("label", "labels", "fine_label") if name in kinds), None)
    if image is None or label is None:
        raise DataError(f"{folder}: must have a column of images and a column 'label', but has {kinds}")
    names = getattr(rows.features[label], "names", None)
    train = folder if split == "train" else dataset_in(folder.parent, "train")
    return Source(
        str(folder),
        _labels(rows, label, folder),
        DatasetImages(folder, image),
        str(rows._fingerprint),
        None,
        names,
        None if train is None else _labels(load_dataset_folder(train), label, train),
        str(train),
    )


def _labels(rows: Any, column: str, folder: Path) -> NDArray[np.int64]:
    return as_labels(f"{folder}: column '{column}'", rows[column])
