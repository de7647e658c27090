"""One row per sample from several views of it: the mean of everything that is stored."""

from __future__ import annotations

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.data.layers import Layer
from ltpost.data.rows import Rows
from ltpost.data.views import augmentation
from ltpost.errors import DataError
from ltpost.heads import Array


def mean_of_views(rows: FeatureSet) -> FeatureSet:
    """The mean over the views of each sample, of features, logits and layers; in memory.

    Args:
        rows: with ``sample``; the views of a sample may have any order and number.

    Returns:
        One row per sample, in the order of the samples' numbers. The joint classifier of the mean features gives the
        mean logits, as it is linear. Types are kept, sums are float32.

    Raises:
        DataError: the rows have no ``sample``, or views of one sample differ in their label.

    >>> views = FeatureSet(np.array([[1.0], [3.0], [5.0]]), np.array([0, 0, 1]), sample=np.array([0, 0, 1]))
    >>> mean_of_views(views).features.ravel()
    array([2., 5.])
    """
    if rows.sample is None:
        raise DataError(f"{rows.name}: must hold 'sample' (N,) to take the mean over views; extract it with --views")
    order = np.argsort(rows.sample, kind="stable")
    _, first, counts = np.unique(rows.sample[order], return_index=True, return_counts=True)
    labels = rows.labels[order][first]
    differs = np.flatnonzero(np.repeat(labels, counts) != rows.labels[order])
    if len(differs):
        raise DataError(
            f"{rows.name}: all views of a sample must have one label, but those of sample "
            f"{rows.sample[order][differs[0]]} have several; write the file again"
        )

    def mean(stored: Rows) -> Array:
        result = np.empty((len(first), stored.shape[1]), stored.dtype)
        size = max(1, 2**22 // max(1, stored.shape[1]))
        for start in range(0, len(first), size):
            some = slice(start, start + size)
            begin, end = first[some][0], first[some][-1] + counts[some][-1]
            block = stored[order[begin:end]].astype(np.float32)
            result[some] = np.add.reduceat(block, first[some] - begin, axis=0) / counts[some, None]
        return result

    layers = {name: Layer(Rows(mean(layer.rows)), layer.attrs) for name, layer in rows.layers.items()}
    return FeatureSet(
        None if rows.num_features is None else mean(Rows(rows.features)),
        labels,
        logits=mean(Rows(rows.logits)) if rows.has_logits else None,
        head=rows.head,
        class_counts=rows.class_counts,
        class_names=rows.class_names,
        expert_bias=rows.expert_bias,
        layers=layers,
        part=True,
        split=rows.split,
        attrs=rows.attrs,
        name=rows.name,
    )


def has_plain_views(rows: FeatureSet) -> bool:
    """Whether the rows show each sample in the same number of views, two or more, that are no random augmentations."""
    if rows.sample is None or rows.view is None or augmentation(rows) not in (None, "none"):
        return False
    _, counts = np.unique(rows.sample, return_counts=True)
    return bool(len(counts) and counts.min() == counts.max() >= 2)


def first_view(rows: FeatureSet) -> FeatureSet:
    """One row per sample: its view of the least number, in the order of the samples' numbers; unread."""
    assert rows.sample is not None
    order = np.lexsort((np.zeros(len(rows)) if rows.view is None else rows.view, rows.sample))
    return rows.subset(order[np.unique(rows.sample[order], return_index=True)[1]])
