"""LOS, label over-smoothing (Sun et al., "Rethinking Classifier Re-Training in Long-Tailed Recognition", ICLR 2025).

    mean_i CE against (1 - δ) [c = y_i] + δ / C,   δ = .98      z = W x + b

Targets that are nearly flat keep all logits small, and so the advantage of frequent classes. No counts are needed.
arXiv:2502.06563. Reference code: bilibili/LOS, which has δ as an option with default 0.
"""

from __future__ import annotations

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.fit.fitting import refit
from ltpost.fit.layer import Layer
from ltpost.fit.loss import Loss
from ltpost.fit.options import HeadFit
from ltpost.heads import LinearHead
from ltpost.method import Method

FIT = HeadFit(
    solver="sgd", sampler="instance", learning_rate=5e-4, weight_decay=0.0, batch_size=64, epochs=20,
    strengths=(0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6),
)  # fmt: skip


def los(train: FeatureSet, head: LinearHead, *, smoothing: float = 0.98, fit: HeadFit = FIT) -> Family:
    """Trains the classifier on with nearly flat targets.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        head: the joint classifier, which is the start.
        smoothing: δ in 0..1, the share of the target that is spread over all classes.
        fit: the solver and its options. With convex the penalty pulls to 0, and the start plays no part.

    Returns:
        Heads along the strength (convex), or one head (sgd).

    The recipe lives from its start and its few steps: on CIFAR-100-LT (ResNet-32, imbalance factor 100) it lifts
    few-shot test accuracy from 11 to 32 % and lowers many-shot accuracy from 68 to 31 %, while at the minimum itself
    few-shot accuracy is 0.

    Raises:
        UsageError: a smoothing that is no share.
    """
    if not 0 <= smoothing <= 1:
        raise UsageError(f"smoothing= must lie between 0 and 1, but is {smoothing}")
    loss = Loss(smoothing=np.full(train.num_classes, smoothing))
    return refit(train, loss, fit, name="los", layer=Layer(start=head, pull=False))


METHOD = Method(
    "los",
    los,
    title="label over-smoothing",
    label="LOS",
    equation="Wx + b",
    source="Sun et al., ICLR 2025",
    chosen="strength (convex)",
    variant="head only",
    how="SGD recipe, or L-BFGS",
    example="ltpost los --smoothing 0.9",
)
