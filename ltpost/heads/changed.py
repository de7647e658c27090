"""A linear layer over changed rows: of unit length, or to a power, from the features or from an earlier layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ltpost.errors import DataError, no_features
from ltpost.heads.linear import LinearHead
from ltpost.heads.normalized import normalized
from ltpost.heads.protocol import Array, HeadRows, Key, Reader, Spec
from ltpost.heads.saving import Saved


class ChangedHead(Saved):
    """z = q Wᵀ + b, where q is x after a change. No linear function of x, so that there is no weight to export.

    Args:
        layer: W (C, D) and b.
        power: q = max(x, 0)^power; 1 keeps x, negative values included.
        unit: q has unit length; after the power.
        source: "" to read the features, else the name of an earlier layer.

    Raises:
        DataError: a power that is not positive.

    >>> ChangedHead(LinearHead(np.eye(2)), unit=True).logits(np.array([[3.0, 4.0]]))
    array([[0.6, 0.8]], dtype=float32)
    >>> ChangedHead(LinearHead(np.eye(2)), power=0.5).logits(np.array([[9.0, -4.0]]))
    array([[3., 0.]], dtype=float32)
    """

    def __init__(self, layer: LinearHead, *, power: float = 1.0, unit: bool = False, source: str = ""):
        if not 0 < power < np.inf:
            raise DataError(f"power= must be positive, but is {power}")
        self.layer, self.power, self.unit, self.source = layer, float(power), bool(unit), str(source)
        self.info: dict[str, Any] = {}

    @property
    def num_classes(self) -> int:
        """C."""
        return self.layer.num_classes

    @property
    def num_features(self) -> int:
        """D of what it reads."""
        return self.layer.num_features

    def logits(self, rows: Array) -> Array:
        """(n, D) stored rows to (n, C) float32 logits."""
        changed = change(np.asarray(rows, dtype=np.float32), self.power, self.unit)
        return self.layer.logits(changed)

    def is_stored(self, rows: HeadRows) -> bool:
        """Never."""
        return False

    def reader(self, rows: HeadRows) -> Reader:
        """See :class:`~ltpost.heads.protocol.Head`."""
        if not self.source and rows.num_features is None:
            raise no_features(rows.name)

        def read(key: Key, out: Array | None = None) -> Array:
            if self.source:
                return self.logits(rows.read_layer(self.source, key))
            block = rows.read_features(key)
            if not np.isfinite(block).all():  # max(x, 0) could hide it
                rows.check_finite("features", block, key)
            return self.logits(block)

        return read

    def linear(self) -> None:
        """None: it changes every row."""
        return

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """See :class:`~ltpost.heads.protocol.Head`."""
        spec = {"kind": "changed", "power": self.power, "unit": self.unit, "source": self.source}
        return spec, self.layer.state()[1]

    @classmethod
    def from_state(cls, spec: Spec, tensors: Mapping[str, Array]) -> ChangedHead:
        """The head that :meth:`state` describes."""
        layer = LinearHead.from_state({}, tensors)
        return cls(layer, power=spec["power"], unit=spec["unit"], source=spec["source"])


def change(rows: Array, power: float = 1.0, unit: bool = False) -> Array:
    """Rows (n, D) to a power, then of unit length; see :class:`ChangedHead`."""
    if power == 0.5:
        rows = np.sqrt(np.maximum(rows, 0))
    elif power != 1:
        rows = np.maximum(rows, 0) ** rows.dtype.type(power)
    return normalized(rows) if unit else rows
