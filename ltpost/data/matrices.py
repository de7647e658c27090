"""The matrices of one split: features, logits and layers, all unread, and how they are read block by block."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.data import checks
from ltpost.data.layers import Layer
from ltpost.data.rows import BLOCK_ELEMENTS, Rows, parts
from ltpost.errors import DataError, no_features
from ltpost.heads import Array, Key


class Matrices:
    """What a feature set reads: ``features`` (N, D), ``logits`` (N, C) and ``layers/*`` (N, D_l), by rows of labels."""

    name: str
    labels: NDArray[np.int64]
    num_classes: int
    #: name to the pooled features of an earlier layer of the network, unread
    layers: dict[str, Layer]
    #: whether a pass has read all stored logits and found them finite; later passes skip the check
    logits_are_finite: bool
    _features: Rows | None
    _logits: Rows | None

    def __len__(self) -> int:
        """N, rows that could not be read left out."""
        return len(self.labels)

    @property
    def num_features(self) -> int | None:
        """D, or None where only logits are stored."""
        return None if self._features is None else self._features.shape[1]

    @property
    def features(self) -> Any:
        """(N, D), as stored: a memory map, or :class:`Rows` where a map is not possible."""
        if self._features is None:
            raise no_features(self.name)
        return self._plain(self._features)

    @property
    def stored_features(self) -> Rows | None:
        """(N, D), unread."""
        return self._features

    @property
    def stored_logits(self) -> Rows | None:
        """(N, C), unread; None where logits would be computed."""
        return self._logits

    @property
    def has_logits(self) -> bool:
        """Whether logits are stored (they can otherwise be computed from features and head)."""
        return self._logits is not None

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any figure on this split has to know."""
        if self._logits is None or not checks.are_probabilities(self._logits):
            return ()
        note = (
            f"{self.name}: 'logits' are probabilities, as rows lie in [0, 1] and sum to 1, but methods need logits or "
            "log probabilities; store the logarithm of what is there"
        )
        return (note,)

    def block_rows(self) -> int:
        """How many rows make a block of about 16 MiB."""
        return max(16, BLOCK_ELEMENTS // max(self.num_classes, self.num_features or 1))

    def feature_blocks(
        self, rows: NDArray[np.int64] | None = None, size: int | None = None
    ) -> Iterator[tuple[slice, Array]]:
        """Blocks ``(slice, features)`` of the rows ``rows`` (default all), checked to be finite, as stored."""
        features = self.features
        for part, key in parts(len(self) if rows is None else len(rows), size or self.block_rows(), rows):
            block = features[key]
            self.check_finite("features", block, key)
            yield part, block

    def read_features(self, key: Key) -> Array:
        """Features (n, D) of some rows, as stored."""
        block: Array = self.features[key]
        return block

    def read_layer(self, name: str, key: Key) -> Array:
        """Pooled features (n, D_l) of a layer for some rows, as stored, checked to be finite.

        Raises:
            DataError: there is no such layer, or a value is NaN or infinite.
        """
        if name not in self.layers:
            listed = ", ".join(self.layers) or "none"
            raise DataError(f"{self.name}: must hold 'layers/{name}', but the layers in it are {listed}")
        block = self.layers[name].rows[key]
        self.check_finite(f"layers/{name}", block, key)
        return block

    def layer_blocks(self, name: str) -> Iterator[tuple[slice, Array]]:
        """Blocks ``(slice, pooled features)`` of a layer, of all rows in order."""
        size = max(16, BLOCK_ELEMENTS // self.layers[name].shape[1]) if name in self.layers else 1
        for part, key in parts(len(self), size):
            yield part, self.read_layer(name, key)

    def read_logits(self, key: Key, out: Array | None = None) -> Array:
        """Stored logits (n, C) float32 of some rows, checked to be finite; ``out`` is memory to read into."""
        assert self._logits is not None
        scores = self._logits[key] if out is None or isinstance(key, slice) else self._logits.take(key, out)
        if not self.logits_are_finite:
            self.check_finite("logits", scores, key)
        return scores.astype(np.float32, copy=False)

    def check_finite(self, dataset: str, block: Array, key: Key) -> None:
        """Raise DataError if a value of a block of ``features`` or ``logits`` is NaN or infinite."""
        checks.finite(self.name, dataset, block, key)

    @staticmethod
    def _plain(rows: Rows) -> Any:
        if rows.index is None and isinstance(rows.source, np.ndarray) and rows.source.dtype.isnative:
            return rows.source if rows.columns is None else rows.source[:, rows.columns]
        return rows
