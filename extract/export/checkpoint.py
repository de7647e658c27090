"""Writes a rebalanced head into a copy of its checkpoint, and proves it by loading the copy.

Container, keys, prefixes and dtypes stay; only the classifier's tensors are replaced. Factors of the classifier
(LWS ``scales``, MiSLAS ``learned_norm``) are set to one, as the new weight holds them.
"""

from __future__ import annotations

import copy
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltpost.data.features import FeatureSet
from ltpost.data.load import load
from ltpost.errors import DataError, UsageError
from ltpost.extract.checkpoints.checkpoint import Checkpoint, number_of_experts
from ltpost.extract.checkpoints.container import SUFFIXES as CHECKPOINT_SUFFIXES
from ltpost.extract.checkpoints.layouts import Location
from ltpost.extract.export.card import write_card
from ltpost.extract.export.formats import SUFFIXES, save, write
from ltpost.extract.export.model_folder import (
    head_key_in,
    prove_folder,
    replacing_folder,
    weights_in,
    without_origin,
)
from ltpost.extract.export.network import SUFFIXES as NETWORK_SUFFIXES
from ltpost.extract.export.network import write_network
from ltpost.extract.export.parts import parts_in
from ltpost.extract.export.proof import proof_rows, prove, prove_on_images
from ltpost.extract.messages import tell
from ltpost.heads import Head, LinearHead, load_head
from ltpost.output import replacing

FORMATS = ("checkpoint", "safetensors", "onnx", "torch-head", "torch-export")


def export_head(
    head: Head | str | os.PathLike[str],
    ckpt: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    format: str = "checkpoint",
    head_key: str | None = None,
    features: FeatureSet | str | os.PathLike[str] | None = "features",
    arch: str | None = None,
    data: str | os.PathLike[str] | None = None,
    split: str = "val",
    card: bool = False,
) -> Path:
    """Write a head for other programs.

    Args:
        head: a head, or the file of one.
        ckpt: the checkpoint that the features were extracted from, or a model folder of transformers.
        out: the file to write, or the folder; default: the checkpoint's name with the head's, ``r50-crt.pth``.
        format: "checkpoint" replaces the classifier in a copy of ``ckpt``; "safetensors" and "torch-head" hold
            ``<head_key>.weight`` and ``.bias`` alone; "onnx" the head as one Gemm, or with ``ckpt``
            the whole model with it; "torch-export" the whole model as a program of ``torch.export``. A head that is not
            one linear layer is written as "onnx" or "torch-export", with ``ckpt``: images to its scores.
        head_key: name of the classifier in the checkpoint; None takes the one that the features were extracted with.
        features: a feature file, or a folder of them, to prove the result on; without one, only the tensors are
            proved.
        arch: of the model, to run images; see :func:`ltpost.extract.extract_features`.
        data: images to run through the exported model as a further proof.
        split: of ``data``.
        card: write beside it what was done, with figures on the features: ``r50-crt.md``, or into the README.md of a
            folder.

    Returns:
        The file, or the folder.

    Raises:
        UsageError: an argument cannot be used, or it is not clear which tensor is the classifier.
        DataError: the head does not fit the checkpoint, or the written file does not reproduce its logits.
    """
    if format not in FORMATS:
        raise UsageError(f"format= must be one of {', '.join(FORMATS)}, but is '{format}'")
    name, any_head = (Path(head).stem, load_head(head)) if isinstance(head, (str, os.PathLike)) else ("head", head)
    layer, feature_set = any_head.linear(), _feature_file(features)
    if format == "torch-export" or (format == "onnx" and layer is None):
        if ckpt is None:
            raise UsageError(
                f"ckpt= is needed for {name} and format={format}, which is the whole network with its head"
            )
        target = Path(out) if out is not None else Path(f"{name}{NETWORK_SUFFIXES[format]}")
        write_network(
            any_head,
            target,
            format,
            ckpt,
            arch=arch,
            head_key=head_key,
            feature_set=feature_set,
            data=data,
            split=split,
        )
    elif layer is None:
        raise DataError(
            f"{name}: the head is not one linear layer over the features, so it cannot replace the classifier. "
            "Write the whole network with it as format=onnx or torch-export, or use ltpost.extract.WithHead in Python"
        )
    elif format != "checkpoint":
        target = Path(out) if out is not None else Path(f"{name}{SUFFIXES[format]}")
        write(layer, target, format, head_key, ckpt, arch, feature_set)
    elif ckpt is None:
        raise UsageError("ckpt= is needed: the checkpoint whose classifier is to be replaced")
    else:
        source = Path(ckpt)
        target = Path(out) if out is not None else named_after(source, name)
        into = _into_folder if source.is_dir() else _into_file
        proofs = into(source, target, layer, head_key, feature_set, arch, data, split)
        tell(f"{target}: loaded again, it gives the head's logits ({', '.join(proofs)})")
    if card:
        tell(f"{write_card(any_head, name, target, ckpt, features)}: says what was done")
    return target


def named_after(source: Path, name: str) -> Path:
    """The name of a checkpoint with that of a head before its endings.

    >>> named_after(Path("runs/r32.pth.tar"), "tnorm").name, named_after(Path("vit-base.v2/"), "crt").name
    ('r32-tnorm.pth.tar', 'vit-base.v2-crt')
    """
    ending, stem = "", source.name
    while (suffix := Path(stem).suffix) in CHECKPOINT_SUFFIXES:
        ending, stem = suffix + ending, stem.removesuffix(suffix)
    return source.with_name(f"{stem}-{name}{ending}")


