"""The bootstrap of rows within their classes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ltpost.heads import Array
from ltpost.scores.confidence import units


def resamples(
    labels: NDArray[np.int64], num_classes: int, sample: NDArray[np.int64] | None = None, *, num: int, seed: int
) -> Iterator[Array]:
    """What each row counts in each of ``num`` resamples, (N,).

    Each class draws one sample less than the k that it has, and a sample counts k / (k - 1) as often as it was drawn:
    k draws of k would have (k - 1) / k of the variance (Rao and Wu, JASA 1988, Section 2, with n_h - 1 draws).
    Classes with one sample draw from one another, as if they were one class; a single such class stays as it is.

    Args:
        labels: (N,).
        num_classes: C.
        sample: (N,), which sample a row shows: its views are drawn together. Default: every row is a sample.
        num: of resamples.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    unit, of_class = units(labels, sample)
    alone = np.bincount(of_class, minlength=num_classes)[of_class] == 1
    stratum = np.where(alone, num_classes, of_class)
    order = np.argsort(stratum, kind="stable")
    sizes = np.bincount(stratum)
    sizes = sizes[sizes > 0]
    draws = np.maximum(sizes - 1, 1)
    first, size = np.repeat(np.cumsum(sizes) - sizes, draws), np.repeat(sizes, draws).astype(np.float32)
    counts_as = np.repeat(sizes / draws, sizes)
    place = np.empty_like(order)  # of each unit among the sorted ones
    place[order] = np.arange(len(order))
    place = place[unit]
    for _ in range(num):  # u < 1 is at most 1 - 2⁻²⁴, and u · size never rounds to size
        drawn = first + (rng.random(len(first), dtype=np.float32) * size).astype(np.int32)
        yield (np.bincount(drawn, minlength=len(order)) * counts_as)[place]
