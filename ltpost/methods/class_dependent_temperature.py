"""Class-dependent temperatures, applied after training (Ye et al., arXiv:2001.01385, "… Feature Deviation …").

    argmax_c  z_c (n_max / n_c)^γ

The paper divides the logits by a_c = (n_max / n_c)^γ while it trains, and predicts with plain logits; a classifier that
was trained without it gets the inverse of it here. The argmax is that of multiplicative logit adjustment.
What it does not do: train with these temperatures.
"""

from __future__ import annotations

from dataclasses import replace

from ltpost.family import Family
from ltpost.heads import Array, Head
from ltpost.method import Method
from ltpost.methods.multiplicative_adjustment import GRID, multiplicative_adjustment


def class_dependent_temperature(joint: Head, class_counts: Array) -> Family:
    """Multiplies the logits of rare classes by a power of their rareness.

    Args:
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class, all positive.

    Returns:
        Heads along γ, usually 0..1.

    Raises:
        DataError: a class without training samples.
    """
    family = multiplicative_adjustment(joint, class_counts)
    return replace(family, parameter="gamma")


METHOD = Method(
    "cdt",
    class_dependent_temperature,
    title="class-dependent temperatures, post-hoc",
    label="CDT",
    equation="z_c (n_max/n_c)^γ",
    source="Ye et al., arXiv 2020",
    chosen="γ",
    grid=GRID,
    variant="head only",
    how="exact sweep",
    example="ltpost cdt --gamma-grid 0:1:0.05",
)
