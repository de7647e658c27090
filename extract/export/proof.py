"""Proves that a written checkpoint gives the head's logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltpost.data.features import FeatureSet
from ltpost.errors import DataError
from ltpost.extract.checkpoints.checkpoint import read_checkpoint
from ltpost.extract.export.parts import Part
from ltpost.extract.networks.backbone import Backbone
from ltpost.extract.networks.builders import known
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.heads import LinearHead

_PROOF_ROWS = 256


def proof_rows(feature_set: FeatureSet | None, head: LinearHead) -> NDArray[Any] | None:
    """Some stored features, float32."""
    if feature_set is None or feature_set.num_features is None:
        return None
    if feature_set.num_features != head.num_features:
        raise DataError(
            f"{feature_set.name}: has {feature_set.num_features} features a row, but the head takes "
            f"{head.num_features}; name the folder that the head was made from with features="
        )
    rows = np.unique(np.linspace(0, len(feature_set) - 1, _PROOF_ROWS).astype(np.int64))
    return np.asarray(feature_set.features[rows], dtype=np.float32)


def prove(part: Part, written: Path, keys: set[str], rows: NDArray[Any] | None) -> None:
    """Load the file: its classifier must give the head's logits, and no other tensor may have changed."""
    old, new, key, head = (
        part.checkpoint,
        read_checkpoint(written, part.expert, part.checkpoint.weights),
        part.key,
        part.head,
    )
    replaced = {f"{name}.{kind}" for name in keys for kind in ("weight", "bias")}
    if old.state.keys() != new.state.keys() or any(
        not _same(old.state[name], new.state[name]) for name in old.state if name not in replaced
    ):
        raise DataError(f"{written}: does not hold the other tensors of {old.path} unchanged; this is a bug of ltpost")
    weight, bias = new.state[f"{key}.weight"], new.state.get(f"{key}.bias")
    exact = weight.dtype in (torch.float32, torch.float64)
    weight = weight.float().T if old.normed == key else weight.float()
    read_back = LinearHead(weight.numpy(), None if bias is None else bias.float().numpy())
    rows = np.eye(head.num_features, dtype=np.float32)[:_PROOF_ROWS] if rows is None else rows[:, part.columns]
    expected = head.logits(rows)
    difference = float(np.abs(read_back.logits(rows) - expected).max(initial=0.0))
    if not difference <= (1e-5 if exact else 2e-2) * max(1.0, float(np.abs(expected).max(initial=0.0))):
        raise DataError(f"{written}: its classifier gives other logits than the head (by {difference:.3g})")


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())


def prove_on_images(
    written: Path,
    parts: list[Part],
    head: LinearHead,
    arch: str | None,
    feature_set: FeatureSet | None,
    data: Any,
    split: str,
) -> None:
    """Run images through the exported model: it must give the head's logits on the model's features."""
    from ltpost.extract.data.forms import open_source
    from ltpost.extract.data.source import Unreadable

    backbone, preprocess = backbone_of(written, parts, arch, feature_set)
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
    file: Path, parts: list[Part], arch: str | None, feature_set: FeatureSet | None
) -> tuple[Backbone, Preprocess]:
    """The network of a checkpoint with its classifiers, and the transform that the features were made with."""
    from ltpost.extract.networks.opening import open_network

    attrs = {} if feature_set is None else feature_set.attrs
    stored = str(attrs.get("arch", ""))
    arch = arch or (stored if known(stored) else None)
    expert = attrs.get("expert")
    scale = float(parts[0].head.norms()[0])  # of a cosine classifier; the file holds its directions only
    keys = None if expert == "all" else ",".join(part.key for part in parts)
    weights = parts[0].checkpoint.weights
    network = open_network(file, arch, keys, expert=expert, head_scale=scale, weights=weights)
    preprocess = Preprocess.from_json(json.loads(attrs["transform"])) if "transform" in attrs else network.preprocess
    return Backbone(network.model, network.head_key), preprocess
