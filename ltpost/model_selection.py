"""Choose a hyperparameter honestly: never on the rows that the number is reported on.

With a val and a test split: chosen on val, reported on test. With val only: chosen on all of val for the head that is
saved, and reported by cross-fitting inside val, where every row is judged at a value chosen without it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ltpost.sweep import Curve

FOLDS = 5


def stratified_folds(labels: NDArray[np.int64], num_folds: int = FOLDS, seed: int = 0) -> NDArray[np.int64]:
    """A fold number for every row, (N,); the rows of each class are dealt out evenly.

    >>> stratified_folds(np.array([0, 0, 1, 1]), num_folds=2).reshape(2, 2).sum(axis=1)
    array([1, 1])
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % num_folds  # a class starts where the one before it stopped
    return folds


def cross_fit(
    curve: Curve,
    select: str = "all",
    low: float = -np.inf,
    high: float = np.inf,
    *,
    num_folds: int = FOLDS,
    seed: int = 0,
) -> NDArray[np.bool_]:
    """Which rows are right, (N,), each at the value that is best on the other folds."""
    folds = stratified_folds(curve.labels, num_folds, seed)
    correct = np.zeros(len(folds), dtype=bool)
    for fold in range(num_folds):
        inside = folds == fold
        if inside.any() and not inside.all():
            value = curve.best(select, low, high, multiplicity=np.where(inside, 0.0, 1.0)).value
            correct[inside] = curve.correct(value)[inside]
    return correct
