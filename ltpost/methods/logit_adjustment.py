"""Post-hoc logit adjustment (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv:2007.07314).

    argmax_c  z_c - τ log π_c                                                                (Equation 9)

π_c = n_c / n is the class prior of the training set. τ = 1 (the paper's default) is consistent for the balanced error
if the logits are calibrated; τ chosen on val does better when they are not. What it does not do: train with the
adjusted loss (Equation 10).
"""

from __future__ import annotations

from ltpost.data.priors import log_prior
from ltpost.family import Family
from ltpost.heads import Array, Head
from ltpost.method import Method
from ltpost.methods.tau_norm import GRID


def logit_adjustment(joint: Head, class_counts: Array) -> Family:
    """Subtracts the log of the class prior.

    Args:
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class, all positive.

    Returns:
        Heads along τ, usually 0..2.

    Raises:
        DataError: a class without training samples.

    NOTE[DIFF]: the reference code subtracts log(π^τ + 1e-12), which lets a class without samples pass.

    >>> from ltpost import LinearHead
    >>> import numpy as np
    >>> logit_adjustment(LinearHead(np.eye(2)), np.array([3, 1])).head(1.0).bias.round(3)
    array([0.288, 1.386], dtype=float32)
    """
    return Family.affine(joint, log_prior(class_counts))


METHOD = Method(
    "la",
    logit_adjustment,
    title="logit adjustment",
    label="LA",
    equation="z_c - τ log π_c",
    source="Menon et al., ICLR 2021",
    chosen="τ",
    grid=GRID,
    how="exact sweep",
    example="ltpost la --tau-grid 0:2:0.1",
)
