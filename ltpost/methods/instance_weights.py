"""DO's instance-level test-time learning (Cong et al., "Decoupled Optimisation …", AAAI 2024, Equation 5).

    y_k = Σ_e λ_e z_e(view k),    λ_i = argmax over the simplex of sim(y_1, y_2)    for every row i apart

Each row gets weights of its own, those with which the predictions on two augmented views of it agree most; the row's
plain view is then classified with them. What it does not do: look at other rows, or train the experts. No code of the
paper was found, and its text leaves open what is compared: hence two named switches.

Cost: one pass over the logits of all experts on both views, 2 E C D products a row. On logits three E x E Gram
matrices a row follow from them, and each of about 150 evaluations (E = 3) costs E² whatever C is; on softmax each costs
2 E C, plus an exponential per class and view. Measured for E = 3 on one core: .15 ms a row on logits and 1.6 ms on
softmax at C = 1,000 (ImageNet-LT's 50,000 test rows: 8 and 80 s), .6 and 36 ms at C = 8,142.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.data.priors import ShotGroups
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.family import Family
from ltpost.heads import AggregatedHead, ExpertHead, InstanceWeightedHead
from ltpost.method import Method
from ltpost.scores.curve import Curve
from ltpost.scores.sweep import mixing_curve

GRID = tuple(round(0.1 * k, 10) for k in range(11))


def instance_weights(
    experts: Sequence[ExpertHead],
    views: UnlabelledRows,
    *,
    space: Literal["softmax", "logits"] = "softmax",
    similarity: Literal["cosine", "dot"] = "cosine",
    shrink: bool = False,
) -> Family:
    """Weighs the experts for every image apart, so that two augmented views of it agree most.

    Args:
        experts: E heads.
        views: the rows to classify, with two augmented views of each.
        space: what is compared between views, softmax or logits. Softmax as in SADE, whose objective this is for one
            image; on logits the length of a view's logits has no say (cosine) or all of it (dot).
        similarity: cosine or dot. The dot product of logits rewards the expert with the longest logits, that of
            softmax the most confident one.
        shrink: choose on val how far the weights go from equal ones (strength 0) to those of most agreement
            (strength 1); without it, all the way.

    Returns:
        One head, which finds the weights of the rows that it is used on, or heads along the strength.

    Raises:
        DataError: rows without two views.

    NOTE[DIFF]: the paper's Equation 5 writes the product of both predictions and its text says cosine; logits or
    softmax, parametrisation, optimiser and steps are not stated. The default is SADE's objective, one image at a time,
    at its maximum on the simplex (a search down to steps of 1/1024) instead of after some steps of SGD. The maximum
    often lies at a corner of the simplex; ``shrink``, which is ours, leads back to the plain mean as far as val asks.
    """
    head = InstanceWeightedHead(experts, space, similarity)
    views.two_views()
    if not shrink:
        return Family.single(head)
    mean = AggregatedHead(experts, np.full(len(experts), 1 / len(experts)))

    def curve(split: FeatureSet, groups: ShotGroups | None, grid: Sequence[float], device: str) -> Curve:
        return mixing_curve(split, mean, head, groups, parameter="strength")

    return Family(lambda t: InstanceWeightedHead(experts, space, similarity, t), curve, "strength")


METHOD = Method(
    "do",
    instance_weights,
    title="instance-level weights of the experts",
    label="DO",
    equation="Σ_e λ_ie z_ec",
    source="Cong et al., AAAI 2024",
    chosen="strength (shrink)",
    grid=GRID,
    how="search on the simplex",
    example="ltpost do --space logits",
)
