"""The pass of the exact sweep over a split on a CPU: blocks of rows, shared among threads.

What this module does not do: the formulas of an interval (``intervals``).
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.heads import Array, Head
from ltpost.scores.intervals import Slopes, quick_interval

_BLOCK_ELEMENTS = 2**19  # of scores swept at a time: two buffers of 2 MiB as float32
_THREADED = 2**22  # scores below which threads cost more than they bring
_LARGE_PRODUCT = 512  # rows with which a product runs at full speed; the scores of more rows leave the cache
_MULTIPLYING = 8  # threads at most that hold blocks of features and of products, 32 MiB or less each


def intervals(feature_set: FeatureSet, slopes: Slopes, head: Head, *, scaled: bool) -> tuple[Array, Array]:
    """The interval of every row, (N,) each, for :func:`ltpost.scores.sweep.intervals`.

    Rows are swept in blocks of classes with equally many rows, (k, m, C), small enough to stay near a core.
    """
    labels, classes = feature_set.labels, feature_set.num_classes
    order = np.argsort(labels, kind="stable")
    rows_of = slice if np.all(labels[1:] >= labels[:-1]) else lambda start, stop: order[start:stop]
    low, high = np.empty(len(labels)), np.empty(len(labels))
    read, stored = head.reader(feature_set), head.is_stored(feature_set)

    def sweep(batch: list[tuple[int, int, int]]) -> None:
        begin, end = batch[0][0], batch[-1][1]
        product = None if stored else read(rows_of(begin, end))  # one large product for many blocks
        for start, stop, k in batch:
            rows, shape = rows_of(start, stop), (k, (stop - start) // k, classes)
            raw, *work = _buffers(3, shape)
            own = slice(start - begin, stop - begin)
            scores = read(rows, raw.reshape(-1, classes)) if product is None else product[own]
            some = labels[order[start : stop : shape[1]]]
            ends = quick_interval(scores.reshape(shape), some, slopes, scaled=scaled, work=work)
            low[rows], high[rows] = ends[0].ravel(), ends[1].ravel()

    blocks = list(_even_blocks(np.bincount(labels, minlength=classes), max(1, _BLOCK_ELEMENTS // classes)))
    cores = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1
    if stored and len(labels) * classes < _THREADED:
        for block in blocks:
            sweep([block])
    elif stored:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(sweep, _in_batches(blocks, len(labels) // (4 * cores), cores)))
    else:
        from threadpoolctl import threadpool_limits

        # each thread gathers, multiplies and sweeps alone; products that share all cores would wait for each other
        workers, most = min(cores, _MULTIPLYING), feature_set.block_rows()
        batches = _in_batches(blocks, min(most, max(most // 2, _LARGE_PRODUCT)), workers)
        with threadpool_limits(cores // workers, "blas"), ThreadPoolExecutor(workers) as pool:
            list(pool.map(sweep, batches))
    feature_set.logits_are_finite |= stored
    return low, high


_kept = threading.local()


def _buffers(number: int, shape: tuple[int, ...]) -> Array:
    """Memory of this thread to compute in. It is kept, as new memory would take longer than the computation."""
    size = math.prod(shape)
    if getattr(_kept, "size", 0) < size:
        _kept.size, _kept.memory = size, np.empty((number, size), np.float32)
    return np.asarray(_kept.memory[:, :size]).reshape(number, *shape)


def _even_blocks(counts: NDArray[np.int64], most: int) -> Iterator[tuple[int, int, int]]:
    """Blocks ``(start, stop, classes)`` of about ``most`` rows sorted by class, equally many of each class.

    >>> list(_even_blocks(np.array([2, 2, 2, 0, 9]), most=4))
    [(0, 4, 2), (4, 6, 1), (6, 10, 1), (10, 14, 1), (14, 15, 1)]
    """
    start, present = 0, counts[counts > 0]
    for _, run in groupby(present):
        same = list(run)
        rows = int(same[0])
        if rows >= most:
            for _ in same:
                cuts = [*range(start, start + rows, most), start + rows]
                yield from ((one, other, 1) for one, other in pairwise(cuts))
                start += rows
        else:
            for first in range(0, len(same), most // rows):
                k = min(most // rows, len(same) - first)
                yield start, start + k * rows, k
                start += k * rows


def _in_batches(blocks: list[tuple[int, int, int]], most: int, workers: int) -> Iterator[list[tuple[int, int, int]]]:
    """Consecutive blocks of ``most`` rows or a little more together; fewer near the end, so that no worker waits.

    >>> blocks = [(start, start + 1, 1) for start in range(26)]
    >>> [len(batch) for batch in _in_batches(blocks, most=8, workers=2)]
    [6, 5, 3, 3, 2, 2, 2, 2, 1]
    """
    batch: list[tuple[int, int, int]] = []
    for block in blocks:
        batch.append(block)
        begin, end = batch[0][0], block[1]
        share = (blocks[-1][1] - begin) // (2 * workers)
        if end - begin >= min(most, max(most // 4, share)):
            yield batch
            batch = []
    if batch:
        yield batch
