"""DO head: sampling and loss of Decoupled Optimisation (Cong et al., AAAI 2024) for a classifier on frozen features.

    mean_i CE(W x_i + b - log α, y_i),   rows drawn by class with probability p
    many     p_c = π_c                        α = 1
    medium   p_c ∝ ρ (medium), 1 - ρ (else)   α = ρ, the same for all classes, which a softmax does not see
    few      p_c ∝ 1 / n_c                    α_c = the prior in reversed order: the rarest class has the largest

One of the three submodels, each preferring a group of classes. What it does not do: decouple the parameters of the
network by their importance, or weigh the submodels row by row at test time.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.data.priors import shot_groups
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.fit.class_weights import positive
from ltpost.fit.fitting import refit
from ltpost.fit.loss import Loss
from ltpost.fit.options import HeadFit
from ltpost.heads import Array
from ltpost.method import Method

FIT = HeadFit()


def do_head(
    train: FeatureSet,
    class_counts: Array,
    *,
    prefer: Literal["many", "medium", "few"] = "medium",
    rho: float = 0.8,
    fit: HeadFit = FIT,
) -> Family:
    """Fits a new classifier that prefers a group of classes.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        class_counts: (C,) training samples per class, all positive.
        prefer: the group: many (more than 100 training samples), medium or few (less than 20).
        rho: ρ in 0..1; published .8, and .7 for CIFAR-100-LT.
        fit: the solver and its options, but no sampler: the group says how rows are drawn.

    Returns:
        Heads along the strength (convex), or one head (sgd).

    Raises:
        DataError: a class without training samples.
        UsageError: a ρ that is no share, or a sampler.
    """
    # NOTE[DIFF]: there is no public code. p is read as the probability of a class, which makes the stage of the many
    # the ordinary sampling; read as that of a row, it would count the most frequent classes twice.
    if not 0 < rho < 1:
        raise UsageError(f"rho= must lie between 0 and 1, but is {rho}")
    counts = positive(class_counts)
    offset = None
    if prefer == "many":
        shares: Array = counts / counts.sum()
    elif prefer == "medium":
        shares = np.where(shot_groups(counts).medium, rho, 1 - rho)
    else:
        shares, offset = 1 / counts, -np.log(reversed_order(counts) / counts.sum())
    return refit(train, Loss(offset=offset), fit, name="do-head", shares=shares)


def reversed_order(counts: Array) -> Array:
    """The counts with their order reversed, (C,): the rarest class gets the largest; equal classes share alike.

    >>> reversed_order(np.array([9, 5, 1, 1]))
    array([1., 1., 7., 7.])
    """
    _values, which, times = np.unique(counts, return_inverse=True, return_counts=True)
    given = np.split(np.sort(counts)[::-1], np.cumsum(times)[:-1])
    return np.array([part.mean() for part in given])[which]


METHOD = Method(
    "do-head",
    do_head,
    title="decoupled-optimisation head",
    label="DO (head)",
    equation="Wx + b, fitted as Wx + b - log α",
    source="Cong et al., AAAI 2024",
    chosen="strength (convex)",
    variant="head only",
    how="L-BFGS, or SGD recipe",
    example="ltpost do-head --prefer few",
    without=("sampler",),
)
