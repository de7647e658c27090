"""NCM, nearest class mean: a class is the mean of its training features; no training.

    μ_c = mean_{i: y_i = c} x_i        cosine   z_c = x · μ_c / ‖μ_c‖        Euclidean   z_c = x · μ_c - ‖μ_c‖²/2

Source: Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis, "Decoupling Representation and Classifier for Long-Tailed
Recognition", ICLR 2020, arXiv 1910.09217, section 4.2. The metrics ``un``, ``l2n`` and ``cl2n`` are those of its code
(``models/KNNClassifier.py``), the last ones after Wang, Chao, Weinberger, van der Maaten, "SimpleShot", 2019,
arXiv 1911.04623.

What this module does not do: take neighbours (k-NN), or weigh the means.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ltpost.distributed import sum_array
from ltpost.errors import DataError, UsageError
from ltpost.features import FeatureSet
from ltpost.head import Array, LinearHead
from ltpost.methods import Family
from ltpost.priors import ShotGroups
from ltpost.sampling import rows_per_class
from ltpost.sweep import Curve

_BLOCK_ELEMENTS = 2**19  # per thread: 4 MiB as float64, which stays in the cache
_MAPPED_ELEMENTS = 2**27  # per thread, of which the rows are sorted by class
_READ_ELEMENTS = 2**24

METRICS = ("cosine", "euclidean", "un", "l2n", "cl2n")


class NormalizedMeanHead:
    """Nearest mean of normalised features: z_c = -‖q - μ_c‖², q = (x - m) / ‖x - m‖.

    The norm of the query makes it no linear function of x, so that there is no weight matrix to export.

    Args:
        means: (C, D) means of the normalised training features; not normalised again.
        centre: (D,) m, the mean of all training rows (``cl2n``) or 0 (``l2n``).
        info: what is known of how the head was made.
    """

    input = "features"

    def __init__(self, means: Array, centre: Array, info: dict[str, Any]):
        self.means, self.centre, self.info = means, centre, info

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.means)

    @property
    def num_features(self) -> int:
        """D."""
        return len(self.centre)

    def logits(self, features: Array) -> Array:
        """(n, D) features to (n, C) float32: minus the squared distance to every mean."""
        query = _normalised(np.asarray(features, dtype=np.float64) - self.centre)
        # ‖q - μ‖² = ‖q‖² - 2 q·μ + ‖μ‖²
        squares = np.square(query).sum(1)[:, None] + np.square(self.means).sum(1)
        scores: Array = (2 * query @ self.means.T - squares).astype(np.float32)
        return scores

    def save(self, path: str | os.PathLike[str]) -> NoReturn:
        """There is nothing to write.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"{path}: ncm with metric {self.info['metric']} normalises every feature vector, so it is not linear in "
            "the features and cannot be saved or exported as one linear layer; use metric cosine or euclidean for that"
        )


def nearest_class_mean(train: FeatureSet, metric: str = "cosine") -> LinearHead | NormalizedMeanHead:
    """Nearest class mean; one pass over the features (``cl2n``: two).

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        metric: ``cosine`` to the class mean; ``euclidean`` to it, which is the reference code's ``un`` with its
            default distance; ``l2n``: Euclidean to the mean of x / ‖x‖; ``cl2n``: of (x - m) / ‖x - m‖ with m the mean
            of all training rows, so mostly that of the many-shot classes.

    Returns:
        A linear head; for ``l2n`` and ``cl2n`` one that is not (:class:`NormalizedMeanHead`).

    Raises:
        DataError: a class without a row, or whose mean is 0 (cosine); features that are missing or not finite.
        UsageError: unknown metric.

    >>> train = FeatureSet(np.array([[3.0, 0.0], [1.0, 0.0], [0.0, 5.0]]), np.array([0, 0, 1]))
    >>> nearest_class_mean(train).weight
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    >>> nearest_class_mean(train, "euclidean").bias
    array([ -2. , -12.5], dtype=float32)
    """
    if metric not in METRICS:
        raise UsageError(f"metric must be one of {', '.join(METRICS)}, but is '{metric}'")
    counts = rows_per_class(train)[:, None]
    info = {"method": "ncm", "metric": metric}
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
        return LinearHead(means / norms, info=info)
    if metric in ("euclidean", "un"):
        means = class_sums(train) / counts
        return LinearHead(means, -np.square(means).sum(1) / 2, info=info)
    centre = np.zeros(train.num_features or 0)
    if metric == "cl2n":
        centre = class_sums(train).sum(0) / counts.sum()
    means = class_sums(train, lambda block: _normalised(block - centre)) / counts
    return NormalizedMeanHead(means, centre, info)


