"""Which rows a stochastic solver sees: the four samplers of decoupled training, drawn an epoch at a time.

    instance        p_c = n_c / N            every row once
    class-balanced  p_c = 1 / C
    square-root     p_c ∝ n_c^(1/2)
    progressive     p_c(e) = (1 - λ_e) n_c / N + λ_e / C,   λ_e from 0 to 1 over the epochs

Source: Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis, "Decoupling Representation and Classifier for Long-Tailed
Recognition", ICLR 2020, arXiv 1910.09217, section 3, equations 1 and 2.

What this module does not do: read features (``tensors``), weigh rows (a full-batch solver has no need of a sampler).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ltpost.distributed import sum_array
from ltpost.errors import DataError, UsageError
from ltpost.features import FeatureSet
from ltpost.priors import class_list

SAMPLERS = ("instance", "class-balanced", "square-root", "progressive")


def rows_per_class(train: FeatureSet) -> NDArray[np.int64]:
    """Training rows of every class, (C,), each at least 1; several views of a sample are several rows.

    Of all processes, where there are several (``distributed``).

    Raises:
        DataError: naming the classes without a row.
    """
    counts = sum_array(np.bincount(train.labels, minlength=train.num_classes).astype(np.int64))
    absent = np.flatnonzero(counts == 0)
    if len(absent):
        raise DataError(
            f"{train.name}: fitting needs at least one row of each of the {train.num_classes} classes, but there is "
            f"none of {class_list(absent, train.class_names)}; extract the whole training split"
        )
    return counts


def check_sampler(sampler: str) -> None:
    """Raise UsageError unless it is one of ``SAMPLERS``."""
    if sampler not in SAMPLERS:
        raise UsageError(f"sampler must be one of {', '.join(SAMPLERS)}, but is '{sampler}'")


def class_probabilities(sampler: str, counts: NDArray[np.int64], progress: float = 1.0) -> NDArray[np.float64]:
    """How likely the next row is of each class.

    Args:
        sampler: one of ``SAMPLERS``.
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
    instance: NDArray[np.float64] = counts / counts.sum()
    if sampler == "instance":
        return instance
    if sampler == "square-root":
        roots: NDArray[np.float64] = np.sqrt(counts)
        return np.asarray(roots / roots.sum())
    balance = progress if sampler == "progressive" else 1.0
    mixed: NDArray[np.float64] = (1 - balance) * instance + balance / len(counts)
    return mixed


def few_of_each(labels: NDArray[np.int64], most: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Evenly spaced rows of every class, at most ``most`` of each: no class is missed, however rare.

    Returns:
        Row numbers, ascending, and how many rows of its class each stands for.

    >>> few_of_each(np.array([0, 0, 0, 1, 0]), most=2)
    (array([0, 2, 3]), array([2., 2., 1.]))
    """
    counts = np.bincount(labels)
    by_class = np.argsort(labels, kind="stable")
    place = np.empty_like(labels)
    place[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    all_of_it = counts[labels]
    kept = np.minimum(all_of_it, most)
    rows = np.flatnonzero(place * kept % all_of_it < kept)
    return rows, all_of_it[rows] / kept[rows]


class Sampler:
    """Draws the row numbers of an epoch.

    Args:
        labels: (N,) with every class in 0..C-1.
        sampler: one of ``SAMPLERS``.
        seed: the same seed gives the same rows on every device and machine.
    """

    def __init__(self, labels: NDArray[np.int64], sampler: str, seed: int):
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
        if self.sampler == "instance":
            passes = -(-size // len(self._by_class))
            return np.concatenate([self._random.permutation(len(self._by_class)) for _ in range(passes)])[:size]
        cumulative = np.cumsum(class_probabilities(self.sampler, self.counts, progress))
        classes = np.searchsorted(cumulative / cumulative[-1], self._random.random(size), side="right")
        within = (self._random.random(size) * self.counts[classes]).astype(np.int64)
        rows: NDArray[np.int64] = self._by_class[self._first[classes] + within]
        return rows
