"""Images, texts, sounds, or cached features to the classes that a network with a head answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ltpost.data.features import FeatureSet
from ltpost.data.folder import FeatureFolder
from ltpost.data.load import load
from ltpost.errors import DataError, UsageError
from ltpost.extract.data.batches import Arguments
from ltpost.extract.export.with_head import averaged_variants, mean_of_pairs, stored_taps, taps_of
from ltpost.extract.messages import tell
from ltpost.extract.networks.backbone import Backbone, choose_device
from ltpost.extract.networks.hugging_face import names_of
from ltpost.extract.networks.opening import open_network
from ltpost.extract.networks.taps import Taps
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.extract.run.extraction import takes_columns
from ltpost.extract.unlabelled import Images, Source, Values, images_of, values_of
from ltpost.heads import Head, load_head
from ltpost.heads.arrays import ArrayRows
from ltpost.predictions import Predictions, most_probable, predict_rows

FEATURE_SUFFIXES = (".h5", ".hdf5")


def predict(
    source: Source,
    head: Head | str | os.PathLike[str] | None = None,
    ckpt: Any = None,
    *,
    features: str | os.PathLike[str] | None = "features",
    top: int = 5,
    arch: str | None = None,
    head_key: str | None = None,
    expert: str | None = None,
    root: str | os.PathLike[str] | None = None,
    column: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
) -> Predictions:
    """The most probable classes of images, texts, sounds, or rows of a feature file. No labels are needed or looked at.

    Args:
        source: a folder of images, with or without folders in it; an image; a text file with a path a line, relative to
            ``root``; a list of such paths; or a feature file (.h5). For a model folder of transformers that takes texts
            or sounds: a table (.csv, .parquet), a text file with a text or a path a line, or a list of texts or paths.
        head: a head, or the file of one; None takes the network's own classifier, or the joint one of a feature file.
        ckpt: the network that gives the features; not used for a feature file.
        features: a feature file, or a folder of them, that says how images were prepared, and the names of the classes;
            None, or the default where there is none, takes what the architecture asks for.
        top: how many classes for each row.
        arch: see :func:`ltpost.extract.extract_features`.
        head_key: see there.
        expert: see there.
        root: where the paths of a list start; default the folder of the list.
        column: of a table, that holds the texts or sounds, or two with a comma between; None finds it.
        batch_size: rows at a time.
        device: "auto", "cpu", "cuda", …

    Raises:
        UsageError: an argument cannot be used.
        DataError: a file is not as it has to be, or the head was made for other features.
    """
    if top < 1 or batch_size < 1:
        raise UsageError(f"top= and batch_size= must be at least 1, but are {top} and {batch_size}")
    chosen = load_head(head) if isinstance(head, str | os.PathLike) else head
    if isinstance(source, str | os.PathLike) and Path(source).suffix in FEATURE_SUFFIXES:
        stored_rows = _of_folder(Path(source))
        return predict_rows(stored_rows.joint if chosen is None else chosen, stored_rows, top=top)
    if ckpt is None:
        raise UsageError("ckpt= is needed: the network that gives the features of what is no feature file")
    known = _known(features)
    attrs = {} if known is None else known.attrs
    of_values = takes_columns(ckpt)
    if column is not None and not of_values:
        raise UsageError("column= is for models that take texts or sounds; this one takes images")
    found = None if of_values else images_of(source, root, Preprocess())  # before a network is opened
    network = open_network(ckpt, arch, head_key, expert=expert, weights=attrs.get("weights"))
    _check_origin(chosen, network.attrs, known)
    rows: Images | Values
    if found is None:
        assert network.collate is not None
        rows = values_of(source, root, column, network.collate)
    else:
        stored = Preprocess.from_json(json.loads(attrs["transform"])) if "transform" in attrs else None
        rows = replace(found, preprocess=network.preprocess if stored is None else stored)
    backbone = Backbone(network.model, network.head_key, device=choose_device(device), gated=network.gated)
    used: Head = backbone.head if chosen is None else chosen
    taps = taps_of(used, stored_taps(known))
    backbone.taps = Taps(network.model, list(dict.fromkeys(taps.values())))
    flipped = averaged_variants(used, attrs) == "flip"
    width = None if taps else getattr(used, "num_features", None)
    if used.num_classes != backbone.head.num_classes or width not in (None, backbone.head.num_features):
        raise DataError(
            f"{ckpt}: gives {backbone.head.num_features} features for {backbone.head.num_classes} classes, but the "
            f"head takes {width or 'features'} for {used.num_classes}; it was made for another network"
        )
    tell(f"{network.arch}, classifier '{backbone.head_key}'; {rows}")
    errors: dict[int, str] = {}

    def blocks() -> Iterator[Any]:
        for start in tqdm(range(0, len(rows.names), batch_size), desc="predict", unit="batch", disable=None):
            some = range(start, min(start + batch_size, len(rows.names)))
            for inputs in rows.batches(some, backbone.device, errors):
                shown_inputs = inputs
                if flipped:
                    shown_inputs = Arguments.of(torch.cat([inputs.args[0], inputs.args[0].flip(3)]))
                outputs = backbone.outputs(shown_inputs)
                tensors = {"features": outputs.features, "logits": outputs.logits}
                tensors.update({name: outputs.layers[tap.name] for name, tap in taps.items()})
                if flipped:
                    tensors = {name: mean_of_pairs(both, inputs.rows) for name, both in tensors.items()}
                arrays = {name: part.cpu().numpy() for name, part in tensors.items()}
                shown = ArrayRows(
                    arrays.pop("features"), arrays.pop("logits"), num_classes=used.num_classes, layers=arrays,
                    head=None if network.gated else backbone.head,
                )  # fmt: skip
                yield used.reader(shown)(slice(0, inputs.rows))

    every = list(blocks())
    class_names = None if known is None else known.class_names
    if class_names is None:
        class_names = names_of_model(network.model, used.num_classes)
    for number, reason in errors.items():
        tell(f"warning: {rows.names[number]}: {reason}")
    return most_probable(every, used, rows.names, top=top, class_names=class_names, errors=errors)


def names_of_model(model: Any, num_classes: int) -> list[str] | None:
    """The class names that a model of transformers carries, or None."""
    names = names_of(model)
    return names if names is not None and len(names) == num_classes else None


def _of_folder(file: Path) -> FeatureSet:
    """A feature file, with the head, counts and names that the files beside it know."""
    if file.is_file() and file.suffix == ".h5":
        return FeatureFolder(file.parent)[file.stem]
    return load(file)


def _known(features: str | os.PathLike[str] | None) -> FeatureSet | None:
    """A feature file that knows the transform and the names, if there is one."""
    if features is None:
        return None
    path = Path(features)
    if path.is_file():
        return _of_folder(path)
    if path.is_dir():
        folder = FeatureFolder(path)
        return folder[next((split for split in ("val", "test", "train") if split in folder), folder.splits()[0])]
    if path != Path("features"):
        raise UsageError(f"features={path}: no such file or folder")
    return None


def _check_origin(head: Head | None, attrs: dict[str, Any], known: FeatureSet | None) -> None:
    """Raise DataError where the head was made on features of another checkpoint."""
    if head is None:
        return
    parts = dict(part.partition(":")[::2] for part in str(head.info.get("signature", "")).split("|"))
    sha = str(attrs.get("checkpoint_sha256", ""))
    if parts.get("ckpt") and sha and not sha.startswith(parts["ckpt"]):
        raise DataError(
            f"{attrs.get('checkpoint', 'ckpt=')}: is not the checkpoint that the head was made for (sha256 {sha[:8]}, "
            f"not {parts['ckpt']}); name that one with ckpt="
        )
