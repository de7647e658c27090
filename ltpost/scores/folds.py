"""Folds of rows, and cross-fitting: every row is judged at the value that is best on the other folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltpost.scores.confidence import units
from ltpost.scores.curve import Curve
from ltpost.scores.goal import Goal

FOLDS = 5


def each_fold(folds: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Row numbers inside and outside of every fold that has both."""
    numbers = range(int(folds.max(initial=-1)) + 1)
    pairs = [(np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)) for fold in numbers]
    return [(inside, rest) for inside, rest in pairs if len(inside) and len(rest)]


def stratified_folds(
    labels: NDArray[np.int64], num_folds: int = FOLDS, seed: int = 0, sample: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """A fold number for every row, (N,); the samples of each class are dealt out evenly.

    Args:
        labels: (N,).
        num_folds: how many.
        seed: of the order in which samples are dealt out.
        sample: (N,), which sample a row shows: its views lie in one fold. Default: every row is a sample.

    >>> stratified_folds(np.array([0, 0, 1, 1]), num_folds=2).reshape(2, 2).sum(axis=1)
    array([1, 1])
    """
    unit, labels = units(labels, sample)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % num_folds  # a class starts where the one before it stopped
    return folds[unit]


@dataclass(frozen=True)
class CrossFitted:
    """Rows, each judged by what the other folds gave: which are right, (N,), and the answers where they are known."""

    correct: NDArray[np.bool_]
    predicted: NDArray[np.int64] | None = None


def cross_fit(
    curve: Curve,
    select: str | Goal = "all",
    low: float = -np.inf,
    high: float = np.inf,
    *,
    num_folds: int = FOLDS,
    seed: int = 0,
) -> CrossFitted:
    """The rows of a curve, each at the value that is best on the other folds; answers for a goal that needs them."""
    folds = stratified_folds(curve.labels, num_folds, seed, curve.sample)
    correct = np.zeros(len(folds), dtype=bool)
    predicted = np.zeros(len(folds), dtype=np.int64)
    known = bool(Goal.of(select).of_answers)
    for fold in range(num_folds):
        inside = folds == fold
        if inside.any() and not inside.all():
            best = curve.best(select, low, high, multiplicity=np.where(inside, 0.0, 1.0))
            correct[inside] = curve.correct_at(best)[inside]
            answers = curve.predicted_at(best) if known else None
            known = answers is not None
            predicted = predicted if answers is None else np.where(inside, answers, predicted)
    return CrossFitted(correct, predicted if known else None)
