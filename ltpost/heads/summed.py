"""A weighted sum of the log-probabilities of several heads, each over what it reads: features, logits, earlier layers.

z_c = Σ_k v_k log softmax(z^k)_c
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ltpost.errors import DataError
from ltpost.heads.linear import LinearHead
from ltpost.heads.protocol import Array, Head, HeadRows, Key, Reader, Spec
from ltpost.heads.saving import Saved


class SummedHead(Saved):
    """z = Σ_k v_k log softmax(z^k), the log of a product of experts up to a constant.

    Args:
        heads: K heads of the same C.
        weights: (K,) v.

    Raises:
        DataError: numbers of heads or of classes differ.
    """

    def __init__(self, heads: Sequence[Head], weights: Sequence[float]):
        sizes = {head.num_classes for head in heads}
        if len(sizes) != 1 or len(heads) != len(weights):
            raise DataError(
                f"a sum of heads needs one weight per head and the same C, but got {len(heads)} heads with C = "
                f"{sorted(sizes)} and {len(weights)} weights"
            )
        self.heads, self.weights = list(heads), [float(weight) for weight in weights]
        self.info: dict[str, Any] = {}

    @property
    def num_classes(self) -> int:
        """C."""
        return self.heads[0].num_classes

    def is_stored(self, rows: HeadRows) -> bool:
        """False: logits of one of the heads at most are stored."""
        return False

    def reader(self, rows: HeadRows) -> Reader:
        """See :class:`~ltpost.heads.protocol.Head`: every head reads its own part of the rows."""
        readers = [head.reader(rows) for head in self.heads]

        def add(key: Key, out: Array | None = None) -> Array:
            total: Array | None = None
            for read, weight in zip(readers, self.weights, strict=True):
                part = weight * log_softmax(read(key))
                total = part if total is None else np.add(total, part, out=total)
            assert total is not None
            return total.astype(np.float32)

        return add

    def linear(self) -> None:
        """None: its heads read different rows."""
        return

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """The specs of the heads, and their tensors with the number of the head before the name."""
        specs, tensors = [], {}
        for number, head in enumerate(self.heads):
            spec, own = head.state()
            specs.append(spec)
            tensors.update({f"{number}.{name}": tensor for name, tensor in own.items()})
        return {"kind": "summed", "heads": specs, "weights": self.weights}, tensors

    @classmethod
    def from_state(
        cls, spec: Spec, tensors: Mapping[str, Array], head_of: Callable[[Spec, Mapping[str, Array]], Head]
    ) -> SummedHead:
        """The head that :meth:`state` describes; ``head_of`` builds its parts."""
        heads = [
            head_of(one, {name.partition(".")[2]: x for name, x in tensors.items() if name.startswith(f"{number}.")})
            for number, one in enumerate(spec["heads"])
        ]
        return cls(heads, spec["weights"])


def weighted_sum(heads: Sequence[Head], weights: Sequence[float]) -> Head:
    """The sum of the logits of several heads, up to a constant per row: one linear layer where all of them are linear.

    A constant that all classes of a row share changes neither a decision nor a probability.

    Args:
        heads: K heads of the same C.
        weights: (K,), what the logits of each count.

    Raises:
        DataError: numbers of heads or of classes differ.

    >>> one, two = LinearHead(np.eye(2)), LinearHead(np.ones((2, 2)), bias=np.array([1.0, 0.0]))
    >>> weighted_sum([one, two], [1.0, 0.5]).weight
    array([[1.5, 0.5],
           [0.5, 1.5]], dtype=float32)
    """
    summed = SummedHead(heads, weights)
    layers = [layer for head in heads if (layer := head.linear()) is not None]
    if len(layers) < len(heads) or len({layer.num_features for layer in layers}) > 1:
        return summed
    weight, bias = np.zeros(layers[0].weight.shape), np.zeros(summed.num_classes)
    for layer, share in zip(layers, summed.weights, strict=True):
        weight += share * layer.weight.astype(np.float64)
        bias += 0 if layer.bias is None else share * layer.bias.astype(np.float64)
    return LinearHead(weight, bias if np.any(bias) else None)


def log_softmax(logits: Array) -> Array:
    """Logits (n, C) to their log-probabilities, float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
