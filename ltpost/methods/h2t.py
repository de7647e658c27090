"""H2T, head to tail (Li et al., "Feature Fusion from Head to Tail for Long-Tailed Visual Recognition", AAAI 2024).

    x̃ = x with ρ D random channels from x'        CE(W x̃ + b, y)      y the label of x

x is drawn from all classes alike, x' from all rows alike, so that rare classes borrow channels of frequent ones. The
channels of a batch are the same. arXiv:2306.06963. Reference code: Keke921/H2T, which swaps channels of the last
feature map; pooling takes each channel by itself, so that swapping pooled features is the same. What it does not do:
stage 1 with mixup, or let batch-norm statistics shift.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.fit.fitting import refit
from ltpost.fit.layer import Layer
from ltpost.fit.loss import Loss
from ltpost.fit.options import CONVEX_ONLY, HeadFit
from ltpost.heads import LinearHead
from ltpost.method import Method

if TYPE_CHECKING:
    from torch import Tensor


FIT = HeadFit(solver="sgd", learning_rate=0.02, weight_decay=5e-4, batch_size=128, epochs=10)


def h2t(train: FeatureSet, head: LinearHead, *, rho: float = 0.25, fit: HeadFit = FIT) -> Family:
    """Trains the classifier on rows that borrow channels from rows of other classes.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        head: the joint classifier, which is the start.
        rho: ρ in 0..1, the share of channels that is borrowed; 0 trains the joint classifier on as cRT does.
        fit: sgd and its options; channels are drawn anew for every batch.

    Returns:
        One head.

    Raises:
        UsageError: a ρ that is no share.
    """
    if not 0 <= rho <= 1:
        raise UsageError(f"rho= must lie between 0 and 1, but is {rho}")
    return refit(
        train,
        Loss(),
        fit,
        name="h2t",
        layer=Layer(start=head),
        mix=lambda x, others, random: borrow(x, others, random, rho),
        only_sgd="draws channels",
    )


def borrow(x: Tensor, others: Tensor, random: np.random.Generator, rho: float) -> Tensor:
    """Rows (n, D) with int(ρ D) random channels from ``others`` (n, D)."""
    import torch

    size = x.shape[1]
    channels = torch.from_numpy(random.choice(size, int(rho * size), replace=False)).to(x.device)
    mixed = x.clone()
    mixed[:, channels] = others[:, channels]
    return mixed


METHOD = Method(
    "h2t",
    h2t,
    title="head-to-tail feature fusion",
    label="H2T",
    equation="Wx + b, fitted on x with channels of x'",
    source="Li et al., AAAI 2024",
    variant="head only",
    how="SGD recipe",
    example="ltpost h2t --rho 0.5",
    without=("solver", *CONVEX_ONLY),
)