def _into_file(
    source: Path,
    target: Path,
    head: LinearHead,
    head_key: str | None,
    feature_set: FeatureSet | None,
    arch: str | None,
    data: str | os.PathLike[str] | None,
    split: str,
) -> list[str]:
    """Write a copy of a checkpoint file with the head in it; returns what it was proven on."""
    if target.exists() and target.samefile(source):
        raise UsageError(f"out={target}: is the checkpoint itself; choose another name")
    _warn_of_one_expert(source, feature_set)
    proof = proof_rows(feature_set, head)
    parts = parts_in(source, head, head_key, feature_set)
    container = parts[0].checkpoint.container
    for part in parts:
        container = _replaced(replace(part.checkpoint, container=container), part.key, part.head)
    with replacing(target, "out=", keep_ending=True) as partial:
        save(container, partial, metadata=_metadata(source), zipped=zipfile.is_zipfile(source))
        for part in parts:
            prove(part, partial, {other.key for other in parts}, proof)
        if data is not None:
            prove_on_images(partial, parts, head, arch, feature_set, data, split)
    proofs = ["its tensors" if feature_set is None or proof is None else f"{len(proof)} rows of {feature_set.name}"]
    return proofs if data is None else [*proofs, f"images of {data}"]


def _into_folder(
    source: Path,
    target: Path,
    head: LinearHead,
    head_key: str | None,
    feature_set: FeatureSet | None,
    arch: str | None,
    data: str | os.PathLike[str] | None,
    split: str,
) -> list[str]:
    """The same for a model folder of transformers, of which all other files stay as they are."""
    key, known_features = head_key_in(feature_set, head_key), without_origin(feature_set, source)
    weights = weights_in(source, key)
    with replacing_folder(source, target) as place:
        proofs = _into_file(weights, place / weights.name, head, head_key, known_features, arch, None, split)
        prove_folder(place, head, proof_rows(feature_set, head), key)
        if data is not None:
            parts = parts_in(place / weights.name, head, head_key, known_features)
            prove_on_images(place, parts, head, arch, known_features, data, split)
    return [*proofs, "by transformers"] if data is None else [*proofs, "by transformers", f"images of {data}"]


# -- which tensors -----------------------------------------------------------------------------------------------------


def _warn_of_one_expert(source: Path, feature_set: FeatureSet | None) -> None:
    expert = None if feature_set is None else feature_set.attrs.get("expert")
    if expert is None or expert == "all":
        return
    experts = number_of_experts(source)
    if len(experts) > 1:
        tell(
            f"warning: only expert {expert} of {source} gets the head, but the official forward pass averages the "
            f"logits of all {len(experts)} experts, so the file classifies otherwise than this head; extract with "
            "--expert all for a head over all experts"
        )


def _feature_file(features: Any) -> FeatureSet | None:
    if features is None or isinstance(features, FeatureSet):
        return features
    path = Path(features)
    if not path.exists() and path != Path("features"):
        raise UsageError(f"features={path}: no such file or folder")
    if path.is_dir():
        path = next(
            (path / f"{split}.h5" for split in ("val", "test", "train") if (path / f"{split}.h5").is_file()), path
        )
    return load(path) if path.is_file() else None


# -- writing -----------------------------------------------------------------------------------------------------------


def _replaced(checkpoint: Checkpoint, key: str, head: LinearHead) -> Any:
    """The container with the head in it; the other tensors are the same objects."""
    weight, bias = torch.from_numpy(head.weight), None if head.bias is None else torch.from_numpy(head.bias)
    new: dict[Location, Tensor] = {}
    if checkpoint.normed == key:
        norms = weight.norm(dim=1)
        if bias is not None or float(norms.max() - norms.min()) > 1e-3 * float(norms.max()):
            raise DataError(
                f"{checkpoint.path}: '{key}' is a normalised classifier that keeps directions only, so norms and a "
                "bias cannot be written into it; write the head alone with format=safetensors"
            )
        weight = weight.T
    elif bias is not None and f"{key}.bias" not in checkpoint.state:
        raise DataError(
            f"{checkpoint.path}: '{key}' has no bias, but the head has one; write the head alone with format= "
            "safetensors, or make it without a bias"
        )
    elif f"{key}.bias" in checkpoint.state:
        bias = torch.zeros(head.num_classes) if bias is None else bias
        new[checkpoint.locations[f"{key}.bias"]] = bias
    new[checkpoint.locations[f"{key}.weight"]] = weight
    if checkpoint.scales is not None:
        new[checkpoint.scales] = torch.ones(head.num_classes)
    container = checkpoint.container
    for location, tensor in new.items():
        container = _with(container, location, tensor)
    return container


def _with(container: Any, location: Location, tensor: Tensor) -> Any:
    """A copy of the container with another tensor at ``location``, in the old dtype and shape."""
    changed = copy.copy(container)
    if len(location) > 1:
        changed[location[0]] = _with(container[location[0]], location[1:], tensor)
    else:
        old = container[location[0]]
        changed[location[0]] = tensor.reshape(old.shape).to(old.dtype).contiguous()
    return changed


def _metadata(source: Path) -> dict[str, str] | None:
    """The metadata of a safetensors file."""
    if source.suffix != ".safetensors":
        return None
    from safetensors import safe_open

    with safe_open(source, framework="pt") as file:
        metadata: dict[str, str] | None = file.metadata()
    return metadata
