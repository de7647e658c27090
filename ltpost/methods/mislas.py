"""MiSLAS stage 2 (Zhong et al., "Improving Calibration for Long-Tailed Recognition", CVPR 2021).

    1/C Σ_c mean_{i: y_i = c} CE against (1 - ε_y) [c = y] + ε_y / C      z = f ∘ (W x + b)
    ε_c = ε_K + (ε_1 - ε_K) h(r_c),   r_c = (n_c - n_K) / (n_1 - n_K)      n_1 the largest count, n_K the least

Label-aware smoothing: frequent classes get softer targets. Classifier and a scale per class are trained on, all classes
counted alike. arXiv:2104.00466, equations 4 and 5. Reference code: dvlab-research/MiSLAS. What it does not do: stage 1
with mixup, or let batch-norm statistics shift.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.fit.class_weights import positive
from ltpost.fit.fitting import refit
from ltpost.fit.layer import Layer
from ltpost.fit.loss import Loss
from ltpost.fit.options import HeadFit
from ltpost.heads import Array, LinearHead
from ltpost.method import Method

FIT = HeadFit(solver="sgd", epochs=10)


def mislas(
    train: FeatureSet,
    head: LinearHead,
    class_counts: Array,
    *,
    shape: Literal["concave", "linear", "convex", "exponential"] = "concave",
    most: float = 0.4,
    least: float = 0.1,
    power: float = 2.0,
    lr_factor: float = 0.2,
    fit: HeadFit = FIT,
) -> Family:
    """Trains the classifier on with a scale per class and softer targets for frequent classes.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        head: the joint classifier, which is the start.
        class_counts: (C,) training samples per class, all positive.
        shape: how smoothing grows with the count: concave sin(π r / 2), linear r, convex 1 + sin(3π/2 + π r / 2),
            exponential r^power.
        most: ε_1, smoothing of the most frequent class; published .4 for CIFAR-100-LT and Places-LT, else .3.
        least: ε_K, smoothing of the rarest; published .1 for CIFAR-100-LT and Places-LT, else 0.
        power: exponent of the exponential shape.
        lr_factor: sgd: part of the learning rate at which W and b are trained; the scales have all of it. Published .2
            for CIFAR-100-LT, else .05.
        fit: the solver and its options. With convex the penalty pulls W to the joint classifier, and the scales, which
            W and b can stand for, are left out.

    Returns:
        Heads along the strength (convex), or one head (sgd).

    Raises:
        DataError: a class without training samples.
        UsageError: a smoothing that is no share, or a power or lr_factor that is not positive.
    """
    for name, value in (("most", most), ("least", least)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name}= must lie between 0 and 1, but is {value}")
    for name, value in (("power", power), ("lr_factor", lr_factor)):
        if not value > 0:
            raise UsageError(f"{name}= must be positive, but is {value}")
    loss = Loss(smoothing=least + (most - least) * _share(positive(class_counts), shape, power))
    return refit(train, loss, fit, name="mislas", layer=Layer(start=head, factor=lr_factor))


def _share(counts: Array, shape: str, power: float) -> Array:
    """h(r), (C,): 1 for the most frequent class and 0 for the rarest."""
    # NOTE[DIFF]: the reference divides by 0 where all counts are equal; here each class is then the most frequent one.
    span = counts.max() - counts.min()
    r: Array = (counts - counts.min()) / span if span else np.ones(len(counts))
    if shape == "concave":
        return np.sin(np.pi * r / 2)
    if shape == "convex":
        return 1 + np.sin(1.5 * np.pi + np.pi * r / 2)
    return r if shape == "linear" else r**power


METHOD = Method(
    "mislas",
    mislas,
    title="MiSLAS stage 2",
    label="MiSLAS",
    equation="f_c (Wx + b)_c",
    source="Zhong et al., CVPR 2021",
    chosen="strength (convex)",
    variant="head only",
    how="SGD recipe, or L-BFGS",
    example="ltpost mislas --shape linear",
)
