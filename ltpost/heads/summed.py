"""A weighted sum of the log-probabilities of several heads, each over what it reads: features, logits, earlier layers.

z_c = Σ_k v_k log softmax(z^k)_c
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ltpost.errors import DataError
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


def log_softmax(logits: Array) -> Array:
    """Logits (n, C) to their log-probabilities, float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