def family(train: FeatureSet, *, metric: str = "cosine") -> Family:
    """NCM for ``model_selection``: one head, nothing to choose."""
    head = nearest_class_mean(train, metric)

    def no_curve(split: FeatureSet, groups: ShotGroups | None) -> Curve:
        raise AssertionError("a single head has no curve")

    return Family("ncm", None, curve=no_curve, head=lambda _: head, params={"metric": metric})


def class_sums(train: FeatureSet, change: Callable[[Array], Array] | None = None) -> NDArray[np.float64]:
    """(C, D) sums of the features of every class, after ``change`` of each block; one pass, in float64."""
    features, (num_rows, num_features) = train.features, train.features.shape
    at_hand = isinstance(features, np.ndarray)  # or mapped; else rows are read in long pieces
    window_rows = max(1, (_MAPPED_ELEMENTS if at_hand else _READ_ELEMENTS) // max(1, num_features))
    size = max(1, _BLOCK_ELEMENTS // max(1, num_features))

    def add(begin: int, end: int) -> NDArray[np.float64]:
        sums, doubles = np.zeros((train.num_classes, num_features)), np.empty((size, num_features))
        gathered, work = np.empty((size, num_features), features.dtype), np.empty((size, num_features), np.float32)
        for start in range(begin, end, window_rows):
            window = features[start : min(start + window_rows, end)]
            labels = train.labels[start : start + len(window)]
            order = np.argsort(labels, kind="stable")  # rows of a class together: one addition for many
            for rows in np.split(order, range(size, len(order), size)):
                n = len(rows)
                block = np.take(window, rows, axis=0, out=gathered[:n], mode="clip")
                block = _as_float64(block, doubles[:n], work[:n])
                block = block if change is None else change(block)
                cuts = np.flatnonzero(np.diff(labels[rows])) + 1
                for first, last in pairwise((0, *cuts.tolist(), n)):
                    sums[labels[rows[first]]] += np.add.reduce(block[first:last], axis=0)
        return sums

    with ThreadPoolExecutor(2) as pool, np.errstate(invalid="ignore"):
        first_half = pool.submit(add, 0, num_rows // 2)
        sums = add(num_rows // 2, num_rows)
        sums += first_half.result()
    if not np.isfinite(sums).all():  # then a feature is not: the slower, checking pass says which
        for _ in train.feature_blocks():
            pass
    return sum_array(sums)


def _as_float64(block: Array, out: NDArray[np.float64], work: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same values in ``out``; float16 by way of its bits in ``work``, at a quarter of the price of numpy's way.

    Sign, exponent and fraction of a float16 are moved to where float32 has them; the exponent is then 112 too small.
    """
    if block.dtype != np.float16 or not _all_finite(block):
        np.copyto(out, block)
        return out
    bits = work.view(np.int32)
    np.copyto(bits, block.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, ~0x70000000, out=bits)  # copies of the sign
    np.multiply(work, np.float32(2.0**112), out=work)
    np.copyto(out, work)
    return out


def _all_finite(block: Array) -> bool:
    """Of float16; one look suffices where nothing is negative, as after a ReLU."""
    highest = block.view(np.uint16).max(initial=0)
    return bool(highest < 0x7C00 or (highest < 0xFC00 and block.view(np.int16).max() < 0x7C00))


def _normalised(rows: Array) -> Array:
    """Rows / their Euclidean norms; a row of zeros stays one."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)
