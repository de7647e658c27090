"""Distance to a prototype per class, every channel with a temperature of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ltpost.errors import DataError
from ltpost.heads.feature_head import FeatureHead
from ltpost.heads.protocol import Array, Spec


class PrototypeHead(FeatureHead):
    """z_c = -½ ‖(x - p_c) / T‖, the norm not squared.

    Args:
        prototypes: (C, D) p.
        temperature: (D,) T, not 0.

    Raises:
        DataError: shapes do not fit, or a temperature is 0.
    """

    def __init__(self, prototypes: Array, temperature: Array):
        if prototypes.ndim != 2 or temperature.shape != prototypes.shape[1:]:
            raise DataError(
                f"prototypes must have shape (C, D) and the temperature (D,), but have {prototypes.shape} and "
                f"{temperature.shape}"
            )
        self.prototypes: Array = np.asarray(prototypes, dtype=np.float32)
        self.temperature: Array = np.asarray(temperature, dtype=np.float32)
        if not np.all(self.temperature):
            raise DataError("no temperature of a prototype head may be 0")
        self.info: dict[str, Any] = {}

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.prototypes)

    @property
    def num_features(self) -> int:
        """D."""
        return len(self.temperature)

    def logits(self, features: Array) -> Array:
        """(n, D) features to (n, C) float32: minus half the distance to every prototype."""
        query = np.asarray(features, dtype=np.float64) / self.temperature
        scaled = self.prototypes.astype(np.float64) / self.temperature
        squares = np.square(query).sum(1)[:, None] + np.square(scaled).sum(1) - 2 * query @ scaled.T
        scores: Array = -0.5 * np.sqrt(np.maximum(squares, 0))
        return scores.astype(np.float32)

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """See :class:`~ltpost.heads.protocol.Head`."""
        return {"kind": "prototypes"}, {"prototypes": self.prototypes, "temperature": self.temperature}

    @classmethod
    def from_state(cls, spec: Spec, tensors: Mapping[str, Array]) -> PrototypeHead:
        """The head that :meth:`state` describes."""
        return cls(tensors["prototypes"], tensors["temperature"])
