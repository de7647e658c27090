"""Hugging Face on disk: model folders of transformers, and data sets saved by datasets. Nothing is downloaded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ltpost.errors import DataError, UsageError
from ltpost.extract.checkpoints import sha256_of_file
from ltpost.extract.preprocess import Preprocess
from ltpost.extract.source import Source, Unreadable

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers


def is_model_folder(path: Path) -> bool:
    """Whether ``save_pretrained`` wrote it."""
    return (path / "config.json").is_file()


def open_model_folder(folder: Path) -> tuple[str, nn.Module, Preprocess, str]:
    """Name of the architecture, the model, its evaluation transform, and the sha256 of its weights.

    Raises:
        UsageError: transformers is not installed.
        DataError: it is not an image classifier.
    """
    try:
        from transformers import AutoModelForImageClassification
    except ImportError:
        raise UsageError(
            f"{folder}: a model folder of Hugging Face needs transformers; install it with: pip install transformers"
        ) from None
    try:
        model = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(f"{folder}: is not an image classifier that transformers can load ({_first(error)})") from None
    weights = next((file for name in ("*.safetensors", "*.bin") for file in sorted(folder.glob(name))), None)
    sha256 = "" if weights is None else sha256_of_file(weights)
    return type(model).__name__, model, _preprocess(folder), sha256


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _preprocess(folder: Path) -> Preprocess:
    """From preprocessor_config.json, as transformers' image processors read it."""
    file = folder / "preprocessor_config.json"
    config: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    size = config.get("size") or {}
    size = {"shortest_edge": size} if isinstance(size, int) else size
    edge, height, width = (size.get(key) for key in ("shortest_edge", "height", "width"))
    crop = config.get("crop_size") if config.get("do_center_crop") else None
    crop = crop.get("height") if isinstance(crop, dict) else crop
    normalised = config.get("do_normalize", bool(config.get("image_mean")))
    if height != width:
        raise DataError(f"{file}: input {height} x {width} is not supported; only square ones are")
    if edge and "crop_pct" in config and edge < 384:  # ConvNeXt's and ResNet's: resize by crop_pct, then crop
        crop, edge = edge, int(edge / (config["crop_pct"] or 224 / 256))
    return Preprocess(
        resize=edge or height,
        crop=crop if crop or not height else height,
        squash=bool(height),
        interpolation=_RESAMPLING[config.get("resample", 2)],
        mean=tuple(config["image_mean"]) if normalised and config.get("image_mean") else (0.0,),
        std=tuple(config["image_std"]) if normalised and config.get("image_std") else (1.0,),
    )


# -- data sets ---------------------------------------------------------------------------------------------------------


def dataset_in(data: Path, split: str) -> Path | None:
    """The folder that ``save_to_disk`` wrote for a split."""
    folder = data / split
    return folder if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file() else None


@dataclass
class DatasetImages:
    """Images of a data set on disk; opened anew in each process."""

    folder: Path
    column: str
    dear: bool = True
    _opened: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def read(self, samples: slice) -> Iterator[Any]:
        """See :class:`ltpost.extract.source.Images`."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), _load(self.folder)
        rows = self._opened[1]
        for sample in range(*samples.indices(len(rows))):
            try:
                yield rows[sample][self.column].convert("RGB")
            except (OSError, ValueError, SyntaxError, AttributeError) as error:
                yield Unreadable(_first(error))

    def close(self) -> None:
        """Let go of the tables."""
        self._opened = None


def _load(folder: Path) -> Any:
    try:
        from datasets import load_from_disk
    except ImportError:
        raise UsageError(
            f"{folder}: a data set of Hugging Face needs datasets; install it with: pip install datasets"
        ) from None
    try:
        return load_from_disk(str(folder))
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{folder}: is not a data set that datasets can load ({_first(error)})") from None


def open_dataset(folder: Path, split: str) -> Source:
    """A split with a column of images and one called ``label`` or ``labels``."""
    rows = _load(folder)
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
        None if train is None else _labels(_load(train), label, train),
        str(train),
    )


def _labels(rows: Any, column: str, folder: Path) -> NDArray[np.int64]:
    labels = np.asarray(rows[column])
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{folder}: column '{column}' must hold whole numbers, but holds {labels.dtype}")
    return labels.astype(np.int64)
