"""Balanced Softmax head (Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020).

    min over W, b   mean_i CE(W x_i + b + log n, y_i)  +  strength/2 ‖W‖²

The counts shift the logits in training and not in use. A new linear classifier on frozen features, as the paper's
decoupled rows; it is also the logit-adjusted loss (Menon et al., ICLR 2021) with τ = 1. arXiv:2007.10740. Reference
code: jiawei-ren/BalancedMetaSoftmax-Classification. What it does not do: the meta sampler.
"""

from __future__ import annotations

from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.family import Family
from ltpost.fit.fitting import refit
from ltpost.fit.loss import Loss
from ltpost.fit.options import HeadFit
from ltpost.heads import Array
from ltpost.method import Method

FIT = HeadFit(sampler="instance")


def balanced_softmax(train: FeatureSet, class_counts: Array, *, fit: HeadFit = FIT) -> Family:
    """Fits a new classifier whose logits are shifted by the class prior while it is fitted.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        class_counts: (C,) training samples per class, all positive.
        fit: the solver and its options.

    Returns:
        Heads along the strength (convex), or one head (sgd).

    Raises:
        DataError: a class without training samples.

    NOTE[DIFF]: the reference code adds log n_c, here it is log π_c: the same softmax.
    """
    return refit(train, Loss(offset=log_prior(class_counts)), fit, name="balanced-softmax")


METHOD = Method(
    "balanced-softmax",
    balanced_softmax,
    title="balanced softmax head",
    label="Balanced softmax",
    equation="Wx + b, fitted as Wx + b + log π",
    source="Ren et al., NeurIPS 2020",
    chosen="strength (convex)",
    variant="head only",
    how="L-BFGS, or SGD recipe",
    example="ltpost balanced-softmax --solver sgd",
)
