"""Images, or cached features, to the classes that a network with a head answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ltpost.data.features import FeatureSet
from ltpost.data.folder import FeatureFolder
from ltpost.data.load import load
from ltpost.errors import DataError, UsageError
from ltpost.extract.data.batches import Arguments
from ltpost.extract.data.image_files import IMAGE_SUFFIXES, ImageFiles, image_files, walk
from ltpost.extract.data.source import Unreadable, storable
from ltpost.extract.export.with_head import averaged_variants, mean_of_pairs, stored_taps, taps_of
from ltpost.extract.messages import reading, tell
from ltpost.extract.networks.backbone import Backbone, choose_device
from ltpost.extract.networks.hugging_face import names_of
from ltpost.extract.networks.opening import open_network
from ltpost.extract.networks.taps import Taps
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.heads import Head, load_head
from ltpost.heads.arrays import ArrayRows
from ltpost.predictions import Predictions, most_probable, predict_rows

FEATURE_SUFFIXES = (".h5", ".hdf5")


def predict(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    head: Head | str | os.PathLike[str] | None = None,
    ckpt: Any = None,
    *,
    features: str | os.PathLike[str] | None = "features",
    top: int = 5,
    arch: str | None = None,
    head_key: str | None = None,
    expert: str | None = None,
    root: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    device: str = "auto",
) -> Predictions:
    """The most probable classes of images or of the rows of a feature file. No labels are needed or looked at.

    Args:
        source: a folder of images, with or without folders in it; an image; a text file with a path a line, relative to
            ``root``; a list of such paths; or a feature file (.h5).
        head: a head, or the file of one; None takes the network's own classifier, or the joint one of a feature file.
        ckpt: the network that gives the features of images; not used for a feature file.
        features: a feature file, or a folder of them, that says how images were prepared, and the names of the classes;
            None, or the default where there is none, takes what the architecture asks for.
        top: how many classes for each row.
        arch: see :func:`ltpost.extract.extract_features`.
        head_key: see there.
        expert: see there.
        root: where the paths of a list start; default the folder of the list.
        batch_size: images at a time.
        device: "auto", "cpu", "cuda", …

    Raises:
        UsageError: an argument cannot be used.
        DataError: a file is not as it has to be, or the head was made for other features.
    """
    if top < 1 or batch_size < 1:
        raise UsageError(f"top= and batch_size= must be at least 1, but are {top} and {batch_size}")
    chosen = load_head(head) if isinstance(head, str | os.PathLike) else head
    if isinstance(source, str | os.PathLike) and Path(source).suffix in FEATURE_SUFFIXES:
        rows = _of_folder(Path(source))
        return predict_rows(rows.joint if chosen is None else chosen, rows, top=top)
    images, names = _images(source, root)
    if ckpt is None:
        raise UsageError("ckpt= is needed: the network that gives the features of images")
    known = _known(features)
    attrs = {} if known is None else known.attrs
    network = open_network(ckpt, arch, head_key, expert=expert, weights=attrs.get("weights"))
    _check_origin(chosen, network.attrs, known)
    stored = Preprocess.from_json(json.loads(attrs["transform"])) if "transform" in attrs else None
    preprocess = network.preprocess if stored is None else stored
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
    tell(f"{network.arch}, classifier '{backbone.head_key}'; {preprocess}")
    errors: dict[int, str] = {}

    def blocks() -> Iterator[Any]:
        for start in tqdm(range(0, len(names), batch_size), desc="predict", unit="batch", disable=None):
            pixels = []
            for number, image in enumerate(images.read(slice(start, start + batch_size)), start):
                if isinstance(image, Unreadable):
                    errors[number] = image.reason
                else:
                    pixels.append(preprocess.cut(image))
            for same in _of_one_size(pixels):
                batch = preprocess.normalise(torch.from_numpy(same).to(backbone.device))
                shown_images = torch.cat([batch, batch.flip(3)]) if flipped else batch
                outputs = backbone.outputs(Arguments.of(shown_images))
                tensors = {"features": outputs.features, "logits": outputs.logits}
                tensors.update({name: outputs.layers[tap.name] for name, tap in taps.items()})
                if flipped:
                    tensors = {name: mean_of_pairs(both, len(batch)) for name, both in tensors.items()}
                arrays = {name: part.cpu().numpy() for name, part in tensors.items()}
                shown = ArrayRows(
                    arrays.pop("features"), arrays.pop("logits"), num_classes=used.num_classes, layers=arrays,
                    head=None if network.gated else backbone.head,
                )  # fmt: skip
                yield used.reader(shown)(slice(0, len(batch)))

    every = list(blocks())
    class_names = None if known is None else known.class_names
    if class_names is None:
        class_names = names_of_model(network.model, used.num_classes)
    for number, reason in errors.items():
        tell(f"warning: {names[number]}: {reason}")
    return most_probable(every, used, names, top=top, class_names=class_names, errors=errors)


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


def _images(source: Any, root: str | os.PathLike[str] | None) -> tuple[ImageFiles, list[str]]:
    """Image files, and their names."""
    if not isinstance(source, str | os.PathLike):
        paths, start = [str(path) for path in source], Path(root or "")
    else:
        place = Path(source)
        if place.is_dir():
            start = place
            paths = sorted(
                str(Path(folder, file).relative_to(place))
                for folder, _, files in walk(place)
                for file in files
                if Path(file).suffix.lower() in IMAGE_SUFFIXES and not file.startswith("._")
            )
        elif place.suffix.lower() in IMAGE_SUFFIXES:
            paths, start = [str(place)], Path()
        elif place.is_file():
            with reading(place, "a list of images"):
                paths = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
            start = place.parent if root is None else Path(root)
        else:
            raise UsageError(f"source={place}: no such folder, image, list of images or feature file")
    if not paths:
        raise DataError(f"{source or Path()}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return image_files(start, paths), [storable(path) for path in paths]


def _of_one_size(pixels: list[Any]) -> Iterator[Any]:
    """Consecutive images of equal shape, stacked."""
    start = 0
    for stop in range(1, len(pixels) + 1):
        if stop == len(pixels) or pixels[stop].shape != pixels[start].shape:
            yield np.stack(pixels[start:stop])
            start = stop
