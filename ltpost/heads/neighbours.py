"""k nearest training rows by cosine, which vote for their classes.

    z_c = v_c Σ_{i among the k nearest of x, y_i = c} exp((cos(x, x_i) - 1) / T)

The nearest rows are found exactly, by products of blocks of queries with blocks of training rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.heads.feature_head import FeatureHead
from ltpost.heads.linear import check_columns
from ltpost.heads.normalized import normalized
from ltpost.heads.protocol import Array, Spec

_BLOCK_ELEMENTS = 2**22  # of training rows, and of similarities, at a time: 16 MiB each as float32
_LONGEST = 1.01  # of a row of unit length, rounded to float16


class NeighbourHead(FeatureHead):
    """The vote of the k nearest training rows. It holds all of them: 2 N D bytes in memory and in its file.

    Args:
        rows: (N, D) training features of unit length; kept as float16.
        labels: (N,) of them.
        votes: (C,) v, what the vote of a row of each class counts.
        k: how many rows vote; all of them where there are fewer.
        temperature: T.

    Raises:
        DataError: shapes do not fit, or k or T is not positive.
    """

    def __init__(self, rows: Array, labels: Array, votes: Array, k: int, temperature: float = 0.07):
        if rows.ndim != 2 or labels.shape != rows.shape[:1] or votes.ndim != 1 or len(rows) == 0:
            raise DataError(
                f"neighbours must have shapes (N, D), (N,) and (C,) with N > 0, but have {rows.shape}, "
                f"{labels.shape} and {votes.shape}"
            )
        if labels.min() < 0 or labels.max() >= len(votes):
            raise DataError(f"labels of neighbours must be 0 <= label < C = {len(votes)}")
        if not (k >= 1 and temperature > 0):
            raise DataError(f"k and the temperature must be positive, but are {k} and {temperature}")
        self.rows: Array = rows.astype(np.float16, copy=False)
        self.labels: NDArray[np.int32] = labels.astype(np.int32, copy=False)
        self.votes: Array = np.asarray(votes, dtype=np.float64)
        self.k, self.temperature = int(k), float(temperature)
        self.info: dict[str, Any] = {}

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.votes)

    @property
    def num_features(self) -> int:
        """D."""
        return int(self.rows.shape[1])

    def with_k(self, k: int) -> NeighbourHead:
        """The same rows with another k; nothing is copied."""
        return NeighbourHead(self.rows, self.labels, self.votes, k, self.temperature)

    def nearest(self, features: Array, k: int) -> tuple[Array, Array]:
        """Similarities (n, k), falling, and labels (n, k) of the k nearest rows of each query (n, D)."""
        queries = normalized(np.asarray(features, dtype=np.float32))
        count = min(k, len(self.rows))
        best = np.full((len(queries), 0), 0, np.float32)
        numbers = np.empty((len(queries), 0), np.int64)
        size = max(count, _BLOCK_ELEMENTS // max(self.num_features, len(queries)), 1)
        for start in range(0, len(self.rows), size):
            block = self.rows[start : start + size].astype(np.float32)
            cosines = queries @ block.T
            chosen = _largest(cosines, min(count, len(block)))
            best = np.concatenate([best, np.take_along_axis(cosines, chosen, 1)], axis=1)
            numbers = np.concatenate([numbers, chosen + start], axis=1)
            kept = _largest(best, min(count, best.shape[1]))
            best, numbers = np.take_along_axis(best, kept, 1), np.take_along_axis(numbers, kept, 1)
        order = np.argsort(-best, axis=1, kind="stable")
        return np.take_along_axis(best, order, 1), self.labels[np.take_along_axis(numbers, order, 1)]

    def count_votes(self, similarities: Array, labels: Array, k: int) -> Array:
        """Logits (n, C) float32 from the k first of what :meth:`nearest` gives."""
        weights = np.exp((similarities[:, :k].astype(np.float64) - 1) / self.temperature)
        weights *= self.votes[labels[:, :k]]
        scores = np.zeros((len(labels), self.num_classes))
        np.add.at(scores, (np.arange(len(labels))[:, None], labels[:, :k]), weights)
        return scores.astype(np.float32)

    def logits(self, features: Array) -> Array:
        """(n, D) features to (n, C) float32."""
        check_columns(features, self.num_features)
        size = max(1, _BLOCK_ELEMENTS // max(self.num_classes, 4096))
        parts = [features[start : start + size] for start in range(0, len(features), size)]
        scores = [self.count_votes(*self.nearest(part, self.k), self.k) for part in parts]
        return np.concatenate(scores) if scores else np.empty((0, self.num_classes), np.float32)

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """See :class:`~ltpost.heads.protocol.Head`."""
        labels = self.labels.astype(np.float32)  # exact below 2²⁴; head files hold floating point only
        tensors = {"rows": self.rows, "labels": labels, "votes": self.votes}
        return {"kind": "neighbours", "k": self.k, "temperature": self.temperature}, tensors

    @classmethod
    def from_state(cls, spec: Spec, tensors: Mapping[str, Array]) -> NeighbourHead:
        """The head that :meth:`state` describes."""
        labels = tensors["labels"].astype(np.int32)
        if not np.array_equal(labels, tensors["labels"]):
            raise DataError("labels of neighbours must be whole numbers")
        size = max(1, _BLOCK_ELEMENTS // max(1, tensors["rows"].shape[1]))
        for start in range(0, len(labels), size):
            lengths = np.linalg.norm(tensors["rows"][start : start + size].astype(np.float32), axis=1)
            if lengths.max(initial=0.0) > _LONGEST:
                raise DataError(f"rows of neighbours must be of unit length, but one has length {lengths.max():.4g}")
        return cls(tensors["rows"], labels, tensors["votes"], spec["k"], spec["temperature"])


def _largest(values: Array, count: int) -> NDArray[np.int64]:
    """Columns of the ``count`` largest of each row, rising; of equal values those that come first.

    >>> _largest(np.array([[1.0, 3.0, 1.0, 2.0, 1.0]]), 3)
    array([[0, 1, 3]])
    """
    chosen = np.argpartition(values, values.shape[1] - count, axis=1)[:, -count:]
    chosen.sort(axis=1)
    least = np.take_along_axis(values, chosen, axis=1).min(axis=1)
    for row in np.flatnonzero((values >= least[:, None]).sum(axis=1) > count):  # ties, of which any were chosen
        above, tied = np.flatnonzero(values[row] > least[row]), np.flatnonzero(values[row] == least[row])
        chosen[row] = np.sort(np.concatenate([above, tied[: count - len(above)]]))
    return chosen
