"""Several experts (RIDE, SADE, BalPoE, …) in one feature file, from one file per expert.

    z = 1/E Σ_e W_e x_e + b_e = [W_0 … W_{E-1}]/E · [x_0; …; x_{E-1}] + mean b_e

The mean of the experts' logits is linear in their features side by side, so that the joint file is an ordinary one:
every method runs on the mean, and on one expert through :meth:`ltpost.FeatureSet.expert`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from ltpost.errors import DataError
from ltpost.features import FeatureSet, finish_file, start_file
from ltpost.head import LinearHead


def join_experts(experts: Sequence[FeatureSet], path: str | os.PathLike[str]) -> Path:
    """Write one file with the features of all experts side by side and the mean of their classifiers.

    Args:
        experts: the same rows in the same order, one feature set per expert, each with its classifier; features of
            equal width.
        path: the file to write.

    Raises:
        DataError: the sets do not belong together.
    """
    first = experts[0]
    for other in experts[1:]:
        if not np.array_equal(first.labels, other.labels) or first.paths != other.paths:
            raise DataError(f"{first.name} and {other.name} must hold the same rows in the same order to be joined")
        if first.num_features != other.num_features or first.num_classes != other.num_classes:
            raise DataError(f"{first.name} and {other.name} must have the same D and C to be joined")
    heads = [expert.require_head("the mean of the experts is made of") for expert in experts]
    weight = np.concatenate([head.weight for head in heads], axis=1) / len(heads)
    biases = [np.zeros(head.num_classes, np.float32) if head.bias is None else head.bias for head in heads]
    has_bias = any(head.bias is not None for head in heads)
    head = LinearHead(weight, np.mean(biases, axis=0) if has_bias else None)

    target = Path(path)
    columns = {"features": ((len(first), weight.shape[1]), first.features.dtype)}
    columns["logits"] = ((len(first), first.num_classes), np.dtype(np.float32))
    attrs = {**first.attrs, "split": first.split, "experts": len(experts)}
    attrs.pop("expert", None)
    partial = start_file(
        target,
        first.labels,
        columns,
        head=head,
        expert_bias=np.stack(biases) if has_bias else None,
        class_counts=first.class_counts,
        class_names=first.class_names,
        attrs=attrs,
    )
    with h5py.File(partial, "r+") as file:
        for blocks in zip(*(expert.feature_blocks(size=1024) for expert in experts), strict=True):
            features = np.concatenate([block for _, block in blocks], axis=1)
            file["features"][blocks[0][0]] = features
            file["logits"][blocks[0][0]] = head.logits(features)
    finish_file(partial, target)
    return target
