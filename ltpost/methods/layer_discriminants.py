"""LDA heads on earlier layers of the network, added to the logit-adjusted joint classifier.

    z'_c = log softmax(z)_c - τ log π_c + γ/J Σ_j log softmax(LDA_j(√a_j))_c        a_j the pooled features of layer j

The square root is for layers that are never negative, as after a ReLU; others are taken as they are.

The last stage of a network memorises its training rows: the slope of the class means of unseen rows on those of
training rows is well below 1 for rare classes, more so than for earlier stages. Heads on earlier layers therefore
generalise better there, and must be fitted apart and mixed. A recipe of this toolkit, not of a paper; SHIKE (Jin et
al., CVPR 2023) uses several depths by training. On CIFAR-100-LT (ResNet-32, imbalance factor 100) three layers bring
4 points of mean per-class accuracy over tau-normalization; see ``benchmarks/layers.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.data.scatter import class_scatter
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.fit.discriminant import discriminant, means_towards_the_centre, power_of
from ltpost.fit.sampling import rows_per_class
from ltpost.heads import Array, ChangedHead, Head, SummedHead
from ltpost.heads.changed import change
from ltpost.method import Method
from ltpost.methods.tau_norm import GRID

WIDE = 512  # of a layer, from which its covariance is shrunk more


def layer_discriminants(
    train: FeatureSet,
    joint: Head,
    class_counts: Array,
    layers: Sequence[str],
    *,
    weight: float = 0.5,
    shrinkage: float | None = None,
    only: str | None = None,
) -> Family:
    """Adds linear discriminants on earlier layers to the logit-adjusted joint classifier.

    Args:
        train: training rows with the layers; several views of a sample are several rows.
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class, all positive.
        layers: names of the layers that every file has.
        weight: γ, what the mean over the layers counts beside the joint classifier.
        shrinkage: of each layer's covariance, in 0..1. Default 0.1, and 0.3 for a layer of 512 columns or more.
        only: names of the layers to use, separated by commas. Default all.

    Returns:
        Heads along τ, usually 0..2, with an exact curve. One pass over each layer, N D_l² multiplications.

    Raises:
        DataError: a class without a row or a count.
        UsageError: a layer that is not there; a weight or a shrinkage that cannot be.
    """
    if not 0 < weight < np.inf:
        raise UsageError(f"weight= must be positive, but is {weight}")
    if shrinkage is not None and not 0 <= shrinkage <= 1:
        raise UsageError(f"shrinkage= must lie in 0..1, but is {shrinkage}")
    names = list(layers) if only is None else [name.strip() for name in only.split(",")]
    for name in names:
        if name not in layers:
            raise UsageError(f"only= names the layer {name!r}, but the files have {', '.join(layers)}")
    slope = log_prior(class_counts)
    rows_per_class(train)
    heads = [_discriminant(train, name, class_counts, shrinkage) for name in names]
    summed = SummedHead([joint, *heads], [1.0, *[weight / len(heads)] * len(heads)])
    return Family.affine(summed, slope, params={"layers": names})


def _discriminant(train: FeatureSet, layer: str, class_counts: Array, shrinkage: float | None) -> ChangedHead:
    width = train.layers[layer].shape[1]

    power = power_of(train.layer_blocks(layer))

    def changed(block: Array) -> Array:
        return change(block, power)

    scatter = class_scatter(train.layer_blocks(layer), train.labels, train.num_classes, width, changed)
    means = means_towards_the_centre(scatter.means, class_counts)
    own = (0.3 if width >= WIDE else 0.1) if shrinkage is None else shrinkage
    head = discriminant(means, scatter.covariance, own, f"{train.name}, layers/{layer}")
    return ChangedHead(head, power=power, source=layer)


METHOD = Method(
    "layers",
    layer_discriminants,
    title="discriminants on earlier layers",
    label="LA + layers",
    equation="z_c - τ log π_c + γ mean_j LDA_j,c",
    source="ltpost",
    chosen="τ",
    grid=GRID,
    how="closed form, exact sweep",
    example="ltpost layers --only layer3.0",
)
