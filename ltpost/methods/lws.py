"""LWS, learnable weight scaling (Kang et al., "Decoupling Representation …", ICLR 2020, arXiv:1910.09217, 4.3).

    z'_c = f_c (w_c x + b_c)        min over f   1/C Σ_c mean_{i: y_i = c} CE(f ∘ z_i, c)  +  strength/2 ‖f - 1‖²

One factor per class on the joint classifier, all classes counted alike. Reference code: classifier-balancing
(``models/TauNormClassifier.py``, which scales the bias too).
"""

from __future__ import annotations

from ltpost.data.features import FeatureSet
from ltpost.family import Family
from ltpost.fit.fitting import rescale
from ltpost.fit.loss import Loss
from ltpost.fit.options import Fit
from ltpost.heads import Head
from ltpost.method import Method

FIT = Fit(solver="sgd", epochs=5, strengths=(1.0, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003))


def lws(train: FeatureSet, joint: Head, *, fit: Fit = FIT) -> Family:
    """Learns one factor per class, all classes counted alike.

    Args:
        train: training logits (N, C), or features and the joint classifier; several views of a sample are several rows.
        joint: the joint classifier.
        fit: the solver and its options.
        solver: sgd, the recipe of the paper, or convex.

    Returns:
        Heads along the strength (convex), or one head (sgd).

    The sgd solver is the default because it is the better one on real features, if not by much: on CIFAR-100-LT
    (ResNet-32, imbalance factor 100) 42.5 % mean per-class test accuracy from one view and from four (mean of 3 seeds),
    against 42.3 % and 42.2 % with convex and the strength chosen on val.
    """
    return rescale(train, joint, Loss(), fit, name="lws")


METHOD = Method(
    "lws",
    lws,
    title="learnable weight scaling",
    label="LWS",
    equation="f_c z_c",
    source="Kang et al., ICLR 2020",
    chosen="strength (convex)",
    variant="head only",
    how="SGD recipe, or L-BFGS",
    example="ltpost lws --solver convex",
)
