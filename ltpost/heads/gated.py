"""A head that adjusts the logits of a linear one row by row, as far as a gate opens (DisAlign).

    z'_c = (1 + g α_c) z_c + g β_c      g = σ(v · x + v₀)      z = W x + b

What this module does not do: fit it (``fit``), or be a linear layer: g depends on x.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ltpost.errors import DataError, no_features
from ltpost.heads.linear import LinearHead, sum_is_finite
from ltpost.heads.normalized import normalized
from ltpost.heads.protocol import Array, HeadRows, Key, Reader, Spec
from ltpost.heads.saving import Saved


class GatedHead(Saved):
    """z' = (1 + g α) z + g β, for the logits z of a linear head and a gate g of the features.

    Args:
        base: the linear head, (C, D).
        alpha: (C,) α.
        beta: (C,) β.
        gate: (D,) v.
        gate_bias: v₀.
        unit: whether x stands for x / ‖x‖, in the base and in the gate.
        info: see :class:`LinearHead`.

    Raises:
        DataError: shapes do not fit.

    >>> head = GatedHead(LinearHead(np.eye(2)), np.ones(2), np.zeros(2), gate=np.zeros(2))
    >>> head.logits(np.array([[2.0, 1.0]], dtype=np.float32))
    array([[3. , 1.5]], dtype=float32)
    """

    def __init__(
        self,
        base: LinearHead,
        alpha: Array,
        beta: Array,
        gate: Array,
        gate_bias: float = 0.0,
        unit: bool = False,
        *,
        info: Mapping[str, Any] | None = None,
    ):
        sizes = {
            "alpha": (alpha, (base.num_classes,)),
            "beta": (beta, (base.num_classes,)),
            "gate": (gate, (base.num_features,)),
        }
        for name, (values, shape) in sizes.items():
            if np.shape(values) != shape:
                raise DataError(f"{name} of a gated head must have shape {shape}, but has {np.shape(values)}")
        self.base, self.unit, self.gate_bias = base, unit, float(gate_bias)
        self.alpha, self.beta, self.gate = (np.asarray(part, dtype=np.float32) for part in (alpha, beta, gate))
        self.info: dict[str, Any] = dict(info or {})

    @property
    def num_classes(self) -> int:
        """C."""
        return self.base.num_classes

    @property
    def num_features(self) -> int:
        """D."""
        return self.base.num_features

    def opening(self, features: Array) -> Array:
        """G of (n, D) features, (n, 1) float32 in 0..1."""
        x = self._inner(features)
        halves: Array = 0.5 * (x @ self.gate + np.float32(self.gate_bias))
        return (0.5 * (1 + np.tanh(halves)))[:, None]  # the logistic function, which does not overflow so

    def logits(self, features: Array) -> Array:
        """(n, D) features to (n, C) float32 logits."""
        return self._adjust(self.base.logits(self._inner(features)), features)

    def _inner(self, features: Array) -> Array:
        x = np.asarray(features, dtype=np.float32)
        return normalized(x) if self.unit else x

    def _adjust(self, scores: Array, features: Array, out: Array | None = None) -> Array:
        opening = self.opening(features)
        adjusted = np.multiply(scores, 1 + opening * self.alpha, out=out)
        return np.add(adjusted, opening * self.beta, out=adjusted)

    def is_stored(self, rows: HeadRows) -> bool:
        """Never: the gate reads features."""
        return False

    def reader(self, rows: HeadRows) -> Reader:
        """Reads features, and the logits of the base where they are stored."""
        if rows.num_features is None:
            raise no_features(rows.name)
        stored = self.base.reader(rows) if not self.unit and self.base.is_stored(rows) else None

        def read(key: Key, out: Array | None = None) -> Array:
            block = rows.read_features(key)
            scores = self.logits(block) if stored is None else self._adjust(stored(key, out), block, out)
            if not sum_is_finite(scores):
                rows.check_finite("features", block, key)
            return scores

        return read

    def linear(self) -> None:
        """None: the gate depends on the row."""
        return

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """See :class:`~ltpost.heads.protocol.Head`."""
        own = {"alpha": self.alpha, "beta": self.beta, "gate": self.gate}
        bias = np.array([self.gate_bias], dtype=np.float32)
        return {"kind": "gated", "unit": self.unit}, {**self.base.state()[1], **own, "gate_bias": bias}

    @classmethod
    def from_state(cls, spec: Spec, tensors: Mapping[str, Array]) -> GatedHead:
        """The head that :meth:`state` describes."""
        base = LinearHead.from_state(spec, tensors)
        (gate_bias,) = tensors["gate_bias"]
        return cls(base, tensors["alpha"], tensors["beta"], tensors["gate"], float(gate_bias), spec["unit"])

    def __repr__(self) -> str:
        return f"GatedHead(C={self.num_classes}, D={self.num_features})"
