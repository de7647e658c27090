"""Rows without their labels: what a transductive method sees of the split that it is applied to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.heads import Array, Key, LinearHead


class UnlabelledRows:
    """Features and logits of a split, and nothing from which a label could be read.

    Labels, paths (which often name the class) and class names are not there.

    Args:
        rows: the labelled split.
    """

    def __init__(self, rows: FeatureSet):
        self.name, self.num_classes, self.num_features = rows.name, rows.num_classes, rows.num_features
        self.head: LinearHead | None = rows.head
        self.joint, self.has_logits, self.logits_are_finite = rows.joint, rows.has_logits, False
        self.sample, self.view = rows.sample, rows.view
        self.num_experts, self.has_views = rows.num_experts, rows.has_views
        self._length, self._block_rows = len(rows), rows.block_rows()
        # functions instead of bound methods, so that no attribute leads back to the labelled split
        self._read_features: Callable[[Key], Array] = lambda key: rows.read_features(key)
        self._read_logits: Callable[[Key, Array | None], Array] = lambda key, out: rows.read_logits(key, out)
        self._expert: Callable[[int], UnlabelledRows] = lambda number: UnlabelledRows(rows.expert(number))
        self._two_views: Callable[[], tuple[FeatureSet, NDArray[np.int64]]] = lambda: rows.two_views()
        self._read_layer: Callable[[str, Key], Array] = lambda name, key: rows.read_layer(name, key)
        self._check_finite: Callable[[str, Array, Key], None] = lambda *block: rows.check_finite(*block)

    def __len__(self) -> int:
        """N."""
        return self._length

    def block_rows(self) -> int:
        """How many rows make a block of about 16 MiB."""
        return self._block_rows

    def read_features(self, key: Key) -> Array:
        """Features (n, D) of some rows, as stored."""
        return self._read_features(key)

    def read_logits(self, key: Key, out: Array | None = None) -> Array:
        """Stored logits (n, C) float32 of some rows."""
        return self._read_logits(key, out)

    def expert(self, number: int) -> UnlabelledRows:
        """The same rows as one of several experts has them."""
        return self._expert(number)

    def two_views(self) -> tuple[UnlabelledRows, NDArray[np.int64]]:
        """Rows that show augmented views, and which two of them show each row; see :meth:`FeatureSet.two_views`."""
        rows, index = self._two_views()
        return UnlabelledRows(rows), index

    def read_layer(self, name: str, key: Key) -> Array:
        """Pooled features (n, D_l) of a layer for some rows, as stored."""
        return self._read_layer(name, key)

    def check_finite(self, dataset: str, block: Array, key: Key) -> None:
        """Raise DataError if a value of a block is NaN or infinite."""
        self._check_finite(dataset, block, key)
