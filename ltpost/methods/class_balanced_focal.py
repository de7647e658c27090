"""CB-Focal head (Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019).

    v_y Σ_j (1 - q_ij)^γ (-log q_ij),   q_ij = σ(± (w_j x_i + b_j)), + for j = y_i      v_c ∝ (1 - β) / (1 - β^n_c)

C sigmoids on frozen features. arXiv:1901.05555, equation 12. Reference code: richardaecn/class-balanced-loss. The loss
is not convex: the full-batch solver descends from several starts and keeps the lowest end, which need not be the lowest
there is (on CIFAR-100-LT all ends agree to seven digits). What it does not do: train the network.
"""

from __future__ import annotations

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.family import Family
from ltpost.fit.class_weights import effective_number
from ltpost.fit.fitting import refit
from ltpost.fit.layer import Layer
from ltpost.fit.one_vs_rest import FocalLoss
from ltpost.fit.options import HeadFit
from ltpost.heads import Array, LinearHead
from ltpost.method import Method

FIT = HeadFit(sampler="instance")


def class_balanced_focal(
    train: FeatureSet,
    class_counts: Array,
    *,
    beta: float = 0.9999,
    gamma: float = 1.0,
    starts: int = 2,
    fit: HeadFit = FIT,
) -> Family:
    """Fits a sigmoid for every class, with more weight on rare classes and on what is judged badly.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        class_counts: (C,) training samples per class, all positive.
        beta: β of the effective number of samples.
        gamma: γ of the focal loss; 0 gives sigmoid cross entropy, which is convex.
        starts: convex: how many descents.
        fit: the solver and its options. With convex a head's info lists the objectives that the descents reached.

    Returns:
        Heads along the strength (convex), or one head (sgd).

    Raises:
        DataError: a class without training samples.
    """
    weight = effective_number(class_counts, beta)
    # NOTE[DIFF]: the reference starts from random weights; here both solvers start from zero, where all classes are
    # equally unlikely, as its bias is set. Its last bias has no weight decay; with sgd here it has.
    bias = np.full(len(weight), -np.log(max(len(weight) - 1, 1)))
    start = LinearHead(np.zeros((len(weight), train.num_features or 0)), bias)
    return refit(train, FocalLoss(weight, gamma), fit, name="cb-focal", layer=Layer(start=start), starts=starts)


METHOD = Method(
    "cb-focal",
    class_balanced_focal,
    title="class-balanced focal head",
    label="CB-focal",
    equation="Wx + b, C sigmoids",
    source="Cui et al., CVPR 2019",
    chosen="strength (convex)",
    variant="head only",
    how="L-BFGS from several starts, or SGD recipe",
    example="ltpost cb-focal --starts 5",
)
