"""Sums of the features of every class, in one pass: what class means and covariances are made of."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ltpost.data.distributed import sum_array
from ltpost.data.features import FeatureSet
from ltpost.heads import Array

_BLOCK_ELEMENTS = 2**19  # per thread: 4 MiB as float64, which stays in the cache
_MAPPED_ELEMENTS = 2**27  # per thread, of which the rows are sorted by class
_READ_ELEMENTS = 2**24


def class_sums(train: FeatureSet, change: Callable[[Array], Array] | None = None) -> NDArray[np.float64]:
    """(C, D) sums of the features of every class, after ``change`` of each block; one pass, in float64."""
    features, (num_rows, num_features) = train.features, train.features.shape
    at_hand = isinstance(features, np.ndarray)  # in memory or mapped; else rows are read in long pieces
    window_rows = max(1, (_MAPPED_ELEMENTS if at_hand else _READ_ELEMENTS) // max(1, num_features))
    size = max(1, _BLOCK_ELEMENTS // max(1, num_features))

    def add(begin: int, end: int) -> NDArray[np.float64]:
        sums, doubles = np.zeros((train.num_classes, num_features)), np.empty((size, num_features))
        gathered, work = np.empty((size, num_features), features.dtype), np.empty((size, num_features), np.float32)
        for start in range(begin, end, window_rows):
            window = features[start : min(start + window_rows, end)]
            labels = train.labels[start : start + len(window)]
            order = np.argsort(labels, kind="stable")  # rows of a class come together: one addition for all of them
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
    if not np.isfinite(sums).all():  # a feature is not finite; the slower pass with checks says which
        for _ in train.feature_blocks():
            pass
    return sum_array(sums)


def _as_float64(block: Array, out: NDArray[np.float64], work: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same values in ``out``; float16 is converted by its bits in ``work``, four times as fast as by numpy.

    Sign, exponent and fraction are moved to their places in float32. The exponent is then 112 too small.
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
    """Whether a block of float16 is finite; the largest value tells it where nothing is negative, as after a ReLU."""
    highest = block.view(np.uint16).max(initial=0)
    return bool(highest < 0x7C00 or (highest < 0xFC00 and block.view(np.int16).max() < 0x7C00))
