"""The rows of several feature sets one after the other, as one feature set; nothing is read or copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.data.layers import Layer
from ltpost.data.rows import Rows
from ltpost.heads import Array


class Stacked:
    """Matrices of the same width, one below the other, unread.

    Args:
        parts: (N_p, K) each.
    """

    def __init__(self, parts: Sequence[Any]):
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape: tuple[int, ...] = (int(self.starts[-1]), parts[0].shape[1])
        self.dtype: np.dtype[Any] = np.result_type(*(part.dtype for part in parts))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Array:
        rows = np.arange(len(self))[key] if isinstance(key, slice) else np.asarray(key)
        result = np.empty((len(rows), self.shape[1]), self.dtype)
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for number, (part, start) in enumerate(zip(self.parts, self.starts, strict=False)):
            mine = np.flatnonzero(which == number)
            if len(mine):
                result[mine] = part[rows[mine] - start]
        return result


def one_after_other(sets: Sequence[FeatureSet], split: str = "") -> FeatureSet:
    """One feature set of all rows: what every set has, with the head, counts and names of the first.

    Args:
        sets: of one extraction.
        split: the name of the new one.

    Where one of them has ``sample``, so has the result; samples of different sets are different samples.

    >>> rows = one_after_other([FeatureSet(np.eye(2), [0, 1]), FeatureSet(np.ones((1, 2)), [1])])
    >>> rows.features[1:3]
    array([[0., 1.],
           [1., 1.]])
    """
    first = sets[0]
    with_samples = any(one.sample is not None for one in sets)
    samples: list[NDArray[np.int64]] = []
    for one in sets:  # numbered anew, so that those of two sets differ
        numbers = np.unique(one.samples, return_inverse=True)[1]
        samples.append(numbers + (0 if not samples else samples[-1].max(initial=-1) + 1))
    names = [name for name in first.layers if all(name in one.layers for one in sets)]
    rows = FeatureSet(
        None if any(one.num_features is None for one in sets) else _stacked([one.stored_features for one in sets]),
        np.concatenate([one.labels for one in sets]),
        logits=_stacked([one.stored_logits for one in sets]) if all(one.has_logits for one in sets) else None,
        head=first.head,
        class_counts=first.class_counts,
        class_names=first.class_names,
        expert_bias=first.expert_bias,
        sample=np.concatenate(samples) if with_samples else None,
        view=np.concatenate([one.view for one in sets]) if all(one.view is not None for one in sets) else None,
        layers={
            name: Layer(_stacked([one.layers[name].rows for one in sets]), first.layers[name].attrs) for name in names
        },
        part=True,
        split=split,
        attrs=first.attrs,
        name=" and ".join(one.name for one in sets),
    )
    rows.num_classes = first.num_classes
    return rows


def _stacked(parts: Sequence[Any]) -> Rows:
    return Rows(Stacked(parts))
