"""Model folders of transformers on disk, for images, texts and sounds. Nothing is downloaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ltpost.errors import DataError, LtpostError, UsageError, first_line
from ltpost.extract.checkpoints.container import sha256_of_file
from ltpost.extract.data.class_names import in_order
from ltpost.extract.messages import need, reading, some
from ltpost.extract.networks.collating import Sounds, Tokens, tokens_of
from ltpost.extract.networks.models import check_finite
from ltpost.extract.pixels.preprocess import Preprocess

#: what is classified, to the table of transformers that has its models, and the class that loads them
KINDS = {
    "image": ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES", "AutoModelForImageClassification"),
    "audio": ("MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES", "AutoModelForAudioClassification"),
    "text": ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "AutoModelForSequenceClassification"),
}
_A = {"image": "an image", "audio": "an audio", "text": "a text"}
Prepare = Preprocess | Tokens | Sounds

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers


def is_model_folder(path: Path) -> bool:
    """Whether ``save_pretrained`` wrote this folder."""
    return (path / "config.json").is_file()


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a model folder, sorted.

    Raises:
        DataError: it is no model folder, or holds none.
    """
    files = _weights(folder)
    if not is_model_folder(folder) or not files:
        raise DataError(
            f"{folder}: must be a checkpoint file, or a model folder of transformers with config.json and "
            "*.safetensors or *.bin"
        )
    return files


def _weights(folder: Path) -> list[Path]:
    """The files of weights in a folder, sorted; those of safetensors where there are both kinds."""
    return next(
        (
            files
            for pattern in ("*.safetensors", "*.bin")
            if (files := sorted(file for file in folder.glob(pattern) if file.is_file()))
        ),
        [],
    )


def kind_of(folder: Path) -> str:
    """What a model folder classifies: "image", "text" or "audio", by the name of its class or else of its family.

    Raises:
        UsageError: transformers is not installed.
        DataError: it classifies none of these.
    """
    tables = {
        kind: getattr(_transformers(folder).models.auto.modeling_auto, table) for kind, (table, _) in KINDS.items()
    }
    with reading(folder / "config.json", "the configuration of a model"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architectures = [str(name) for name in config.get("architectures") or []]
        family = str(config.get("model_type") or "")
    for kind, table in tables.items():
        if any(name in np.hstack(list(table.values())) for name in architectures):
            return kind
    kinds = [kind for kind, table in tables.items() if family in table and not architectures]
    if len(kinds) == 1:
        return kinds[0]
    raise DataError(
        f"{folder}: must be a model that classifies images, texts or sounds (…ForSequenceClassification, …), but is "
        f"{', '.join(architectures) or family or 'of no known architecture'}"
    )


def open_model_folder(folder: Path, max_length: float | None = None) -> tuple[str, nn.Module, Prepare, str]:
    """Name of the architecture, the model, how its inputs are prepared, and the sha256 of its weights.

    Raises:
        UsageError: transformers is not installed.
        DataError: it is not a classifier, or lacks what prepares its inputs.
    """
    kind = kind_of(folder)
    transformers, how = _transformers(folder), {"local_files_only": True, "trust_remote_code": False}
    try:
        transformers.utils.logging.disable_progress_bar()
        with reading(folder, f"{_A[kind]} classifier of transformers"):
            model, found = getattr(transformers, KINDS[kind][1]).from_pretrained(
                folder, **how, output_loading_info=True
            )
    finally:
        transformers.utils.logging.enable_progress_bar()
    if missing := sorted(map(str, found["missing_keys"])):
        raise DataError(
            f"{folder}: must hold all weights of {_A[kind]} classifier, but has none for {some(missing)}, which "
            "transformers would fill with random numbers"
        )
    check_finite(model, folder)
    prepare: Prepare
    try:
        if kind == "text":
            longest = None if max_length is None else int(max_length)
            prepare = tokens_of(transformers.AutoTokenizer.from_pretrained(folder, **how), model, longest, folder)
        elif kind == "audio":
            prepare = Sounds(transformers.AutoFeatureExtractor.from_pretrained(folder, **how), seconds=max_length)
        else:
            prepare = _preprocess(folder)
    except LtpostError:
        raise
    except Exception as error:  # noqa: BLE001,RUF100
        what = {"text": "tokenizer", "audio": "feature extractor", "image": "image processor"}[kind]
        raise DataError(
            f"{folder}: must hold the {what} of the model, but it cannot be loaded ({first_line(error)})"
        ) from None
    files = _weights(folder)
    sha256 = sha256_of_file(files[0]) if files else ""
    return type(model).__name__, model, prepare, sha256


def names_of(model: nn.Module) -> list[str] | None:
    """The class names in the configuration of a model; None where it only numbers them."""
    names = in_order(getattr(getattr(model, "config", None), "id2label", None))
    return None if names is None or all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def _transformers(folder: Path) -> Any:
    try:
        import transformers
        import transformers.models.auto.modeling_auto
    except ImportError:
        raise need("transformers", f"{folder}: a model folder of Hugging Face", "transformers") from None
    return transformers


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
