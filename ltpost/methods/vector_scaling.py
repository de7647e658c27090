"""Vector scaling (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017), all classes counted alike.

    z'_c = f_c z_c + b_c        min over f, b   1/C Σ_c mean_{i: y_i = c} CE(z'_i, c)  +  strength/2 (‖f - 1‖² + ‖b‖²)

A factor and a shift per class on the joint classifier: LWS with a shift. MARC is the same with ‖w_c‖ as the unit of the
shift. arXiv:1706.04599, section 4.2. What it does not do: keep the frequencies of the classes, as calibration would.
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


def vector_scaling(train: FeatureSet, joint: Head, *, fit: Fit = FIT) -> Family:
    """Learns a factor and a shift per class, all classes counted alike.

    Args:
        train: training logits (N, C), or features and the joint classifier; several views of a sample are several rows.
        joint: the joint classifier.
        fit: the solver and its options.

    Returns:
        Heads along the strength (convex), or one head (sgd).
    """
    return rescale(train, joint, Loss(), fit, name="vector-scaling", shift_unit=np.ones(joint.num_classes))


METHOD = Method(
    "vector-scaling",
    vector_scaling,
    title="vector scaling",
    label="vector scaling",
    equation="f_c z_c + b_c",
    source="Guo et al., ICML 2017",
    chosen="strength (convex)",
    variant="head only",
    how="L-BFGS, or SGD",
    example="ltpost vector-scaling --strengths 0.1,0.01",
)
