"""A rebalanced head back into the checkpoint that it came from, proven by loading it afresh.

Same container, keys, prefixes, dtypes; only the classifier's tensors are replaced. What a layout multiplies its
classifier with (LWS ``scales``, MiSLAS ``learned_norm``) is folded in, and set to one.
"""

from __future__ import annotations

import copy
import json
import os
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltpost.data.features import FeatureSet
from ltpost.data.load import load
from ltpost.errors import DataError, UsageError
from ltpost.extract import architectures
from ltpost.extract.backbone import Backbone, keys_of
from ltpost.extract.checkpoints import Checkpoint, Location, head_candidates, is_gated, read_checkpoint, read_experts
from ltpost.extract.experts import parts_of
from ltpost.extract.export_formats import SUFFIXES, save, write
from ltpost.extract.loop import tell
from ltpost.extract.preprocess import Preprocess
from ltpost.heads import Head, LinearHead, load_head
from ltpost.output import replacing

FORMATS = ("checkpoint", "safetensors", "onnx", "torch-head")
_PROOF_ROWS = 256


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
) -> Path:
    """Write a head for other programs.

    Args:
        head: a head, or the file of one.
        ckpt: the checkpoint that the features were extracted from.
        out: the file to write; default: the checkpoint's name with the head's, ``r50-crt.pth``.
        format: "checkpoint" replaces the classifier in a copy of ``ckpt``; "safetensors" and "torch-head" hold
            ``<head_key>.weight`` and ``.bias`` alone; "onnx" the head as one Gemm, or with ``ckpt``
            the whole model with it.
        head_key: name of the classifier in the checkpoint; None takes the one whose values are the joint classifier's.
        features: a feature file, or a folder of them, to prove the result on; None, or the default where there is
            none, proves the tensors only.
        arch: of the model, to run images; see :func:`ltpost.extract.extract_features`.
        data: images to run through the exported checkpoint as a further proof.
        split: of ``data``.

    Returns:
        The file.

    Raises:
        UsageError: an argument cannot be used, or the classifier cannot be told.
        DataError: the head does not fit the checkpoint, or the written file does not reproduce its logits.
    """
    if format not in FORMATS:
        raise UsageError(f"--format must be one of {', '.join(FORMATS)}, but is '{format}'")
    name, any_head = (Path(head).stem, load_head(head)) if isinstance(head, (str, os.PathLike)) else ("head", head)
    layer = any_head.linear()
    if layer is None:
        raise DataError(
            f"{name}: the head is not one linear layer over the features, so it cannot replace the classifier; "
            "a head that was made from logits alone needs features, and ncm the metric cosine or euclidean"
        )
    head = layer
    found = _feature_file(features)
    if format != "checkpoint":
        target = Path(out) if out is not None else Path(f"{name}{SUFFIXES[format]}")
        return write(head, target, format, head_key, ckpt, arch, found)
    if ckpt is None:
        raise UsageError("--ckpt is needed: the checkpoint whose classifier is to be replaced")
    source = Path(ckpt)
    if source.is_dir():
        weights = next((file for name in ("*.safetensors", "*.bin") for file in sorted(source.glob(name))), None)
        hint = "" if weights is None else f", as in --ckpt {weights}"
        raise UsageError(f"--ckpt {source}: is a folder; name the file of its weights{hint}")
    target = Path(out) if out is not None else source.with_name(f"{source.stem}-{name}{source.suffix}")
    if target.exists() and target.samefile(source):
        raise UsageError(f"--out {target}: is the checkpoint itself; choose another name")
    proof = _proof_rows(found, head)
    parts = parts_in(source, head, head_key, found)
    container = parts[0].checkpoint.container
    for part in parts:
        container = _replaced(replace(part.checkpoint, container=container), part.key, part.head)
    with replacing(target, "--out", keep_ending=True) as partial:
        save(container, partial, metadata=_metadata(source), zipped=zipfile.is_zipfile(source))
        for part in parts:
            _prove(part, partial, {other.key for other in parts}, proof)
        if data is not None:
            _prove_on_images(partial, parts, head, arch, found, data, split)
    seen = ["its tensors" if found is None or proof is None else f"{len(proof)} rows of {found.name}"]
    seen += [] if data is None else [f"images of {data}"]
    tell(f"{target}: loaded afresh it gives the head's logits ({', '.join(seen)})")
    return target


# -- which tensors -----------------------------------------------------------------------------------------------------


