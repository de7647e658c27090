"""MARC, margin calibration (Wang et al., "Margin Calibration for Long-Tailed Visual Recognition", ACML 2022).

    z'_c = a_c z_c + b_c ‖w_c‖        min over a, b   mean_i v_y CE(z'_i, y_i),   v_c ∝ π_c^-ρ

A factor and a shift per class on the joint classifier; z_c / ‖w_c‖ is the distance of x from the boundary of class c,
so b_c moves it. arXiv:2112.07225. Reference code: microsoft/robustlearn, ``marc``.
"""

from __future__ import annotations

from ltpost.data.features import FeatureSet
from ltpost.family import Family
from ltpost.fit.class_weights import inverse_power
from ltpost.fit.fitting import rescale
from ltpost.fit.loss import Loss
from ltpost.fit.options import Fit
from ltpost.heads import Array, LinearHead
from ltpost.method import Method

FIT = Fit(
    solver="sgd", sampler="instance", learning_rate=0.05, weight_decay=5e-4, batch_size=256, epochs=10,
    strengths=(1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6),
)  # fmt: skip


def marc(train: FeatureSet, head: LinearHead, class_counts: Array, *, rho: float = 1.2, fit: Fit = FIT) -> Family:
    """Learns a factor and a margin per class.

    Args:
        train: training logits (N, C), or features; several views of a sample are several rows.
        head: the joint classifier, (C, D).
        class_counts: (C,) training samples per class, all positive.
        rho: exponent of the class weights; 0 counts rows alike, 1 classes alike.
        fit: the solver and its options.
        solver: sgd, the recipe of the reference code, or convex.

    Returns:
        One head (sgd), or heads along the strength (convex).

    Raises:
        DataError: a class without training samples.
    """
    return rescale(
        train, head, Loss(weight=inverse_power(class_counts, rho)), fit, name="marc", shift_unit=head.norms()
    )


METHOD = Method(
    "marc",
    marc,
    title="margin calibration",
    label="MARC",
    equation="a_c z_c + b_c ‖w_c‖",
    source="Wang et al., ACML 2022",
    chosen="strength (convex)",
    variant="head only",
    how="SGD recipe, or L-BFGS",
    example="ltpost marc --solver convex",
)
