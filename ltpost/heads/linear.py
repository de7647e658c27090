"""The head that most methods end in: one linear layer over the features.

z = x Wᵀ + b        weight W (C, D), bias b (C,) or None, features x (N, D), logits z (N, C)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from ltpost.errors import DataError, no_features
from ltpost.heads.protocol import Array, HeadRows, Key, Layer, Reader, Spec
from ltpost.heads.saving import Saved


class LinearHead(Saved):
    """A linear classifier, z = x Wᵀ + b.

    Args:
        weight: (C, D) floating point; kept as float32.
        bias: (C,) or None.
        info: what is known of how the head was made (strings, numbers, lists); saved with it.

    Raises:
        DataError: shapes do not fit.

    >>> head = LinearHead(np.eye(3, 2), bias=np.array([0.0, 0.0, 0.5]))
    >>> head.logits(np.array([[2.0, 1.0]], dtype=np.float32))
    array([[2. , 1. , 0.5]], dtype=float32)
    """

    def __init__(self, weight: Array, bias: Array | None = None, *, info: Mapping[str, Any] | None = None):
        if weight.ndim != 2:
            raise DataError(f"head weight must have shape (C, D), but has {weight.shape}")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise DataError(f"head bias must have shape ({weight.shape[0]},) like the weight, but has {bias.shape}")
        with np.errstate(over="ignore"):  # what float32 does not hold is infinity, which is refused where it is used
            self.weight: Array = np.asarray(weight, dtype=np.float32)
            self.bias: Array | None = None if bias is None else np.asarray(bias, dtype=np.float32)
        self.info: dict[str, Any] = dict(info or {})

    @property
    def shape(self) -> tuple[int, int]:
        """(C, D)."""
        return self.num_classes, self.num_features

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.weight)

    @property
    def num_features(self) -> int:
        """D."""
        return int(self.weight.shape[1])

    def norms(self) -> Array:
        """‖w_c‖₂ of every class, (C,) float64."""
        squares: Array = np.einsum("cd,cd->c", self.weight, self.weight, dtype=np.float64)
        return np.sqrt(squares)

    def logits(self, features: Array) -> Array:
        """(n, D) features to (n, C) float32 logits."""
        check_columns(features, self.num_features)
        with np.errstate(over="ignore", invalid="ignore"):  # who reads the rows says so, see feature_reader
            scores: Array = np.asarray(features, dtype=np.float32) @ self.weight.T
            if self.bias is not None:
                scores += self.bias
        return scores

    def same_as(self, other: Layer) -> bool:
        """Whether both are the same classifier, bit for bit."""
        if self is other:
            return True
        if (self.bias is None) != (other.bias is None) or not np.array_equal(self.weight, other.weight):
            return False
        return self.bias is None or other.bias is None or np.array_equal(self.bias, other.bias)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of weight and bias: equal for the same classifier, in any file."""
        digest = hashlib.sha256(np.ascontiguousarray(self.weight).data)
        if self.bias is not None:
            digest.update(np.ascontiguousarray(self.bias).data)
        return digest.hexdigest()

    def is_stored(self, rows: HeadRows) -> bool:
        """Whether the rows hold the logits of this very classifier."""
        return rows.has_logits and rows.head is not None and self.same_as(rows.head)

    def reader(self, rows: HeadRows) -> Reader:
        """See :class:`~ltpost.heads.protocol.Head`: stored logits where they are of this classifier, else a product."""
        if self.is_stored(rows):
            return rows.read_logits
        return feature_reader(self, rows)

    def linear(self) -> LinearHead:
        """The head itself."""
        return self

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """See :class:`~ltpost.heads.protocol.Head`."""
        tensors = {"weight": self.weight, **({} if self.bias is None else {"bias": self.bias})}
        return {"kind": "linear"}, tensors

    @classmethod
    def from_state(cls, spec: Spec, tensors: Mapping[str, Array]) -> LinearHead:
        """The head that :meth:`state` describes."""
        return cls(tensors["weight"], tensors.get("bias"))

    def __repr__(self) -> str:
        bias = "no bias" if self.bias is None else "bias"
        signature = self.info.get("signature")
        return f"LinearHead(C={self.num_classes}, D={self.num_features}, {bias}{f', {signature}' if signature else ''})"


def check_columns(features: Array, num_features: int) -> None:
    """Raise DataError unless the features are (n, D)."""
    if features.ndim != 2 or features.shape[1] != num_features:
        raise DataError(f"features must have shape (N, {num_features}) for this head, but have {features.shape}")


def feature_reader(head: Any, rows: HeadRows) -> Reader:
    """The reader of a head that has ``logits``, a function from features (n, D) to logits (n, C)."""
    if rows.num_features is None:
        raise no_features(rows.name)

    def multiply(key: Key, out: Array | None = None) -> Array:
        block = rows.read_features(key)
        scores: Array = head.logits(block)
        if not sum_is_finite(scores):  # NaN or infinity in the features reaches the scores
            rows.check_finite("features", block, key)
            if not np.isfinite(scores).all():
                raise DataError(f"{rows.name}: features times the weights of this head leave the range of float32")
        return scores

    return multiply


def sum_is_finite(block: Array) -> bool:
    """Whether the sum of all values is finite. If it is, then so is every value."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(block.sum(dtype=np.float32)))