def _feature_file(features: Any) -> FeatureSet | None:
    if features is None or isinstance(features, FeatureSet):
        return features
    path = Path(features)
    if not path.exists() and path != Path("features"):
        raise UsageError(f"--features {path}: no such file or folder")
    if path.is_dir():
        path = next(
            (path / f"{split}.h5" for split in ("val", "test", "train") if (path / f"{split}.h5").is_file()), path
        )
    return load(path) if path.is_file() else None


def _proof_rows(found: FeatureSet | None, head: LinearHead) -> NDArray[Any] | None:
    """Some stored features, float32."""
    if found is None or found.num_features is None:
        return None
    if found.num_features != head.num_features:
        raise DataError(
            f"{found.name}: has {found.num_features} features a row, but the head takes {head.num_features}; name the "
            "folder that the head was made from with --features"
        )
    rows = np.unique(np.linspace(0, len(found) - 1, _PROOF_ROWS).astype(np.int64))
    return np.asarray(found.features[rows], dtype=np.float32)


@dataclass(frozen=True)
class Part:
    """A classifier in a checkpoint, and what becomes of it: the whole head, or an expert's part.

    Args:
        checkpoint: as it was.
        expert: which one of the file it is, or None.
        key: name of the classifier in ``checkpoint.state``.
        columns: of the features.
        head: over those columns.
    """

    checkpoint: Checkpoint
    expert: int | None
    key: str
    columns: slice
    head: LinearHead


def parts_in(source: Path, head: LinearHead, head_key: str | None, found: FeatureSet | None) -> list[Part]:
    """Every classifier that the head goes into: one, those of all experts, or several of one network."""
    expert = None if found is None else found.attrs.get("expert")
    if expert == "all":
        places = [(one, number, _fc(one)) for number, one in enumerate(read_experts(source))]
    else:
        expert = None if expert is None else int(expert)
        checkpoint = read_checkpoint(source, expert)
        places = [(checkpoint, expert, key) for key in _classifiers(checkpoint, head, head_key, found)]
    shapes = [_shape(checkpoint, key) for checkpoint, _, key in places]
    if (shapes[0][0], sum(width for _, width in shapes)) != head.shape or len({count for count, _ in shapes}) > 1:
        keys = ", ".join(f"'{key}.weight'" for _, _, key in places)
        sizes = ", ".join(map(str, shapes))
        raise DataError(f"{source}: {keys} is {sizes}, but the head is {head.shape} (C, D)")
    split = parts_of(head, [width for _, width in shapes])
    return [Part(*place, *part) for place, part in zip(places, split, strict=True)]


def _fc(checkpoint: Checkpoint) -> str:
    return "fc" if "fc.weight" in checkpoint.state else "linear"


def _shape(checkpoint: Checkpoint, key: str) -> tuple[int, int]:
    """(C, D) of a classifier."""
    rows, columns = checkpoint.state[f"{key}.weight"].shape
    return (columns, rows) if checkpoint.normed == key else (rows, columns)


def _classifiers(checkpoint: Checkpoint, head: LinearHead, head_key: str | None, found: FeatureSet | None) -> list[str]:
    """Names of the classifiers in ``checkpoint.state``; several where the network averages their logits."""
    if is_gated(checkpoint.state):
        raise DataError(
            f"{checkpoint.path}: its classifier is gated by a confidence of each image (DisAlign), so a linear head "
            "cannot take its place; write the head alone with --format safetensors"
        )
    if head_key is None and found is not None and "head_key" in found.attrs:
        head_key = str(found.attrs["head_key"]).removesuffix(".1" if checkpoint.normed else "")
        sha = found.attrs.get("checkpoint_sha256", checkpoint.sha256)
        if sha != checkpoint.sha256:
            raise DataError(
                f"{checkpoint.path}: is not the checkpoint that {found.name} was extracted from "
                f"({found.attrs.get('checkpoint')}); name that one with --ckpt, or the right --features"
            )
    if head_key is not None:
        keys = [checkpoint.module_name(key) for key in keys_of(head_key)]
        for key in keys:
            if f"{key}.weight" not in checkpoint.state:
                raise UsageError(
                    f"--head-key {head_key}: {checkpoint.path} has no '{key}.weight'; {_table(checkpoint)}"
                )
        return keys
    fitting = [c.name for c in head_candidates(checkpoint.state) if c.shape == head.shape]
    if len(fitting) != 1:
        raise UsageError(
            f"{checkpoint.path}: {len(fitting) or 'no'} tensors could be the classifier {head.shape}; name it with "
            f"--head-key; {_table(checkpoint)}"
        )
    return fitting


