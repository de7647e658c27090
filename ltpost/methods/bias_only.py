"""A shift per class on the joint classifier, fitted to the training rows, all classes counted alike.

    z'_c = z_c + b_c        min over b   1/C Σ_c mean_{i: y_i = c} CE(z_i + b, c)  +  strength/2 ‖b‖²

What logit adjustment does by the counts, learned instead: bias-corrected temperature scaling without the temperature
(Alexandari et al., "Maximum Likelihood With Bias-Corrected Calibration …", ICML 2020, arXiv:1901.06852). What it does
not do: fit to val (class-offsets does).
"""

from __future__ import annotations

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.family import Family
from ltpost.fit.fitting import rescale
from ltpost.fit.loss import Loss
from ltpost.fit.options import Fit
from ltpost.heads import Head
from ltpost.method import Method

FIT = Fit(strengths=(1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6))


def bias_only(train: FeatureSet, joint: Head, *, fit: Fit = FIT) -> Family:
    """Learns a shift per class, all classes counted alike.

    Args:
        train: training logits (N, C), or features and the joint classifier; several views of a sample are several rows.
        joint: the joint classifier.
        fit: the solver and its options.

    Returns:
        Heads along the strength (convex), or one head (sgd).
    """
    ones = np.ones(joint.num_classes)
    return rescale(train, joint, Loss(), fit, name="bias-only", shift_unit=ones, factors=False)


METHOD = Method(
    "bias-only",
    bias_only,
    title="learned shifts",
    label="bias only",
    equation="z_c + b_c",
    source="Alexandari et al., ICML 2020",
    chosen="strength (convex)",
    variant="head only",
    how="L-BFGS, or SGD",
    example="ltpost bias-only --strengths 0.1,0.01",
)
