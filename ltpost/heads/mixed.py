"""A mixture of two heads over the same rows: z = (1 - t) z_1 + t z_2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ltpost.errors import DataError
from ltpost.heads.linear import LinearHead
from ltpost.heads.protocol import Array, Head, HeadRows, Key, Reader, Spec
from ltpost.heads.saving import Saved

if TYPE_CHECKING:
    HeadOf = Callable[[Spec, Mapping[str, Array]], Head]


class MixedHead(Saved):
    """z = (1 - t) z_1 + t z_2. Where both heads are linear, it is read, saved and exported as one linear layer.

    Args:
        first: its logits are z_1.
        second: its logits are z_2.
        weight: t.

    Raises:
        DataError: the two have different numbers of classes.

    >>> one, two = LinearHead(np.array([[1.0], [0.0]])), LinearHead(np.array([[0.0], [2.0]]), np.array([0.0, 4.0]))
    >>> MixedHead(one, two, 0.25).linear().bias
    array([0., 1.], dtype=float32)
    """

    def __init__(self, first: Head, second: Head, weight: float):
        if first.num_classes != second.num_classes:
            raise DataError(
                f"two heads must have the same C to be mixed, but have {first.num_classes} and {second.num_classes}"
            )
        self.first, self.second, self.weight = first, second, float(weight)
        self.info: dict[str, Any] = {}

    @property
    def num_classes(self) -> int:
        """C."""
        return self.first.num_classes

    def is_stored(self, rows: HeadRows) -> bool:
        """False: of one of the two at most are logits stored."""
        return False

    def reader(self, rows: HeadRows) -> Reader:
        """One product where both are linear and nothing is stored, else the logits of both."""
        stored = self.first.is_stored(rows) or self.second.is_stored(rows)
        layer = None if stored else self.linear()
        if layer is not None:
            return layer.reader(rows)
        one, two = self.first.reader(rows), self.second.reader(rows)
        first_part, second_part = np.float32(1 - self.weight), np.float32(self.weight)

        def mix(key: Key, out: Array | None = None) -> Array:
            scores = np.multiply(one(key), first_part, out=out)
            scores += second_part * two(key)
            return scores

        return mix

    def linear(self) -> LinearHead | None:
        """The same as one linear layer, or None."""
        if self._layer is not None:
            self._layer.info = self.info
        return self._layer

    @cached_property
    def _layer(self) -> LinearHead | None:
        one, two = self.first.linear(), self.second.linear()
        if one is None or two is None or one.num_features != two.num_features:
            return None
        bias = np.zeros(self.num_classes)
        for layer, part in ((one, 1 - self.weight), (two, self.weight)):
            if layer.bias is not None:
                bias += part * layer.bias.astype(np.float64)
        weight = one.weight * np.float32(1 - self.weight) + two.weight * np.float32(self.weight)
        return LinearHead(weight, bias if np.any(bias) else None)

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """One linear layer where it is one, else both heads."""
        layer = self.linear()
        if layer is not None:
            return layer.state()
        (first, one), (second, two) = self.first.state(), self.second.state()
        tensors = {f"first.{name}": tensor for name, tensor in one.items()}
        tensors.update({f"second.{name}": tensor for name, tensor in two.items()})
        return {"kind": "mixed", "first": first, "second": second, "weight": self.weight}, tensors

    @classmethod
    def from_state(cls, spec: Spec, tensors: Mapping[str, Array], build: HeadOf) -> MixedHead:
        """The head that :meth:`state` describes; ``build`` makes a head from its spec and tensors."""
        first, second = (
            build(
                spec[part],
                {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")},
            )
            for part in ("first", "second")
        )
        return cls(first, second, spec["weight"])

    def __repr__(self) -> str:
        return f"MixedHead({self.weight:g}: {self.first!r}, {self.second!r})"
