"""k nearest neighbours with class-balanced votes, on features of unit length.

    z_c = v_c Σ_{i among the k nearest, y_i = c} exp(cos(x, x_i) / T),        v_c = 1/n_c

The protocol of Oquab et al., "DINOv2", TMLR 2024, arXiv:2304.07193 (after Wu et al., CVPR 2018): T = 0.07, k of 10, 20,
100, 200. Its votes are softmax weights over the 200 nearest, cut off at k and not renormalised; the denominator is the
same for all classes, so that predictions are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ltpost.data import distributed
from ltpost.data.features import FeatureSet
from ltpost.data.priors import ShotGroups
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.fit.sampling import rows_per_class
from ltpost.heads import Head, NeighbourHead
from ltpost.heads.normalized import normalized
from ltpost.method import Method
from ltpost.scores.curve import Curve
from ltpost.scores.tabulated import GridCurve


def nearest_neighbours(
    train: FeatureSet,
    *,
    votes: Literal["class-balanced", "plain"] = "class-balanced",
    neighbours: tuple[float, ...] = (10.0, 20.0, 100.0, 200.0),
    temperature: float = 0.07,
) -> Family:
    """Lets the nearest training rows vote for their classes.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        votes: class-balanced divides the vote of a row by the number of rows of its class; plain counts all alike.
        neighbours: numbers k of rows that vote, to choose from.
        temperature: T of the weights of the votes.

    Returns:
        Heads along k. They hold all training rows as float16: 2 N D bytes, 0.5 GB at ImageNet-LT and 1.8 GB at
        iNaturalist 2018 with D = 2,048. A query costs N D multiplications; one pass serves all k.

    Raises:
        DataError: a class without a row.
        UsageError: a k that is no positive whole number; several processes, each with some of the rows.

    NOTE[DIFF]: DINOv2 counts all votes alike, which favours frequent classes (``votes="plain"``). Stored rows are
    rounded to float16, which moves a cosine by less than 0.001.
    """
    if not neighbours or any(k < 1 or k != int(k) for k in neighbours):
        raise UsageError(f"neighbours= must name positive whole numbers, but is {neighbours}")
    if not 0 < temperature < np.inf:
        raise UsageError(f"temperature= must be positive, but is {temperature}")
    if distributed.is_active():
        raise UsageError("nearest neighbours need all training rows in one process; start ltpost without torchrun")
    counts = rows_per_class(train)
    rows = np.empty((len(train), train.num_features or 0), np.float16)
    for part, block in train.feature_blocks():
        rows[part] = normalized(block.astype(np.float32))
    value = 1 / counts if votes == "class-balanced" else np.ones(len(counts))
    most = NeighbourHead(rows, train.labels, value, int(max(neighbours)), temperature)

    def curve(split: FeatureSet, groups: ShotGroups | None, grid: Sequence[float], device: str) -> Curve:
        predicted = np.empty((len(neighbours), len(split)), dtype=np.int32)
        for part, block in split.feature_blocks(size=1024):
            similarities, labels = most.nearest(block, most.k)
            for which, k in enumerate(neighbours):
                scores = most.count_votes(similarities, labels, int(k))
                predicted[which, part] = scores.argmax(1)
        known = (split.labels, groups, split.num_classes)
        return GridCurve("k", neighbours, predicted == split.labels, *known, predicted=predicted)

    def head_at(k: float) -> Head:
        if k not in neighbours:
            raise KeyError(k)
        return most.with_k(int(k))

    return Family(head_at, curve, "k")


METHOD = Method(
    "knn",
    nearest_neighbours,
    title="k nearest neighbours",
    label="kNN",
    equation="1/n_c Σ exp(cos(x, x_i) / T)",
    source="Oquab et al., TMLR 2024",
    chosen="k",
    how="exact, blocked products",
    example="ltpost knn --neighbours 10,50",
)
