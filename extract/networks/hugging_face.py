"""Model folders of transformers on disk. Nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from ltpost.errors import DataError, UsageError
from ltpost.extract.checkpoints.container import sha256_of_file
from ltpost.extract.messages import reading, some
from ltpost.extract.networks.models import check_finite
from ltpost.extract.pixels.preprocess import Preprocess

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers


def is_model_folder(path: Path) -> bool:
    """Whether ``save_pretrained`` wrote this folder."""
    return (path / "config.json").is_file()


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a model folder, sorted.

    Raises:
        DataError: it is no model folder, or holds none.
    """
    files = next((found for pattern in ("*.safetensors", "*.bin") if (found := sorted(folder.glob(pattern)))), [])
    if not is_model_folder(folder) or not files:
        raise DataError(
            f"{folder}: must be a checkpoint file, or a model folder of transformers with config.json and "
            "*.safetensors or *.bin"
        )
    return files


def open_model_folder(folder: Path) -> tuple[str, nn.Module, Preprocess, str]:
    """The name of the architecture, the model, its evaluation transform, and the sha256 of its weights.

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
    with reading(folder, "an image classifier of transformers"):
        model, found = AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    if missing := sorted(map(str, found["missing_keys"])):
        raise DataError(
            f"{folder}: must hold all weights of an image classifier, but has none for {some(missing)}, which "
            "transformers would fill with random numbers"
        )
    check_finite(model, folder)
    weights = next((file for name in ("*.safetensors", "*.bin") for file in sorted(folder.glob(name))), None)
    sha256 = "" if weights is None else sha256_of_file(weights)
    return type(model).__name__, model, _preprocess(folder), sha256


def _preprocess(folder: Path) -> Preprocess:
    """The transform in preprocessor_config.json, as transformers' image processors read it."""
    file = folder / "preprocessor_config.json"
    try:
        return _read_settings(file)
    except UsageError as error:  # it names an argument, which has come from the file
        raise DataError(f"{file}: {error}") from None


def _read_settings(file: Path) -> Preprocess:
    with reading(file, "the settings of an image processor"):
        return _from_config(file, json.loads(file.read_text()) if file.is_file() else {})


def _from_config(file: Path, config: dict[str, Any]) -> Preprocess:
    size = config.get("size") or {}
    size = {"shortest_edge": size} if isinstance(size, int) else size
    edge, height, width = (size.get(key) for key in ("shortest_edge", "height", "width"))
    crop = config.get("crop_size") if config.get("do_center_crop") else None
    crop = crop.get("height") if isinstance(crop, dict) else crop
    scale = 255 * config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 255.0
    offset = 1.0 if config.get("rescale_offset") else 0.0
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
        mean=tuple((value + offset) / scale for value in (normalised and config.get("image_mean")) or (0.0,)),
        std=tuple(value / scale for value in (normalised and config.get("image_std")) or (1.0,)),
        channels="bgr" if config.get("do_flip_channel_order") else "rgb",
    )
