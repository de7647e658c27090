"""Tau-normalization (Kang et al., "Decoupling Representation and Classifier …", ICLR 2020, arXiv:1910.09217, 4.2).

    w̃_c = w_c / ‖w_c‖^τ                                                                      (Equation 5)

τ = 0 keeps the weights, τ = 1 gives them unit norm. The weights of frequent classes are the longer ones, so τ > 0
gives rare classes a wider cone. What it does not do: learn anything, or need class counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ltpost.errors import DataError, UsageError
from ltpost.head import Array, LinearHead
from ltpost.methods import TAU_GRID, Family
from ltpost.priors import ShotGroups, class_list
from ltpost.sweep import Curve, GridCurve, scaled_curve

if TYPE_CHECKING:
    from ltpost.features import FeatureSet

BIAS = ("drop", "scale", "keep")


def tau_normalize(head: LinearHead, tau: float, bias: str = "drop") -> LinearHead:
    """Tau-normalized classifier.

    Args:
        head: the joint classifier, (C, D).
        tau: the temperature of the normalization, usually 0..2.
        bias: "drop" (the paper's classifier has none), "scale" (b_c / ‖w_c‖^τ, like the weights) or "keep" (b_c).

    Raises:
        DataError: a row of the weight is zero.

    NOTE[DIFF]: the reference code (classifier-balancing, ``tau_norm.py``) always drops the bias, without saying so;
    τ = 0 is then not the joint classifier.

    >>> tau_normalize(LinearHead(np.array([[3.0, 4.0], [0.0, 2.0]])), tau=1.0).weight
    array([[0.6, 0.8],
           [0. , 1. ]], dtype=float32)
    """
    scale = _norms(head) ** -tau
    info = {"method": "tnorm", "tau": float(tau), "bias": bias}
    if head.bias is None or bias == "scale":
        return head.rescaled(scale, info=info)
    if bias == "drop":
        return head.rescaled(scale, -scale * head.bias, info=info)
    if bias == "keep":
        return head.rescaled(scale, head.bias - scale * head.bias, info=info)
    raise UsageError(f"--bias must be one of {', '.join(BIAS)}, but is {bias!r}")


def tau_curve(
    feature_set: FeatureSet,
    groups: ShotGroups | None = None,
    *,
    head: LinearHead | None = None,
    bias: str = "drop",
    grid: Iterable[float] = TAU_GRID,
    device: str = "cpu",
) -> Curve:
    """Accuracy of the tau-normalized classifier for every τ (exact; with ``bias="keep"`` at the values of ``grid``).

    Args:
        feature_set: usually the val split.
        groups: many/medium/few-shot classes; default from its ``class_counts``.
        head: the joint classifier; default that of the file.
        bias: see :func:`tau_normalize`. A kept bias is not scaled, so scores are not affine in τ even in logarithms.
        grid: values of τ, for ``bias="keep"`` only.
        device: where to compute; anything but "cpu" imports torch.
    """
    head = feature_set.require_head("tau-normalization rescales") if head is None else head
    groups = feature_set.shot_groups() if groups is None else groups
    if bias == "keep" and head.bias is not None:
        values = tuple(grid)
        return GridCurve.of_heads(
            "tau", values, [tau_normalize(head, tau, bias) for tau in values], feature_set, groups
        )
    unscaled = tau_normalize(head, 0.0, bias)  # the joint classifier, without its bias where that is dropped
    return scaled_curve(feature_set, np.log(_norms(head)), groups, head=unscaled, device=device)


def family(joint: LinearHead, *, bias: str = "drop", grid: tuple[float, ...] = TAU_GRID, device: str = "cpu") -> Family:
    """Tau-normalization as a family of heads, for ``model_selection``."""
    _norms(joint)  # a row of zeros is an error here already
    notes: tuple[str, ...] = ()
    if bias == "keep" and joint.bias is not None:
        notes = ("with a kept bias the curve is not exact: tau is one of the values of the grid",)
    return Family(
        method="tnorm",
        parameter="tau",
        curve=lambda split, groups: tau_curve(split, groups, head=joint, bias=bias, grid=grid, device=device),
        head=lambda tau: tau_normalize(joint, tau, bias),
        grid=tuple(grid),
        params={"bias": bias},
        notes=notes,
    )


def _norms(head: LinearHead) -> Array:
    if head.input == "logits":
        raise DataError(
            "tau-normalization rescales 'head/weight' (C, D), but only logits are known; extract with a head"
        )
    norms = head.norms()
    zero = np.flatnonzero(norms == 0)
    if len(zero):
        raise DataError(
            f"no row of 'head/weight' may be zero for tau-normalization, but that of {class_list(zero)} is; "
            "remove the class, or use logit adjustment"
        )
    return norms
