"""DisAlign (Zhang et al., "Distribution Alignment: A Unified Framework for Long-tail Visual Recognition", CVPR 2021).

    z'_c = (1 + g α_c) z_c + g β_c      g = σ(v · x + v₀)
    min over α, β, v, v₀   mean_i v_y CE(z'_i, y_i),   v_c ∝ π_c^-ρ

The joint classifier, adjusted class by class, as far as a gate opens for the row. arXiv:2103.16370, equations 5 to 8;
the paper writes (α z + β) g + (1 - g) z, which is the same family with α one larger. Reference code:
Megvii-BaseDetection/DisAlign. The full-batch solver descends from the published start, to a local minimum.
"""

from __future__ import annotations

from typing import Literal

from ltpost.data.features import FeatureSet
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.fit.class_weights import inverse_power
from ltpost.fit.fitting import gated
from ltpost.fit.loss import Loss
from ltpost.fit.options import Fit
from ltpost.heads import Array, LinearHead
from ltpost.method import Method

FIT = Fit(
    solver="sgd", sampler="instance", learning_rate=0.1, weight_decay=5e-4, batch_size=256, epochs=10,
    strengths=(1.0, 0.1, 0.03, 0.01, 0.003, 0.001),
)  # fmt: skip


def disalign(
    train: FeatureSet,
    head: LinearHead,
    class_counts: Array,
    *,
    form: Literal["linear", "cosine"] = "linear",
    rho: float = 1.2,
    scale: float = 20.0,
    fit: Fit = FIT,
) -> Family:
    """Learns a factor and a shift per class, and a gate that says how far they apply to a row.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        head: the joint classifier, (C, D).
        class_counts: (C,) training samples per class, all positive.
        form: linear: z = W x + b. cosine: z = s cos(x, w_c), x at unit length in the gate too, and s is learned.
        rho: exponent of the class weights; 0 counts rows alike, 1 classes alike.
        scale: s at the start, for cosine.
        fit: the solver and its options.

    Returns:
        One head (sgd), or heads along the strength (convex), which are not linear (:class:`~ltpost.heads.GatedHead`).

    Raises:
        DataError: a class without training samples.
        UsageError: a scale that is not positive.
    """
    if not scale > 0:
        raise UsageError(f"scale= must be positive, but is {scale}")
    # NOTE[DIFF]: the reference draws v₀ at random; here it starts at 0, so that a seed changes the batches alone.
    loss = Loss(weight=inverse_power(class_counts, rho))
    return gated(train, head, loss, fit, name="disalign", unit=form == "cosine", scale=scale)


METHOD = Method(
    "disalign",
    disalign,
    title="distribution alignment",
    label="DisAlign",
    equation="(1 + g α_c) z_c + g β_c",
    source="Zhang et al., CVPR 2021",
    chosen="strength (convex)",
    variant="head only",
    how="SGD recipe, or L-BFGS",
    example="ltpost disalign --form cosine",
)
