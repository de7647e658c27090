"""RS, rescaled weights (Kim & Kim, IEEE Access 2020, arXiv:1912.01857, Section 3.3).

Paper: "Adjusting Decision Boundary for Class Imbalanced Learning"; code feidfoe/AdjustBnd4Imbalance.

    w̃_c = w_c / (n_c / n_max)^γ

Like tau-normalization, but by the counts instead of the norms; the bias stays. What it does not do: normalize weights
during training (their WVN), for which the rule is made.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ltpost.data.priors import log_prior
from ltpost.family import Family
from ltpost.heads import Array, LinearHead
from ltpost.method import Method
from ltpost.methods.tau_norm import along_weights

GRID = tuple(round(0.05 * k, 10) for k in range(21))


def weight_rescaling(
    head: LinearHead, class_counts: Array, *, bias: Literal["keep", "scale", "drop"] = "keep"
) -> Family:
    """Divides the weights by a power of the class counts.

    Args:
        head: the joint classifier, (C, D).
        class_counts: (C,) training samples per class, all positive.
        bias: keep: unchanged, as in the paper, and γ is chosen from the grid only; scale: like the weights, which is
            multiplicative logit adjustment; drop: none.

    Returns:
        Heads along γ, usually 0..1; 0.1 is the default of the paper's code.

    Raises:
        DataError: a class without training samples.
    """
    log_pi = log_prior(class_counts)
    return along_weights(head, np.asarray(log_pi - log_pi.max()), bias, parameter="gamma")


METHOD = Method(
    "rs",
    weight_rescaling,
    title="rescaled weights",
    label="RS",
    equation="w_c / (n_c/n_max)^γ",
    source="Kim & Kim, IEEE Access 2020",
    chosen="γ",
    grid=GRID,
    variant="head only",
    how="grid; exact sweep without bias",
    example="ltpost rs --bias drop",
)
