"""Class means that training rows and val rows tell together, and linear discriminants around them.

    v_c - v ≈ s(n_c) (m_c - m)          s(n) = a + b ln n, by least squares over the classes
    p_c = v + s(n_c) (m_c - m)          what the training mean of a class says of unseen rows
    M_c = p_c + T(n_c) / (T(n_c) + tr(S_v)/k_c) (v_c - p_c)

m_c and v_c are class means of train and val, m and v the means over their classes, n_c training counts, k_c val rows of
a class and S_v the covariance of val rows around v_c. T(n), linear in ln n and never negative, is how far unseen means
lie from p_c beyond the noise tr(S_v)/k_c of v_c. So each mean is that of its posterior under a normal prior whose mean
and variance the other classes tell: parametric empirical Bayes (Morris, JASA 78, 1983), by moments.

The training rows of a network that has memorised them lie too far out, those of rare classes most: s is well below 1
there. A recipe of this toolkit, not of a paper. Several blocks (the features, earlier layers) have means of their own
and one covariance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ltpost.data import distributed
from ltpost.data.features import FeatureSet
from ltpost.data.rows import BLOCK_ELEMENTS, parts
from ltpost.data.scatter import ClassScatter, class_scatter
from ltpost.errors import DataError, UsageError
from ltpost.fit.discriminant import discriminant
from ltpost.fit.sampling import rows_per_class
from ltpost.heads import Array, LinearHead
from ltpost.heads.changed import change

Statistics = dict[tuple[tuple[str, ...], tuple[float, ...]], ClassScatter]  # by blocks and powers
#: of training rows: the same for every fold of val
_TRAIN: WeakKeyDictionary[FeatureSet, Statistics] = WeakKeyDictionary()


def posterior_discriminants(
    train: FeatureSet,
    val: FeatureSet,
    class_counts: Array,
    blocks: Sequence[str],
    *,
    powers: Sequence[float],
    ridge: float,
) -> list[LinearHead]:
    """A linear layer for each block, whose logits add up to those of the discriminants; all classes equally likely.

    Args:
        train: training rows.
        val: labelled rows that the network has not seen; a class without one gets its mean from the training rows.
        class_counts: (C,) training samples per class.
        blocks: "" for the features, or names of layers.
        powers: of what is read from each block, see :class:`~ltpost.heads.ChangedHead`.
        ridge: share of the covariance that is replaced by tr(S)/D I, in 0..1.

    Work: N D² multiplications for the training rows, once, and as many for each val row; D³ for the inverse, with D the
    columns of all blocks together.

    Raises:
        DataError: a class without a training row or count; no two rows of a class that differ.
        UsageError: a ridge outside of 0..1.
    """
    if not 0 <= ridge <= 1:
        raise UsageError(f"ridge= must lie in 0..1, but is {ridge:g}")
    rows_per_class(train)
    widths = [width_of(train, block) for block in blocks]
    ends = np.cumsum(widths)
    columns = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
    seen, unseen = _of_train(train, blocks, powers), _scatter(distributed.shard(val), blocks, powers)
    degrees = int(unseen.counts.sum()) - int((unseen.counts > 0).sum())
    if degrees < 1:
        raise DataError(f"{val.name}: must have two rows of at least one class to fit to; extract more val rows")
    within = unseen.within / degrees
    scale = np.empty(len(within))
    for part in columns:  # every block gets the mean variance 1
        spread = np.trace(within[part, part]) / (part.stop - part.start)
        scale[part] = spread**-0.5 if spread > 0 else 1.0
    within, before = within * scale[:, None] * scale, seen.covariance * scale[:, None] * scale
    means = np.empty((len(class_counts), len(within)))
    for part in columns:
        means[:, part] = posterior_means(
            seen.means[:, part] * scale[part],
            unseen.means[:, part] * scale[part],
            np.trace(within[part, part]),
            unseen.counts,
            class_counts,
        )
    total, share = np.trace(before), len(within) / (len(within) + degrees)
    if total > 0:
        within = (1 - share) * within + share * np.trace(within) / total * before
    layer = discriminant(means, within, ridge, val.name)
    heads = [LinearHead(layer.weight[:, part] * scale[part].astype(np.float32)) for part in columns]
    return [LinearHead(heads[0].weight, layer.bias), *heads[1:]]


def posterior_means(
    train_means: NDArray[np.float64],
    val_means: NDArray[np.float64],
    val_variance: float,
    val_counts: NDArray[np.int64],
    class_counts: Array,
) -> NDArray[np.float64]:
    """M, (C, D); see the module.

    Args:
        train_means: (C, D) m_c.
        val_means: (C, D) v_c; not read where there are no val rows.
        val_variance: tr(S_v), of one val row around the mean of its class.
        val_counts: (C,) k_c, 0 for a class without val rows.
        class_counts: (C,) n_c, positive.
    """
    logs = np.log(np.asarray(class_counts, dtype=np.float64))
    design, present = np.column_stack([np.ones(len(logs)), logs]), val_counts > 0
    centre = val_means[present].mean(axis=0)
    away, found = train_means - train_means.mean(axis=0), val_means - centre
    # least squares for s: weights |away|², targets <away, found> / |away|²
    length, inner = np.square(away).sum(axis=1), (away * found).sum(axis=1)
    normal = design[present].T @ (length[present, None] * design[present])
    slope = np.maximum(design @ np.linalg.lstsq(normal, design[present].T @ inner[present], rcond=None)[0], 0.0)
    prior = centre + slope[:, None] * away
    noise = max(val_variance, 0.0) / np.maximum(val_counts, 1)
    excess = np.square(val_means - prior).sum(axis=1) - noise
    spread = np.maximum(design @ np.linalg.lstsq(design[present], excess[present], rcond=None)[0], 0.0)
    kept = np.divide(spread, spread + noise, out=np.zeros_like(spread), where=present & (spread > 0))
    means: NDArray[np.float64] = prior + kept[:, None] * np.where(present[:, None], val_means - prior, 0.0)
    return means


def width_of(rows: FeatureSet, block: str) -> int:
    """The columns of a block: a layer, or the features by the name ""."""
    return int(rows.layers[block].shape[1]) if block else int(rows.features.shape[1])


def _of_train(train: FeatureSet, blocks: Sequence[str], powers: Sequence[float]) -> ClassScatter:
    known, key = _TRAIN.setdefault(train, {}), (tuple(blocks), tuple(powers))
    if key not in known:
        known[key] = _scatter(train, blocks, powers)
    return known[key]


def _scatter(rows: FeatureSet, blocks: Sequence[str], powers: Sequence[float]) -> ClassScatter:
    """Of the blocks side by side, in one pass; of all processes."""
    width = sum(width_of(rows, block) for block in blocks)

    def read() -> Iterator[tuple[slice, Array]]:
        for part, key in parts(len(rows), max(16, BLOCK_ELEMENTS // width)):
            pieces = []
            for block, power in zip(blocks, powers, strict=True):
                piece = rows.read_layer(block, key) if block else rows.read_features(key)
                if not block:
                    rows.check_finite("features", piece, key)
                pieces.append(change(piece.astype(np.float64), power))
            yield part, np.concatenate(pieces, axis=1)

    return class_scatter(read(), rows.labels, rows.num_classes, width)
