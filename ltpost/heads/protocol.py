"""What every head can do, and what it may ask of the rows that it classifies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Key = slice | NDArray[np.int64]
#: what a file says of a head besides its tensors: its kind, and what the kind needs to be built again
Spec = dict[str, Any]


class Reader(Protocol):
    """A function from rows to logits. Several threads may call it."""

    def __call__(self, key: Key, out: Array | None = None) -> Array:
        """Logits (n, C) float32 of the rows ``key``; ``out`` (n, C) float32 is memory that it may compute in."""


class Layer(Protocol):
    """One linear layer over the features, z = x Wᵀ + b: a :class:`~ltpost.LinearHead`."""

    info: dict[str, Any]

    @property
    def weight(self) -> Array:
        """W, (C, D) float32."""

    @property
    def bias(self) -> Array | None:
        """b, (C,) float32, or None."""

    @property
    def num_features(self) -> int:
        """D."""

    @property
    def fingerprint(self) -> str:
        """Equal for the same layer, in any file."""

    def norms(self) -> Array:
        """‖w_c‖₂ of every class, (C,) float64."""

    def logits(self, features: Array) -> Array:
        """(n, D) features to (n, C) float32 logits."""

    def reader(self, rows: HeadRows) -> Reader:
        """See :class:`Head`."""

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """See :class:`Head`."""


class HeadRows(Protocol):
    """What a head may ask of rows: a :class:`~ltpost.FeatureSet`, with or without its labels."""

    name: str
    num_classes: int
    num_experts: int

    def __len__(self) -> int:
        """N."""

    def block_rows(self) -> int:
        """How many rows make a block of about 16 MiB."""

    @property
    def head(self) -> Layer | None:
        """The joint classifier, or None where only its logits are stored."""

    @property
    def num_features(self) -> int | None:
        """D, or None where no features are stored."""

    @property
    def has_logits(self) -> bool:
        """Whether logits of the joint classifier are stored."""

    def read_features(self, key: Key) -> Array:
        """Features (n, D) as stored."""

    def read_logits(self, key: Key, out: Array | None = None) -> Array:
        """Stored logits (n, C)."""

    def expert(self, number: int) -> HeadRows:
        """The same rows as one of several experts has them."""

    def two_views(self) -> tuple[HeadRows, NDArray[np.int64]]:
        """Rows that show augmented views, and which two of them show each of these rows, (N, 2).

        Raises:
            DataError: there are none.
        """

    def read_layer(self, name: str, key: Key) -> Array:
        """Pooled features (n, D_l) of an earlier layer, checked to be finite; DataError where it is not stored."""

    def check_finite(self, dataset: str, block: Array, key: Key) -> None:
        """Raise DataError if a value of a block is NaN or infinite."""


class Head(Protocol):
    """A classifier over cached rows. :class:`LinearHead` is the usual one."""

    #: what is known of how the head was made: strings, numbers, lists; it is saved with the head
    info: dict[str, Any]

    @property
    def num_classes(self) -> int:
        """C."""

    def is_stored(self, rows: HeadRows) -> bool:
        """Whether its logits on these rows follow from the stored ones class by class, without a product."""

    def reader(self, rows: HeadRows) -> Reader:
        """A function that gives the logits of these rows.

        Raises:
            DataError: the rows do not hold what the head reads.
        """

    def linear(self) -> Layer | None:
        """The same classifier as one linear layer over the features, or None where there is none."""

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """What :meth:`save` writes: the spec, and the tensors by name."""

    def predict(self, features: Any = None, *, logits: Any = None) -> NDArray[np.int64]:
        """The class of every row, (N,)."""

    def predict_proba(self, features: Any = None, *, logits: Any = None) -> NDArray[np.float64]:
        """The probability of every class, (N, C)."""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a head file; :func:`ltpost.load_head` reads it."""


@runtime_checkable
class RowFigures(Protocol):
    """A head that treats every row in its own way, and can say how."""

    def row_figures(self, rows: HeadRows) -> dict[str, Array]:
        """What it did with each row, (N,) by name."""
