"""Cosine head with the logit-adjusted loss: how LIFT (Shi et al., ICML 2024) and SHIKE (Jin et al., CVPR 2023) end.

    mean_i CE(s cos(x_i, w) + τ log π, y_i),   w_c begins as the mean of the features of class c

What is done on frozen features of foundation models. LIFT: arXiv:2309.10019, s = 25, begins at the class means. SHIKE:
arXiv:2304.06662, s = 30, begins at random. What it does not do: adapt the network, or read text vectors.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.family import Family
from ltpost.fit.fitting import refit
from ltpost.fit.layer import Layer
from ltpost.fit.loss import Loss
from ltpost.fit.options import HeadFit
from ltpost.heads import Array, LinearHead
from ltpost.method import Method
from ltpost.methods.nearest_class_mean import nearest_class_mean

FIT = HeadFit(sampler="instance", learning_rate=0.01, weight_decay=5e-4, batch_size=128, epochs=10)


def cosine_head(
    train: FeatureSet,
    class_counts: Array,
    *,
    start: Literal["class-means", "random"] = "class-means",
    scale: float = 25.0,
    tau: float = 1.0,
    fit: HeadFit = FIT,
) -> Family:
    """Fits a cosine classifier from the class means, with logits shifted by the class prior.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        class_counts: (C,) training samples per class, all positive.
        start: class-means: sgd begins there, and the penalty of convex pulls there, so that a strong one gives the
            nearest class mean by cosine. random: as a new layer, and the penalty pulls to 0.
        scale: s, what cosines are multiplied with.
        tau: weight of the shift by the log prior.
        fit: the solver and its options. convex frees the lengths of the weights (:class:`~ltpost.fit.layer.Layer`).

    Returns:
        Heads along the strength (convex), or one head (sgd). Weights of unit length decide as cosines do, since ‖x‖
        is the same for all classes; their softmax is another.

    Raises:
        DataError: a class without training samples, or whose mean feature is 0.
    """
    loss = Loss(offset=tau * log_prior(class_counts), scale=np.full(len(class_counts), scale))
    begin: LinearHead | None = None
    if start == "class-means":
        mean = nearest_class_mean(train).head()
        assert isinstance(mean, LinearHead)  # the cosine metric gives one
        begin = mean
    return refit(train, loss, fit, name="cosine-la", layer=Layer(start=begin, cosine=True))


METHOD = Method(
    "cosine-la",
    cosine_head,
    title="cosine head with logit-adjusted loss",
    label="cosine + LA",
    equation="cos(x, w_c), fitted as s cos(x, w_c) + τ log π_c",
    source="Shi et al., ICML 2024",
    chosen="strength (convex)",
    variant="head only",
    how="L-BFGS, or SGD recipe",
    example="ltpost cosine-la --start random --scale 30",
)
