"""Post-hoc logit adjustment (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv:2007.07314).

    argmax_c  z_c - τ log π_c                                                                (Equation 9)

π_c = n_c / n is the class prior of the training set. τ = 1 (the paper's default) is consistent for the balanced error
if the logits are calibrated; τ chosen on val does better when they are not. What it does not do: train with the
adjusted loss (Equation 10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltpost.errors import DataError
from ltpost.head import Array, LinearHead
from ltpost.methods import TAU_GRID, Family
from ltpost.priors import ShotGroups, log_prior
from ltpost.sweep import Curve, affine_curve

if TYPE_CHECKING:
    from ltpost.features import FeatureSet


def logit_adjust(head: LinearHead, class_counts: Array, tau: float = 1.0) -> LinearHead:
    """The joint classifier with bias b_c - τ log π_c.

    Args:
        head: the joint classifier, (C, D).
        class_counts: (C,) training samples per class, all positive.
        tau: strength, usually 0..2.

    Raises:
        DataError: a class without training samples, or another number of classes.

    NOTE[DIFF]: the reference code subtracts log(π^τ + 1e-12), which lets a class without samples pass.
    """
    if len(class_counts) != head.num_classes:
        raise DataError(
            f"class_counts must have C = {head.num_classes} entries like the head, but has {len(class_counts)}"
        )
    return head.rescaled(offset=-tau * log_prior(class_counts), info={"method": "la", "tau": float(tau)})


def la_curve(
    feature_set: FeatureSet,
    groups: ShotGroups | None = None,
    *,
    class_counts: Array | None = None,
    head: LinearHead | None = None,
    device: str = "cpu",
) -> Curve:
    """Accuracy of the adjusted classifier for every τ, exactly.

    Args:
        feature_set: usually the val split.
        groups: many/medium/few-shot classes; default from the class counts.
        class_counts: (C,); default those of the file.
        head: the joint classifier; default that of the file.
        device: where to compute; anything but "cpu" imports torch.
    """
    counts = feature_set.require_counts("logit adjustment") if class_counts is None else class_counts
    groups = feature_set.shot_groups() if groups is None else groups
    return affine_curve(feature_set, log_prior(counts, feature_set.class_names), groups, head=head, device=device)


def family(joint: LinearHead, class_counts: Array, *, device: str = "cpu") -> Family:
    """Logit adjustment as a family of heads, for ``model_selection``."""
    return Family(
        method="la",
        parameter="tau",
        curve=lambda split, groups: la_curve(split, groups, class_counts=class_counts, head=joint, device=device),
        head=lambda tau: logit_adjust(joint, class_counts, tau),
        grid=TAU_GRID,
    )
