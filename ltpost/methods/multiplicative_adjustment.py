"""Multiplicative logit adjustment (Hasegawa & Sato, "Exploring Weight Balancing …", ICLR 2024, arXiv:2305.16573, 5).

    argmax_c  z_c · π_c^-τ

The angles between classifier and features stay, rare classes get a wider cone, as by tau-normalization, but by the
counts instead of the norms. Made for heads of near-orthogonal, equally long weights. What it does not do: treat a
negative logit well; those of rare classes are made more negative.

For weights alone, earlier: Kim & Kim, "Adjusting Decision Boundary for Class Imbalanced Learning", arXiv:1912.01857.
"""

from __future__ import annotations

from ltpost.data.priors import log_prior
from ltpost.family import Family
from ltpost.heads import Array, Head
from ltpost.method import Method

GRID = tuple(round(0.05 * k, 10) for k in range(21))


def multiplicative_adjustment(joint: Head, class_counts: Array) -> Family:
    """Divides by a power of the class prior.

    Args:
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class, all positive.

    Returns:
        Heads along τ, usually 0..1. All factors share one constant, so that that of the most frequent class is 1.

    Raises:
        DataError: a class without training samples.
    """
    log_pi = log_prior(class_counts)
    return Family.scaled(joint, log_pi - log_pi.max())


METHOD = Method(
    "mla",
    multiplicative_adjustment,
    title="multiplicative logit adjustment",
    label="MLA",
    equation="z_c π_c^-τ",
    source="Hasegawa & Sato, ICLR 2024",
    chosen="τ",
    grid=GRID,
    how="exact sweep",
    example="ltpost mla --tau-grid 0:1:0.05",
)
