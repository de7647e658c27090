"""Tau-normalization and logit adjustment together.

    argmax_c  w_c x / (‖w_c‖/g)^κ - τ log π_c            g the geometric mean of the norms

Both are chosen together: for each exponent κ of a list, the exact sweep over τ. Without adjustment (τ = 0) it is
tau-normalization, with κ = 0 logit adjustment (of the classifier without its bias, unless it is kept).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ltpost.data.priors import log_prior
from ltpost.family import Family
from ltpost.heads import Array, LinearHead
from ltpost.method import Method
from ltpost.methods.tau_norm import GRID, along_weights, log_norms_of

EXPONENTS = tuple(round(0.1 * k, 10) for k in range(11))


def tau_norm_adjusted(
    head: LinearHead,
    class_counts: Array,
    *,
    exponents: tuple[float, ...] = EXPONENTS,
    bias: Literal["drop", "scale", "keep"] = "keep",
) -> Family:
    """Evens out the lengths of the weights in part, and subtracts the class prior in part.

    Args:
        head: the joint classifier, (C, D).
        class_counts: (C,) training samples per class, all positive.
        exponents: values of κ to try.
        bias: keep: unchanged; scale: like the weights; drop: none.

    Returns:
        Heads along τ, usually 0..2, for each exponent.

    Raises:
        DataError: a row of the weight is zero, or a class has no training samples.
    """
    log_pi, log_norms = log_prior(class_counts), log_norms_of(head)
    along = along_weights(head, log_norms - np.mean(log_norms), bias)
    return Family.crossed("exponent", exponents, lambda exponent: Family.affine(along.head(exponent), log_pi))


METHOD = Method(
    "tnorm-la",
    tau_norm_adjusted,
    title="tau-normalization and logit adjustment",
    label="τ-norm + LA",
    equation="w_c x / ‖w_c‖^κ - τ log π_c",
    source="Kang et al. and Menon et al.",
    chosen="κ, τ",
    grid=GRID,
    how="exact sweep for each κ",
    example="ltpost tnorm-la --exponents 0,0.5,1",
)
