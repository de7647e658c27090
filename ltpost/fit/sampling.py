"""Which rows a solver sees, and how often: the four samplers of decoupled training.

    instance        p_c = n_c / N            every row once
    class-balanced  p_c = 1 / C
    square-root     p_c ∝ n_c^(1/2)
    progressive     p_c(e) = (1 - λ_e) n_c / N + λ_e / C,   λ_e from 0 to 1 over the epochs

Source: Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis, "Decoupling Representation and Classifier for Long-Tailed
Recognition", ICLR 2020, arXiv 1910.09217, section 3, equations 1 and 2.

What this module does not do: read features (``data.tensors``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ltpost.data.distributed import sum_array
from ltpost.data.features import FeatureSet
from ltpost.data.priors import class_list
from ltpost.errors import DataError, UsageError
from ltpost.heads import Array

SAMPLERS = ("instance", "class-balanced", "square-root", "progressive")


def rows_per_class(train: FeatureSet, absent: bool = False) -> NDArray[np.int64]:
    """Training rows of every class, (C,), each at least 1 unless ``absent``; several views are several rows.

    Of all processes, where there are several (``distributed``).

    Raises:
        DataError: naming the classes without a row.
    """
    counts = sum_array(np.bincount(train.labels, minlength=train.num_classes).astype(np.int64))
    none = np.flatnonzero(counts == 0)
    if len(none) and not absent:
        raise DataError(
            f"{train.name}: fitting needs at least one row of each of the {train.num_classes} classes, but there is "
            f"none of {class_list(none, train.class_names)}; extract the whole training split"
        )
    return counts


def check_sampler(sampler: str | Array) -> None:
    """Raise UsageError unless it is one of ``SAMPLERS``, or how likely a row is of each class."""
    if isinstance(sampler, str) and sampler not in SAMPLERS:
        raise UsageError(f"sampler= must be one of {', '.join(SAMPLERS)}, but is {sampler!r}")


def class_probabilities(sampler: str | Array, counts: NDArray[np.int64], progress: float = 1.0) -> NDArray[np.float64]:
    """How likely the next row is of each class.

    Args:
        sampler: one of ``SAMPLERS``, or (C,) the probabilities themselves, up to a factor.
        counts: (C,) rows per class.
        progress: 0 in the first epoch to 1 in the last; only ``progressive`` changes with it.

    Returns:
        (C,), sums to 1.

    Raises:
        UsageError: unknown sampler.

    >>> class_probabilities("square-root", np.array([90, 10]))
    array([0.75, 0.25])
    >>> class_probabilities("progressive", np.array([90, 10]), progress=0.5)
    array([0.7, 0.3])
    """
    check_sampler(sampler)
    if not isinstance(sampler, str):
        return np.asarray(sampler / np.sum(sampler), dtype=np.float64)
    instance: NDArray[np.float64] = counts / counts.sum()
    if sampler == "instance":
        return instance
    if sampler == "square-root":
        roots: NDArray[np.float64] = np.sqrt(counts)
        return np.asarray(roots / roots.sum())
    balance = progress if sampler == "progressive" else 1.0
    mixed: NDArray[np.float64] = (1 - balance) * instance + balance / len(counts)
    return mixed


def row_weights(
    labels: NDArray[np.int64],
    counts: NDArray[np.int64],
    sampler: str | Array = "class-balanced",
    class_weight: Array | None = None,
) -> NDArray[np.float64]:
    """How much each row counts, (N,), in a solver that sees all rows: w_i = v_y p_y / n_y.

    A stochastic solver with this sampler sees the same weights in expectation.

    Args:
        labels: (N,).
        counts: (C,) rows per class; labels of a class with 0 rows must not occur.
        sampler: as for :func:`class_probabilities`, which gives p_c.
        class_weight: (C,) v, or None for ones; the weights then sum to 1.

    >>> row_weights(np.array([0, 0, 1]), np.array([2, 1]))
    array([0.25, 0.25, 0.5 ])
    """
    share = class_probabilities(sampler, counts) / np.maximum(counts, 1)
    return np.asarray((share if class_weight is None else share * class_weight)[labels])


class Sampler:
    """Draws the row numbers of an epoch.

    Args:
        labels: (N,) with every class in 0..C-1.
        sampler: as for :func:`class_probabilities`.
        seed: the same seed gives the same rows on every device and machine.
    """

    def __init__(self, labels: NDArray[np.int64], sampler: str | Array, seed: int):
        self.sampler = sampler
        self.counts = np.bincount(labels).astype(np.int64)
        self._by_class = np.argsort(labels, kind="stable")  # the rows of class 0, then those of class 1, …
        self._first = np.cumsum(self.counts) - self.counts
        self._random = np.random.default_rng(seed)

    def draw(self, size: int, progress: float = 1.0) -> NDArray[np.int64]:
        """(size,) row numbers of one epoch; ``progress`` as in :func:`class_probabilities`.

        ``instance`` passes over the rows in random order; the others draw a class, then one of its rows.
        """
        # NOTE[DIFF]: the reference's ClassAwareSampler cycles through shuffled classes, four rows of each at a time.
        # Independent draws have the same expectation, and rows of one class do not come in clumps of four.
        if isinstance(self.sampler, str) and self.sampler == "instance":
            passes = -(-size // len(self._by_class))
            return np.concatenate([self._random.permutation(len(self._by_class)) for _ in range(passes)])[:size]
        cumulative = np.cumsum(class_probabilities(self.sampler, self.counts, progress))
        classes = np.searchsorted(cumulative / cumulative[-1], self._random.random(size), side="right")
        within = (self._random.random(size) * self.counts[classes]).astype(np.int64)
        rows: NDArray[np.int64] = self._by_class[self._first[classes] + within]
        return rows
