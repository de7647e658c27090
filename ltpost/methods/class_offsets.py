"""Shifts per class that are fitted to val, and shrunk towards logit adjustment as far as val is too small to tell.

    z'_c = z_c + b_c      b_c = m_c + σ² / (σ² + e_c²) (a_c - m_c)      m_c = k - τ log π_c

a minimises the class-balanced cross entropy of val, e_c² is the variance of a_c, and τ, k and σ² are estimated from a:
b_c is the mean of its posterior under a normal prior whose mean is logit adjustment. The normal model: Morris,
"Parametric empirical Bayes inference", JASA 78 (1983); σ² by moments: DerSimonian and Laird, Control. Clin. Trials 7
(1986). Shifts shrunk so are also in Miao et al., REPAIR, 2026, arXiv:2604.01506, whose prior mean is 0.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.family import Family
from ltpost.fit.fitting import rescale
from ltpost.fit.loss import Loss
from ltpost.fit.options import Fit
from ltpost.fit.sampling import row_weights, rows_per_class
from ltpost.heads import Array, Head, RescaledHead
from ltpost.heads.blocks import score_blocks
from ltpost.method import Method

RIDGE = 1e-5  # keeps the shifts of a tiny val split finite


def class_offsets(
    val: FeatureSet,
    joint: Head,
    class_counts: Array,
    *,
    shrinkage: Literal["empirical-bayes", "none"] = "empirical-bayes",
    device: str = "cpu",
    progress: bool = True,
) -> Family:
    """Fits a shift per class to val, and shrinks it towards logit adjustment.

    Args:
        val: labelled rows; a class without one gets its shift from the prior.
        joint: the joint classifier.
        class_counts: (C,) training samples per class, all positive.
        shrinkage: empirical-bayes, or none: the shifts as they fit val best.
        device: where to fit.
        progress: show a bar, on a terminal.

    Returns:
        One head. Its params say τ, σ (the spread of the shifts about logit adjustment) and the mean share kept.

    Raises:
        DataError: a class without training samples.
    """
    log_pi = log_prior(class_counts)
    counts = rows_per_class(val, absent=True)
    present = counts > 0
    fit = Fit(solver="convex", strengths=(RIDGE,), tolerance=1e-5, device=device, progress=progress)
    rescaling = rescale(
        val, joint, Loss(), fit, name="class-offsets", shift_unit=present.astype(float), factors=False, absent=True
    )
    head = rescaling.head(RIDGE)
    assert isinstance(head, RescaledHead)
    offset = np.zeros(len(counts)) if head.offset is None else head.offset
    variance = _variance(val, head, row_weights(val.labels, counts))
    params: dict[str, float] = {}
    if shrinkage == "empirical-bayes":
        offset, params = shrunk(offset, variance, log_pi, present)
    return Family.single(RescaledHead(joint, offset=offset), params=params, notes=rescaling.notes)


def _variance(val: FeatureSet, head: Head, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """About the variance of each shift, (C,): Σ w_i² (p_ic - [y_i = c])² / (Σ w_i p_ic (1 - p_ic))²."""
    slope, curvature = np.zeros(head.num_classes), np.zeros(head.num_classes)
    for part, scores in score_blocks(head, val):
        p = np.exp(scores - scores.max(1, keepdims=True), dtype=np.float64)
        p /= p.sum(1, keepdims=True)
        curvature += weights[part] @ (p * (1 - p))
        p[np.arange(len(p)), val.labels[part]] -= 1
        slope += np.square(weights[part]) @ np.square(p)
    return np.asarray(slope / np.maximum(curvature, 1e-12) ** 2)


def shrunk(
    offset: Array, variance: Array, log_pi: Array, present: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Posterior means of the shifts, (C,), and τ, σ and the mean share that was kept of the distance from the prior.

    Args:
        offset: (C,) a.
        variance: (C,) e².
        log_pi: (C,) log π.
        present: (C,) whether the class has rows; those that have none get the prior mean.
    """
    design = np.column_stack([np.ones(len(log_pi)), log_pi.mean() - log_pi])
    a, precision, x = offset[present], 1 / np.maximum(variance[present], 1e-12), design[present]

    def line(weights: Array) -> NDArray[np.float64]:
        root = np.sqrt(weights)[:, None]
        return np.asarray(np.linalg.lstsq(root * x, root[:, 0] * a, rcond=None)[0])

    excess = float(precision @ np.square(a - x @ line(precision))) - (len(a) - x.shape[1])
    hat = np.linalg.pinv(x.T @ (precision[:, None] * x)) @ (x.T @ (np.square(precision)[:, None] * x))
    spread = max(0.0, excess / max(float(precision.sum() - np.trace(hat)), 1e-12)) if len(a) > x.shape[1] else 0.0
    coefficients = line(1 / (spread + 1 / precision))
    mean = design @ coefficients
    kept = np.where(present, spread / (spread + np.maximum(variance, 1e-12)), 0.0)
    summary = {"tau": float(coefficients[1]), "sigma": spread**0.5, "kept": float(kept.mean())}
    return mean + kept * (offset - mean), summary


METHOD = Method(
    "class-offsets",
    class_offsets,
    title="shifts fitted on val, shrunk",
    label="class offsets",
    equation="z_c + b_c",
    source="Morris, JASA 1983",
    how="L-BFGS, moments",
    example="ltpost class-offsets --shrinkage none",
)