def _table(checkpoint: Checkpoint) -> str:
    rows = [
        f"  {c.name}  {c.shape[0]} x {c.shape[1]}{'' if c.bias else ', no bias'}"
        for c in head_candidates(checkpoint.state)
    ]
    return "candidates (name, outputs x inputs):\n" + "\n".join(rows or ["  none"])


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
                "bias cannot be written into it; write the head alone with --format safetensors"
            )
        weight = weight.T
    elif bias is not None and f"{key}.bias" not in checkpoint.state:
        raise DataError(
            f"{checkpoint.path}: '{key}' has no bias, but the head has one; write the head alone with --format "
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
    """A copy along ``location`` with another tensor at its end, of the old dtype and shape."""
    changed = copy.copy(container)
    if len(location) > 1:
        changed[location[0]] = _with(container[location[0]], location[1:], tensor)
    else:
        old = container[location[0]]
        changed[location[0]] = tensor.reshape(old.shape).to(old.dtype).contiguous()
    return changed


def _metadata(source: Path) -> dict[str, str] | None:
    """Of a safetensors file."""
    if source.suffix != ".safetensors":
        return None
    from safetensors import safe_open

    with safe_open(source, framework="pt") as file:
        metadata: dict[str, str] | None = file.metadata()
    return metadata


# -- proving -----------------------------------------------------------------------------------------------------------


def _prove(part: Part, written: Path, keys: set[str], rows: NDArray[Any] | None) -> None:
    """The file loaded afresh: the classifier must give the head's logits, and nothing else may have changed."""
    old, new, key, head = part.checkpoint, read_checkpoint(written, part.expert), part.key, part.head
    replaced = {f"{name}.{kind}" for name in keys for kind in ("weight", "bias")}
    if old.state.keys() != new.state.keys() or any(
        not _same(old.state[name], new.state[name]) for name in old.state if name not in replaced
    ):
        raise DataError(f"{written}: does not hold the other tensors of {old.path} unchanged; this is a bug of ltpost")
    weight, bias = new.state[f"{key}.weight"], new.state.get(f"{key}.bias")
    exact = weight.dtype in (torch.float32, torch.float64)
    weight = weight.float().T if old.normed == key else weight.float()
    found = LinearHead(weight.numpy(), None if bias is None else bias.float().numpy())
    rows = np.eye(head.num_features, dtype=np.float32)[:_PROOF_ROWS] if rows is None else rows[:, part.columns]
    expected = head.logits(rows)
    difference = float(np.abs(found.logits(rows) - expected).max(initial=0.0))
    if not difference <= (1e-5 if exact else 2e-2) * max(1.0, float(np.abs(expected).max(initial=0.0))):
        raise DataError(f"{written}: its classifier gives other logits than the head (by {difference:.3g})")


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())


def _prove_on_images(
    written: Path,
    parts: list[Part],
    head: LinearHead,
    arch: str | None,
    found: FeatureSet | None,
    data: Any,
    split: str,
) -> None:
    """Some images through the exported model: its logits must be the head's on the model's features."""
    from ltpost.extract.data import open_source
    from ltpost.extract.source import Unreadable

    backbone, preprocess = backbone_of(written, parts, arch, found)
    source = open_source(data, split)
    images = [image for image in source.images.read(slice(0, 16)) if not isinstance(image, Unreadable)]
    source.images.close()
    if not images:
        raise DataError(f"{source.name}: none of the first 16 images can be read")
    features, logits = [], []
    for image in images:  # one by one, as they may differ in size
        one = backbone(preprocess.normalise(torch.tensor(preprocess.cut(image))[None]))
        features.append(one[0].numpy())
        logits.append(one[1].numpy())
    expected = head.logits(np.concatenate(features))
    tolerance = 1e-3 * max(1.0, float(np.abs(expected).max()))
    if not np.allclose(np.concatenate(logits), expected, rtol=1e-3, atol=tolerance):
        raise DataError(f"{written}: the exported model gives other logits on images of {source.name}")


def backbone_of(
    file: Path, parts: list[Part], arch: str | None, found: FeatureSet | None
) -> tuple[Backbone, Preprocess]:
    """The network of a checkpoint with its classifiers, and the transform that the features were made with."""
    from ltpost.extract.extraction import open_network

    attrs = {} if found is None else found.attrs
    stored = str(attrs.get("arch", ""))
    arch = arch or (stored if architectures.known(stored) else None)
    expert = attrs.get("expert")
    scale = float(parts[0].head.norms()[0])  # of a cosine classifier, whose directions alone are in the file
    keys = None if expert == "all" else ",".join(part.key for part in parts)
    network = open_network(file, arch, keys, expert=expert, head_scale=scale)
    preprocess = Preprocess.from_json(json.loads(attrs["transform"])) if "transform" in attrs else network.preprocess
    return Backbone(network.model, network.head_key), preprocess
