"""LDA on the features of the last layer, added to the logit-adjusted joint classifier.

    z_c - τ log π_c + γ LDA_c        LDA_c = x · S⁻¹m_c - ½ m_c · S⁻¹m_c, see ``linear_discriminant``

The joint classifier and the discriminants err on different rows. Both are linear in x, and so is their sum: one linear
layer. With ``root`` the discriminants read √x, which suits features after a ReLU better, and the sum is no linear layer
of x. A recipe of this toolkit, not of a paper. What it does not do: read earlier layers (see ``layers``).
"""

from __future__ import annotations

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.data.scatter import class_scatter
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.fit.discriminant import discriminant, means_towards_the_centre
from ltpost.fit.sampling import rows_per_class
from ltpost.heads import Array, ChangedHead, LinearHead, weighted_sum
from ltpost.heads.changed import change
from ltpost.method import Method
from ltpost.methods.tau_norm import GRID


def discriminant_adjusted(
    train: FeatureSet,
    head: LinearHead,
    class_counts: Array,
    *,
    weight: float = 0.3,
    shrinkage: float = 0.5,
    root: bool = False,
) -> Family:
    """Adds linear discriminants on the last features to the logit-adjusted joint classifier.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        head: the joint classifier, (C, D).
        class_counts: (C,) training samples per class, all positive.
        weight: γ, what the discriminants count beside the joint classifier.
        shrinkage: λ of the covariance, in 0..1.
        root: let the discriminants read √max(x, 0); the head is then no linear layer.

    Returns:
        Heads along τ, usually 0..2, with an exact curve; linear ones unless ``root``.

    Raises:
        DataError: a class without a row or a count.
        UsageError: a weight or a shrinkage that cannot be.
    """
    if not 0 < weight < np.inf:
        raise UsageError(f"weight= must be positive, but is {weight}")
    if not 0 <= shrinkage <= 1:
        raise UsageError(f"shrinkage= must lie in 0..1, but is {shrinkage}")
    power = 0.5 if root else 1.0
    slope = log_prior(class_counts)
    rows_per_class(train)
    scatter = class_scatter(
        train.feature_blocks(), train.labels, train.num_classes, train.num_features or 0, lambda x: change(x, power)
    )
    means = means_towards_the_centre(scatter.means, class_counts)
    layer = discriminant(means, scatter.covariance, shrinkage, train.name)
    added = ChangedHead(layer, power=power) if root else layer
    return Family.affine(weighted_sum([head, added], [1.0, weight]), slope)


METHOD = Method(
    "lda-la",
    discriminant_adjusted,
    title="logit adjustment and discriminants",
    equation="z_c - τ log π_c + γ LDA_c",
    source="ltpost",
    label="LA + LDA",
    chosen="τ",
    grid=GRID,
    how="closed form, exact sweep",
    example="ltpost lda-la --root",
)
