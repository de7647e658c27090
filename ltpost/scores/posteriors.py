"""Sums of a head's predicted probabilities over rows, in blocks, and what follows from them.

The rows may be unlabelled. Nothing of N x C is kept; logits are float32, sums float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ltpost.data import distributed
from ltpost.heads import Array, Head
from ltpost.heads.blocks import score_blocks

if TYPE_CHECKING:
    from ltpost.data.features import FeatureSet
    from ltpost.data.unlabelled import UnlabelledRows

FLOOR = 1e-8  # of a class prior before its logarithm
SCALE_ROWS = 10_000
_KEPT_ELEMENTS = 2**24  # logits that are kept between passes, where they are so few: 64 MiB


class Passes:
    """Logits of heads on rows, block by block, for several passes; kept in memory where they are few.

    Iterating gives (which pair, slice of its rows, logits (n, C) float32).

    Args:
        pairs: heads, and the rows for each.
    """

    def __init__(self, pairs: Sequence[tuple[Head, FeatureSet | UnlabelledRows]]):
        self._pairs = pairs
        few = sum(len(rows) * head.num_classes for head, rows in pairs) <= _KEPT_ELEMENTS
        self._kept = [(k, part, scores.copy()) for k, part, scores in self._read()] if few else None

    def _read(self) -> Iterator[tuple[int, slice, Array]]:
        for k, (head, rows) in enumerate(self._pairs):
            for part, scores in score_blocks(head, rows):
                yield k, part, scores

    def __iter__(self) -> Iterator[tuple[int, slice, Array]]:
        return self._read() if self._kept is None else iter(self._kept)


def softmax(scores: Array, offset: Array | float = 0.0, factor: float = 1.0) -> tuple[NDArray[np.float64], Array]:
    """The softmax of factor · scores + offset, (n, C) float64, and the log of its denominator, (n,)."""
    shifted = scores.astype(np.float64) * factor + offset
    highest = shifted.max(axis=1, keepdims=True)
    shifted -= highest
    np.exp(shifted, out=shifted)
    total = shifted.sum(axis=1, keepdims=True)
    shifted /= total
    return shifted, (highest + np.log(total))[:, 0]


def safe_log(prior: Array) -> Array:
    """Log of a prior (C,), no entry below log ``FLOOR``; it sums to 1."""
    clipped = np.maximum(prior, FLOOR)
    result: Array = np.log(clipped / clipped.sum())
    return result


def mean_posterior(rows: FeatureSet | UnlabelledRows, head: Head, factor: float = 1.0) -> NDArray[np.float64]:
    """Mean of softmax(factor · z) over the rows, and those of all processes, (C,); one pass."""
    total = np.zeros(head.num_classes + 1)
    for _, scores in score_blocks(head, rows):
        total[:-1] += softmax(scores, factor=factor)[0].sum(axis=0)
    total[-1] = len(rows)
    total = distributed.sum_array(total)
    mean: NDArray[np.float64] = total[:-1] / max(1, total[-1])
    return mean


def class_posteriors(
    rows: FeatureSet | UnlabelledRows, head: Head, labels: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Sums of softmax(z) over the rows of each label, (C, C), row k for label k, and rows per label, (C,).

    Args:
        rows: N rows.
        head: its logits are z.
        labels: (N,), or -1 for rows that do not count.
    """
    classes = head.num_classes
    sums, counts = np.zeros((classes, classes), dtype=np.float32), np.zeros(classes, dtype=np.int64)
    for part, scores in score_blocks(head, rows):
        own = labels[part]
        kept = np.flatnonzero(own >= 0)
        if len(kept):
            order = kept[np.argsort(own[kept], kind="stable")]
            present, first = np.unique(own[order], return_index=True)
            sums[present] += np.add.reduceat(softmax(scores[order])[0], first, axis=0)
            counts += np.bincount(own[kept], minlength=classes)
    return sums, counts


def stationary(
    sums: NDArray[np.float32], counts: NDArray[np.int64], tolerance: float = 1e-7, most: int = 10_000
) -> NDArray[np.float64]:
    """The prior q = P q with Σ q = 1, (C,), for P[:, k] = sums[k] / counts[k].

    A class without a row gets the mean of all rows as its column. Power iteration, until the L1 norm of the change is
    at most ``tolerance``.
    """
    has_rows = counts > 0
    overall = sums.sum(axis=0, dtype=np.float64)
    overall = overall / overall.sum() if has_rows.any() else np.full(len(counts), 1 / len(counts))
    share, prior = 1 / np.maximum(counts, 1), np.full(len(counts), 1 / len(counts))
    for _ in range(most):
        step = (prior * share * has_rows).astype(np.float32) @ sums + prior[~has_rows].sum() * overall
        step = step / step.sum()
        change = np.abs(step - prior).sum()
        prior = step
        if change <= tolerance:  # sums of float32 say no more than the default
            break
    return np.asarray(prior, dtype=np.float64)


def confident_predictions(rows: UnlabelledRows, head: Head, gap: float) -> NDArray[np.int64]:
    """The predicted class of every row, (N,); -1 where the two highest logits differ by ``gap`` or less."""
    labels = np.full(len(rows), -1, dtype=np.int64)
    if head.num_classes < 2:
        return np.zeros(len(rows), dtype=np.int64)
    for part, scores in score_blocks(head, rows):
        two = np.partition(scores, -2, axis=1)[:, -2:]
        labels[part] = np.where(two[:, 1] - two[:, 0] > gap, scores.argmax(axis=1), -1)
    return labels


def spread_of_logits(rows: FeatureSet, head: Head, most: int = SCALE_ROWS) -> float:
    """Root mean square of z_c - mean_c z_c, over at most ``most`` rows of each process, evenly spaced."""
    chosen = np.arange(len(rows)) if len(rows) <= most else np.linspace(0, len(rows) - 1, most).astype(np.int64)
    total, count = 0.0, 0
    for _, scores in score_blocks(head, rows.subset(chosen)):
        values = scores.astype(np.float64)
        values -= values.mean(axis=1, keepdims=True)
        total, count = total + float(np.square(values).sum()), count + values.size
    total, count = distributed.sum_array(np.array([total, count], dtype=np.float64))
    return float(np.sqrt(total / max(1, count)))
