"""LDAM head (Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019).

    CE(s (cos(x_i, w) - m_y [c = y]), y_i)      m_c = m n_c^-1/4 / max_k n_k^-1/4

A cosine head on frozen features whose rare classes must win by a larger margin. arXiv:1906.07413, equations 12 and 13.
Reference code: kaidic/LDAM-DRW. What it does not do: train the network.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.family import Family
from ltpost.fit.class_weights import effective_number, positive
from ltpost.fit.fitting import refit
from ltpost.fit.layer import Layer
from ltpost.fit.loss import Loss
from ltpost.fit.options import HeadFit
from ltpost.heads import Array
from ltpost.method import Method

FIT = HeadFit(sampler="instance")


def ldam(
    train: FeatureSet,
    class_counts: Array,
    *,
    margin: float = 0.5,
    scale: float = 30.0,
    weighting: Literal["none", "drw"] = "none",
    fit: HeadFit = FIT,
) -> Family:
    """Fits a cosine classifier with a margin that is larger for rare classes.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        class_counts: (C,) training samples per class, all positive.
        margin: the largest margin, that of the rarest class.
        scale: s, what cosines are multiplied with.
        weighting: drw: rows weighted by the effective number of their class (β = .9999).
        fit: the solver and its options. convex frees the lengths of the weights (:class:`~ltpost.fit.layer.Layer`).

    Returns:
        Heads along the strength (convex), or one head (sgd). Weights of unit length decide as cosines do, since ‖x‖
        is the same for all classes; their softmax is another.

    Raises:
        DataError: a class without training samples.
    """
    # NOTE[DIFF]: the reference turns the weights of DRW on for the last fifth of the training of the network. A head on
    # frozen features has no first part to defer them to; here they are on throughout.
    margins = positive(class_counts) ** -0.25
    margins *= margin / margins.max()
    loss = Loss(
        weight=effective_number(class_counts, 0.9999) if weighting == "drw" else None,
        scale=np.full(len(margins), scale),
        margin=scale * margins,
    )
    return refit(train, loss, fit, name="ldam", layer=Layer(cosine=True))


METHOD = Method(
    "ldam",
    ldam,
    title="LDAM head",
    label="LDAM",
    equation="cos(x, w_c), fitted with margins ∝ n_c^-1/4",
    source="Cao et al., NeurIPS 2019",
    chosen="strength (convex)",
    variant="head only",
    how="L-BFGS, or SGD recipe",
    example="ltpost ldam --weighting drw",
)
