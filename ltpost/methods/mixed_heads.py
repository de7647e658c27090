"""Two classifiers, mixed with the weight that is best on val.

    z_c = (1 - t) z_c / s + t z'_c / s',    0 ≤ t ≤ 1

s and s' are the spreads of the logits: the root mean square of z_c - mean_c z_c over training rows. A classifier that
was rebalanced too much and the joint one, or class means and the joint one, often do better together.
What it does not do: mix different networks (see ``mix-experts``).
"""

from __future__ import annotations

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, UsageError
from ltpost.family import Family
from ltpost.heads import Head, LinearHead, RescaledHead, load_head
from ltpost.method import Method
from ltpost.methods.nearest_class_mean import nearest_class_mean
from ltpost.scores.posteriors import spread_of_logits

GRID = tuple(round(0.1 * k, 10) for k in range(11))


def mixed_heads(train: FeatureSet, head: LinearHead, *, other: str = "ncm") -> Family:
    """Mixes the joint classifier with another one.

    Args:
        train: training features (N, D) and labels; up to 10,000 of them tell the scale of both classifiers.
        head: the joint classifier, (C, D).
        other: the other classifier: ncm, the cosine to class means, or a head file that ltpost saved.

    Returns:
        Heads along the weight t of the other classifier, 0..1; one linear layer where both are linear.

    Raises:
        DataError: no such head file, another number of classes, or a classifier whose logits are all equal.
        UsageError: neither ncm nor a head file is named.
    """
    if not other:
        raise UsageError("other= must be ncm or a head file, but is empty")
    second = nearest_class_mean(train).head() if other == "ncm" else load_head(other)
    if second.num_classes != head.num_classes:
        raise DataError(f"{other}: has {second.num_classes} classes, but the joint classifier {head.num_classes}")
    scaled = [RescaledHead(one, np.full(one.num_classes, 1 / _spread(one, train))) for one in (head, second)]
    return Family.mixed(scaled[0], scaled[1])


def _spread(head: Head, rows: FeatureSet) -> float:
    spread = spread_of_logits(rows, head)
    if not spread > 0:
        raise DataError(f"{rows.name}: the logits of a head to be mixed are all equal, so it has no scale")
    return spread


METHOD = Method(
    "mix",
    mixed_heads,
    title="two heads mixed",
    label="mixed heads",
    equation="(1-t) z_c/s + t z'_c/s'",
    source="folklore",
    chosen="t",
    grid=GRID,
    how="exact sweep",
    example="ltpost mix --other heads/crt.safetensors",
)
