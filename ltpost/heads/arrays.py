"""Arrays as the rows that heads read, for answers without a feature file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.heads.protocol import Array, HeadRows, Key, Layer

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLOCK_ELEMENTS = 2**22  # 16 MiB


class ArrayRows:
    """Features (N, D), logits (N, C) of the joint classifier and layers in memory; not all need be there.

    Args:
        features: (N, D), or None.
        logits: (N, C), or None.
        num_classes: C.
        head: the joint classifier, or None.
        layers: name to (N, D_l) pooled output of an earlier layer.
        name: in messages.

    Raises:
        DataError: neither, or shapes that do not fit.
    """

    def __init__(
        self,
        features: Any = None,
        logits: Any = None,
        *,
        num_classes: int,
        head: Layer | None = None,
        layers: Mapping[str, Array] | None = None,
        name: str = "rows",
    ):
        self._features, self._logits = (None if x is None else np.asarray(x) for x in (features, logits))
        known = [x for x in (self._features, self._logits) if x is not None]
        if not known or any(x.ndim != 2 or x.dtype.kind not in "fiu" for x in known):
            shapes = ", ".join(f"{x.dtype} {x.shape}" for x in known) or "none"
            raise DataError(f"{name}: must be numbers of shape (N, D), or logits (N, C), but are {shapes}")
        if self._logits is not None and self._logits.shape[1] != num_classes:
            raise DataError(f"{name}: logits must have {num_classes} columns, but have {self._logits.shape[1]}")
        if len({len(x) for x in known}) > 1:
            raise DataError(f"{name}: features and logits must have equally many rows")
        self.name, self.num_classes, self.num_experts, self.head = name, num_classes, 1, head
        self.logits_are_finite = False
        self._layers = dict(layers or {})

    def __len__(self) -> int:
        rows = self._features if self._features is not None else self._logits
        assert rows is not None
        return len(rows)

    def block_rows(self) -> int:
        """See :class:`~ltpost.heads.protocol.HeadRows`."""
        return max(1, _BLOCK_ELEMENTS // max(self.num_classes, self.num_features or 1))

    @property
    def num_features(self) -> int | None:
        """D, or None."""
        return None if self._features is None else int(self._features.shape[1])

    @property
    def has_logits(self) -> bool:
        """Whether there are logits."""
        return self._logits is not None

    def read_features(self, key: Key) -> Array:
        """Features (n, D)."""
        if self._features is None:
            raise DataError(f"{self.name}: this head reads features (N, D), but only logits are given")
        return np.asarray(self._features[key], dtype=np.float32)

    def read_logits(self, key: Key, out: Array | None = None) -> Array:
        """Logits (n, C)."""
        assert self._logits is not None
        block = np.asarray(self._logits[key], dtype=np.float32)
        self.check_finite("logits", block, key)
        return block

    def expert(self, number: int) -> HeadRows:
        """Never: arrays are of one network."""
        raise DataError(f"{self.name}: this head reads several experts, which only a feature set holds; give it one")

    def two_views(self) -> tuple[HeadRows, NDArray[np.int64]]:
        """Never: arrays show each row once."""
        raise DataError(f"{self.name}: this head reads two views of each row, which only a feature set holds")

    def read_layer(self, name: str, key: Key) -> Array:
        """Pooled output (n, D_l) of an earlier layer."""
        if name not in self._layers:
            raise DataError(f"{self.name}: this head reads layer '{name}', which only a feature set holds; give it one")
        block: Array = self._layers[name][key]
        self.check_finite(f"layer '{name}'", block, key)
        return block

    def check_finite(self, dataset: str, block: Array, key: Key) -> None:
        """Raise DataError if a value of a block is NaN or infinite."""
        if not np.isfinite(block).all():
            raise DataError(f"{self.name}: {dataset} must be finite, but hold NaN or infinity")


def probabilities(scores: Array, info: Mapping[str, Any]) -> NDArray[np.float64]:
    """Softmax of logits (n, C), with the temperature or calibration that ``info`` of a head holds; (n, C)."""
    scale, offset = scale_and_offset(info)
    shifted = np.asarray(scores, dtype=np.float64) * scale + (0.0 if offset is None else offset)
    shifted -= shifted.max(axis=1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=1, keepdims=True)
    return shifted


def scale_and_offset(info: Mapping[str, Any]) -> tuple[Array, Array | None]:
    """What calibrates the logits of a head: factors () or (C,), and shifts (C,) or None; see ``ltpost.calibration``."""
    if "calibration" in info:
        saved = info["calibration"]
        return np.asarray(saved["scale"]), None if saved["offset"] is None else np.asarray(saved["offset"])
    return np.asarray(1 / info.get("temperature", 1.0)), None
