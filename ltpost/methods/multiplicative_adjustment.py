"""Multiplicative logit adjustment (Hasegawa & Sato, "Exploring Weight Balancing …", ICLR 2024, arXiv:2305.16573, 5).

    argmax_c  z_c · π_c^-τ

The angles between classifier and features stay, rare classes get a wider cone, as by tau-normalization, but by the
counts instead of the norms. Made for heads of near-orthogonal, equally long weights. What it does not do: treat a
negative logit well; those of rare classes are made more negative.

For weights alone, earlier: Kim & Kim, "Adjusting Decision Boundary for Class Imbalanced Learning", arXiv:1912.01857.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ltpost.head import Array, LinearHead
from ltpost.methods import Family
from ltpost.priors import ShotGroups, log_prior
from ltpost.sweep import Curve, scaled_curve

if TYPE_CHECKING:
    from ltpost.features import FeatureSet

GRID = tuple(round(0.05 * k, 10) for k in range(21))


def multiplicative_adjust(head: LinearHead, class_counts: Array, tau: float = 1.0) -> LinearHead:
    """The joint classifier with w_c and b_c times π_c^-τ.

    Args:
        head: the joint classifier, (C, D).
        class_counts: (C,) training samples per class, all positive.
        tau: strength, usually 0..1.

    Raises:
        DataError: a class without training samples.
    """
    scale = np.exp(-tau * log_prior(class_counts))
    return head.rescaled(scale / scale.min(), info={"method": "mla", "tau": float(tau)})  # the smallest factor is 1


def mla_curve(
    feature_set: FeatureSet,
    groups: ShotGroups | None = None,
    *,
    class_counts: Array | None = None,
    head: LinearHead | None = None,
    device: str = "cpu",
) -> Curve:
    """Accuracy of the adjusted classifier for every τ, exactly; arguments as for ``logit_adjustment.la_curve``."""
    counts = feature_set.require_counts("logit adjustment") if class_counts is None else class_counts
    groups = feature_set.shot_groups() if groups is None else groups
    return scaled_curve(feature_set, log_prior(counts, feature_set.class_names), groups, head=head, device=device)


def family(joint: LinearHead, class_counts: Array, *, device: str = "cpu") -> Family:
    """Multiplicative adjustment as a family of heads, for ``model_selection``."""
    return Family(
        method="mla",
        parameter="tau",
        curve=lambda split, groups: mla_curve(split, groups, class_counts=class_counts, head=joint, device=device),
        head=lambda tau: multiplicative_adjust(joint, class_counts, tau),
        grid=GRID,
    )
