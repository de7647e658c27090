"""Two experts, mixed with the weight that is best on val.

    z_c = (1 - t) z_0c + t z_1c,    0 ≤ t ≤ 1

The accuracy is known exactly for every t (``scores.sweep.mixing_curve``). What it does not do: bring the two to one
scale first; of networks that were trained alike they have it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.data.priors import ShotGroups
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.heads import AggregatedHead, ExpertHead
from ltpost.method import Method
from ltpost.scores.curve import Curve
from ltpost.scores.sweep import mixing_curve

GRID = tuple(round(0.1 * k, 10) for k in range(11))


def expert_mixing(experts: Sequence[ExpertHead], *, first: int = 0, second: int = 1) -> Family:
    """Mixes two experts with the weight that is best on val.

    Args:
        experts: E heads, of which two are used.
        first: the number of one, whose weight is 1 - t.
        second: the number of the other, whose weight is t.

    Returns:
        Heads along t, linear like the experts.

    Raises:
        UsageError: there is no such expert, or both are the same.
    """
    for name, number in (("first", first), ("second", second)):
        if not 0 <= number < len(experts):
            raise UsageError(f"{name}= must be an expert, 0 to {len(experts) - 1}, but is {number}")
    if first == second:
        raise UsageError(f"first= and second= must be two experts, but both are {first}")

    def curve(split: FeatureSet, groups: ShotGroups | None, grid: Sequence[float], device: str) -> Curve:
        return mixing_curve(split, experts[first], experts[second], groups)

    def head_at(t: float) -> AggregatedHead:
        weights = np.zeros(len(experts))
        weights[first], weights[second] = 1 - t, t
        return AggregatedHead(experts, weights)

    return Family(head_at, curve, "weight")


METHOD = Method(
    "mix-experts",
    expert_mixing,
    title="two experts mixed",
    label="mixed experts",
    equation="(1-t) z_0c + t z_1c",
    source="folklore",
    chosen="t",
    grid=GRID,
    how="exact sweep",
    example="ltpost mix-experts --features resnet,vit",
)
