"""Class-balanced head (Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019).

    v_y CE(W x_i + b, y_i),   v_c ∝ (1 - β) / (1 - β^n_c), summing to C

A new linear classifier on frozen features, each class weighted by its effective number of samples. arXiv:1901.05555,
equation 10. β = 0 is plain cross entropy, β towards 1 is cRT. What it does not do: train the network.
"""

from __future__ import annotations

from ltpost.data.features import FeatureSet
from ltpost.family import Family
from ltpost.fit.class_weights import effective_number
from ltpost.fit.fitting import refit
from ltpost.fit.loss import Loss
from ltpost.fit.options import HeadFit
from ltpost.heads import Array
from ltpost.method import Method

FIT = HeadFit(sampler="instance")


def class_balanced_head(train: FeatureSet, class_counts: Array, *, beta: float = 0.9999, fit: HeadFit = FIT) -> Family:
    """Fits a new classifier, each class weighted by its effective number of samples.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        class_counts: (C,) training samples per class, all positive.
        beta: β; 0 counts rows alike, values towards 1 classes alike.
        fit: the solver and its options.

    Returns:
        Heads along the strength (convex), or one head (sgd).

    Raises:
        DataError: a class without training samples.
    """
    # NOTE[DIFF]: the weighted cross entropy of PyTorch divides by the weights of the batch; here the weights of all
    # classes sum to C, and a batch is divided by its rows, as in the reference code.
    return refit(train, Loss(weight=effective_number(class_counts, beta)), fit, name="cb-ce")


METHOD = Method(
    "cb-ce",
    class_balanced_head,
    title="class-balanced head",
    label="CB-CE",
    equation="Wx + b",
    source="Cui et al., CVPR 2019",
    chosen="strength (convex)",
    variant="head only",
    how="L-BFGS, or SGD recipe",
    example="ltpost cb-ce --beta 0.999",
)
