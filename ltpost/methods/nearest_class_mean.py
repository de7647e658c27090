"""NCM, nearest class mean (Kang et al., "Decoupling Representation …", ICLR 2020, arXiv:1910.09217, 4.2).

    μ_c = mean_{i: y_i = c} x_i        cosine   z_c = x · μ_c / ‖μ_c‖        Euclidean   z_c = x · μ_c - ‖μ_c‖²/2

The metrics ``un``, ``l2n`` and ``cl2n`` are those of the reference code (``models/KNNClassifier.py``), the last two
after Wang, Chao, Weinberger, van der Maaten, "SimpleShot", 2019, arXiv:1911.04623. What it does not do: train, take
neighbours (k-NN), or weigh the means.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ltpost.data.class_sums import class_sums
from ltpost.data.features import FeatureSet
from ltpost.errors import DataError
from ltpost.family import Family
from ltpost.fit.sampling import rows_per_class
from ltpost.heads import LinearHead, NormalizedMeanHead
from ltpost.heads.normalized import normalized
from ltpost.method import Method


def nearest_class_mean(
    train: FeatureSet, *, metric: Literal["cosine", "euclidean", "cl2n", "l2n", "un"] = "cosine"
) -> Family:
    """Takes the mean training feature of a class as its weight.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        metric: cosine and euclidean to the class mean give linear heads (euclidean with weights μ_c - m, m the mean of
            the means); un is euclidean by its name in the reference
            code; l2n: Euclidean to the mean of x / ‖x‖; cl2n: of (x - m) / ‖x - m‖ with m the mean of all training
            rows, so mostly that of the many-shot classes.

    Returns:
        One head; for ``l2n`` and ``cl2n`` one that is not linear (:class:`~ltpost.heads.NormalizedMeanHead`).
        One pass over the features (``cl2n``: two).

    Raises:
        DataError: a class without a row, or whose mean is 0 (cosine); features that are missing or not finite.

    >>> train = FeatureSet(np.array([[3.0, 0.0], [1.0, 0.0], [0.0, 5.0]]), np.array([0, 0, 1]))
    >>> nearest_class_mean(train).head().weight
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    >>> nearest_class_mean(train, metric="euclidean").head().bias
    array([ 1.625, -8.875], dtype=float32)
    """
    counts = rows_per_class(train)[:, None]
    # NOTE[DIFF]: the reference's "cos" divides x · μ by D and normalises neither, so it is no cosine. Here it is one,
    # up to ‖x‖, which is the same for all classes.
    if metric == "cosine":
        means = class_sums(train) / counts
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        if not norms.all():
            raise DataError(
                f"{train.name}: the mean feature of class {int(np.argmin(norms))} is 0, and has no direction for the "
                "cosine metric; use euclidean"
            )
        return Family.single(LinearHead(means / norms))
    if metric in ("euclidean", "un"):
        means = class_sums(train) / counts
        middle = means.mean(axis=0)
        # NOTE[DIFF]: less x · m - ‖m‖²/2, which is the same for all classes. In float32 a large column that all rows
        # share would leave nothing of the rest.
        return Family.single(LinearHead(means - middle, -((means - middle) * (means + middle)).sum(1) / 2))
    centre = np.zeros(train.num_features or 0)
    if metric == "cl2n":
        centre = class_sums(train).sum(0) / counts.sum()
    means = class_sums(train, lambda block: normalized(block - centre)) / counts
    return Family.single(NormalizedMeanHead(means, centre))


METHOD = Method(
    "ncm",
    nearest_class_mean,
    title="nearest class mean",
    label="NCM",
    equation="cos(x, μ_c)",
    source="Kang et al., ICLR 2020",
    how="one pass",
    example="ltpost ncm --metric euclidean",
)
