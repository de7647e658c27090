"""ACE, ally complementary experts (Cai et al., ICCV 2021, arXiv:2108.02385): each class is judged by who knows it.

    z_c = 1/|K_c| Σ_{e ∈ K_c} s_e z_ec        K_c: the experts that know class c

In ACE expert 0 learns all classes, expert 1 the medium- and few-shot ones, expert 2 the few-shot ones. What it does not
do: train the experts, or know a class that an expert was not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ltpost.data.priors import class_list, shot_groups
from ltpost.errors import DataError, UsageError
from ltpost.family import Family
from ltpost.heads import AggregatedHead, Array, ExpertHead
from ltpost.method import Method


def ace(
    experts: Sequence[ExpertHead],
    class_counts: Array,
    *,
    knows: Literal["groups", "weights"] = "groups",
    rescale: Literal["off", "norms"] = "off",
) -> Family:
    """Averages, for every class, the logits of the experts that know the class.

    Args:
        experts: E heads; 2 or 3 where ``knows`` is groups.
        class_counts: (C,) training samples per class.
        knows: groups: the first expert all classes, the second those with at most 100 training samples, the third those
            with fewer than 20;
            weights: an expert knows a class whose row of its weight is not zero.
        rescale: norms: logits of expert e times the mean square norm of the first expert's rows over that of its own,
            both over the classes that it knows; off: as they are.

    Returns:
        One head, linear like the experts.

    Raises:
        UsageError: groups with other than 2 or 3 experts.
        DataError: a class that no expert knows, or norms of experts that are not linear.

    NOTE[DIFF]: the paper's code cannot be had. That logits are averaged over the experts that know a class is certain;
    that they are rescaled by square norms is from memory, so that ``rescale`` is off unless asked for.
    """
    known = _by_groups(len(experts), class_counts) if knows == "groups" else _by_weights(experts)
    nobody = np.flatnonzero(~known.any(axis=0))
    if len(nobody):
        raise DataError(f"no expert knows {class_list(nobody)}; use knows='groups'")
    scale = known / known.sum(axis=0)
    if rescale == "norms":
        squares = np.stack([np.square(_weight(expert)).sum(axis=1, dtype=np.float64) for expert in experts])
        for e, members in enumerate(known):
            own = squares[e][members].mean() if members.any() else 0.0
            if own > 0:
                scale[e] *= squares[0][members].mean() / own
    return Family.single(AggregatedHead(experts, scale))


def _by_groups(count: int, class_counts: Array) -> NDArray[np.bool_]:
    """(E, C), which expert knows which class."""
    if count not in (2, 3):
        raise UsageError(f"knows='groups' is for 2 or 3 experts, but there are {count}; use knows='weights'")
    groups = shot_groups(class_counts)
    return np.stack([np.ones_like(groups.many), ~groups.many, groups.few][:count])


def _by_weights(experts: Sequence[ExpertHead]) -> NDArray[np.bool_]:
    return np.stack([np.any(_weight(expert) != 0, axis=1) for expert in experts])


def _weight(expert: ExpertHead) -> Array:
    layer = expert.head.linear()
    if layer is None:
        raise DataError(f"expert {expert.number} has no 'head/weight' (C, D), which norms and weights are read from")
    return layer.weight


METHOD = Method(
    "ace",
    ace,
    title="mean of the experts that know a class",
    label="ACE",
    equation="Σ_{e ∈ K_c} z_ec / |K_c|",
    source="Cai et al., ICCV 2021",
    variant="head only",
    how="closed form",
    example="ltpost ace --knows weights",
)
