"""Pooled features of earlier layers of the network, stored beside the input of its classifier.

The last stage of a network follows its training rows closely; earlier stages do so less. Their features are therefore
read by heads of their own (``methods.layer_discriminants``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.data.rows import BLOCK_ELEMENTS, Rows, parts
from ltpost.errors import DataError


@dataclass(frozen=True)
class Layer:
    """Pooled features of one layer.

    Attributes:
        rows: (N, D_l) float16 or float32, unread.
        attrs: where they come from: ``module``, the path of the module in the network, and ``pooling``, such as
            "average 2x2" (channels first: column c · 4 + position is channel c).
    """

    rows: Rows
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def checked(cls, file: str, name: str, value: Any, num_rows: int, keep: NDArray[np.int64] | None) -> Layer:
        """A layer from an array, rows or a layer; ``keep`` are the rows that count, or None for all.

        Raises:
            DataError: it is no matrix of ``num_rows`` rows of floating-point numbers.
        """
        layer = value if isinstance(value, cls) else cls(value if isinstance(value, Rows) else Rows(np.asarray(value)))
        shape, dtype = layer.shape, layer.dtype
        if len(shape) != 2:
            raise DataError(f"{file}: 'layers/{name}' must have shape (N, D_l), but has {shape}")
        if shape[0] != num_rows:
            raise DataError(f"{file}: 'layers/{name}' must have {num_rows} rows like 'labels', but has {shape[0]}")
        if dtype.kind != "f":
            raise DataError(f"{file}: 'layers/{name}' must be floating point, but is {dtype}")
        return layer if keep is None else layer.subset(keep)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D_l)."""
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the stored numbers."""
        return self.rows.dtype

    def subset(self, rows: NDArray[np.int64]) -> Layer:
        """Some of the rows, still unread."""
        return Layer(self.rows.subset(rows), self.attrs)

    def write(self, dataset: Any) -> None:
        """Fill an HDF5 dataset of the same shape."""
        dataset.attrs.update(self.attrs)
        for part, key in parts(len(self.rows), max(1, BLOCK_ELEMENTS // max(1, self.shape[1]))):
            dataset[part] = self.rows[key]
