"""Heads that combine several experts: one set of weights for all rows, or one for each row.

Experts are networks, or branches of one network, that see the same images: each has features of its own and a head of
its own (see ``ltpost.data.experts`` for how a file holds them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.heads.agreement import Similarity, Space, agreement, best_on_simplex
from ltpost.heads.linear import LinearHead
from ltpost.heads.protocol import Array, Head, HeadRows, Key, Reader, Spec
from ltpost.heads.saving import Saved

_BLOCK_ELEMENTS = 2**20  # of the logits of all experts on one view: 8 MiB as float64


class ExpertHead(Saved):
    """One of several experts: a head that reads only what belongs to its expert.

    Args:
        head: over the features, or the stored logits, of that expert alone.
        number: which expert, from 0.
    """

    def __init__(self, head: Head, number: int):
        self.head, self.number = head, number
        self.info: dict[str, Any] = {}

    @property
    def num_classes(self) -> int:
        """C."""
        return self.head.num_classes

    def is_stored(self, rows: HeadRows) -> bool:
        """False: what is stored beside several experts are the logits of their mean."""
        return False

    def reader(self, rows: HeadRows) -> Reader:
        """See :class:`~ltpost.heads.protocol.Head`."""
        return self.head.reader(rows.expert(self.number))

    def linear(self) -> LinearHead | None:
        """None: it reads some of the columns only."""
        return None

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """See :class:`~ltpost.heads.protocol.Head`."""
        spec, tensors = self.head.state()
        return {"kind": "expert", "number": self.number, "head": spec}, tensors

    def __repr__(self) -> str:
        return f"ExpertHead({self.number}: {self.head!r})"


class JoinedHead(LinearHead):
    """The mean of several experts' linear heads: one linear layer over their features side by side.

    z = 1/E Σ_e (W_e x_e + b_e) = [W_0 … W_{E-1}]/E · [x_0; …; x_{E-1}] + mean b_e

    Args:
        weight: (C, Σ D_e), as above.
        bias: (C,), the mean bias, or None.
        widths: D_e of every expert.
        expert_bias: (E, C); default the mean bias for every expert.
    """

    def __init__(self, weight: Array, bias: Array | None, widths: Sequence[int], expert_bias: Array | None = None):
        super().__init__(weight, bias)
        self.widths = tuple(widths)
        self.expert_bias = None if expert_bias is None else np.asarray(expert_bias, dtype=np.float32)

    @classmethod
    def of(cls, heads: Sequence[LinearHead]) -> JoinedHead:
        """The mean of some heads.

        >>> JoinedHead.of([LinearHead(np.array([[2.0]])), LinearHead(np.array([[4.0, 6.0]]))]).weight
        array([[1., 2., 3.]], dtype=float32)
        """
        weight = np.concatenate([head.weight for head in heads], axis=1) / len(heads)
        if all(head.bias is None for head in heads):
            return cls(weight, None, [head.num_features for head in heads])
        biases = np.stack([np.zeros(head.num_classes) if head.bias is None else head.bias for head in heads])
        return cls(weight, biases.mean(axis=0), [head.num_features for head in heads], biases)

    @cached_property
    def experts(self) -> list[ExpertHead]:
        """The head of every expert."""
        bounds = np.cumsum([0, *self.widths]).tolist()
        biases = [self.bias] * len(self.widths) if self.expert_bias is None else list(self.expert_bias)
        return [
            ExpertHead(LinearHead(self.weight[:, start:stop] * np.float32(len(self.widths)), bias), number)
            for number, ((start, stop), bias) in enumerate(zip(pairwise(bounds), biases, strict=True))
        ]


class AggregatedHead(Saved):
    """z_c = Σ_e s_ec z_ec + t_c, with the same s and t for all rows.

    Where every expert is linear, so is the sum: it is then read, saved and exported as one linear layer over the
    features of all experts side by side.

    Args:
        experts: E of them, with numbers 0 to E-1 where the sum is to be one linear layer.
        scale: (E,), or (E, C).
        offset: (C,), or None for zeros.

    Raises:
        DataError: shapes do not fit.

    >>> experts = JoinedHead.of([LinearHead(np.eye(2)), LinearHead(np.ones((2, 1)))]).experts
    >>> AggregatedHead(experts, np.array([0.25, 0.75])).linear().weight
    array([[0.25, 0.  , 0.75],
           [0.  , 0.25, 0.75]], dtype=float32)
    """

    def __init__(self, experts: Sequence[ExpertHead], scale: Array, offset: Array | None = None):
        self.experts = list(experts)
        shape = (len(self.experts), self.num_classes)
        scale = np.asarray(scale, dtype=np.float64)
        if scale.shape not in (shape[:1], shape):
            raise DataError(f"the scale of the experts must have shape (E,) or (E, C) = {shape}, but has {scale.shape}")
        if offset is not None and np.shape(offset) != shape[1:]:
            raise DataError(f"the offset must have shape (C,) = {shape[1:]}, but has {np.shape(offset)}")
        self.scale: Array = scale
        self.offset: Array | None = None if offset is None else np.asarray(offset, dtype=np.float64)
        self.info: dict[str, Any] = {}

    @property
    def num_classes(self) -> int:
        """C."""
        return self.experts[0].num_classes

    def is_stored(self, rows: HeadRows) -> bool:
        """Whether the sum is the joint classifier of the rows, bit for bit."""
        layer = self.linear()
        return layer is not None and layer.is_stored(rows)

    def reader(self, rows: HeadRows) -> Reader:
        """One product with the features side by side, or the sum of the experts' logits."""
        layer = self.linear()
        if layer is not None and rows.num_features == layer.num_features:
            return layer.reader(rows)
        reads = [expert.reader(rows) for expert in self.experts]
        scales = self.scale.astype(np.float32)

        def add(key: Key, out: Array | None = None) -> Array:
            scores = sum(scale * read(key) for scale, read in zip(scales, reads, strict=True))
            total: Array = np.asarray(scores, dtype=np.float32)
            return total if self.offset is None else total + self.offset.astype(np.float32)

        return add

    def linear(self) -> LinearHead | None:
        """The same as one linear layer over the features side by side, where every expert is linear."""
        if self._layer is not None:
            self._layer.info = self.info
        return self._layer

    @cached_property
    def _layer(self) -> LinearHead | None:
        layers = [expert.head.linear() for expert in self.experts]
        numbers = [expert.number for expert in self.experts]
        if numbers != list(range(len(numbers))):
            return None
        linear = [layer for layer in layers if layer is not None]
        if len(linear) < len(layers):
            return None
        shape = (len(linear), self.num_classes)
        scale = np.broadcast_to(self.scale[:, None] if self.scale.ndim == 1 else self.scale, shape)
        weights = [layer.weight * part[:, None].astype(np.float32) for layer, part in zip(linear, scale, strict=True)]
        bias = np.zeros(self.num_classes) if self.offset is None else self.offset.copy()
        for layer, part in zip(linear, scale, strict=True):
            if layer.bias is not None:
                bias += part * layer.bias
        return LinearHead(np.concatenate(weights, axis=1), bias if np.any(bias) else None)

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """One linear layer where it is one, else the experts and the scales."""
        layer = self.linear()
        if layer is not None:
            return layer.state()
        specs, tensors = experts_state(self.experts)
        tensors["scale"] = self.scale
        if self.offset is not None:
            tensors["offset"] = self.offset
        return {"kind": "aggregated", "experts": specs}, tensors

    def __repr__(self) -> str:
        signature = self.info.get("signature")
        return f"AggregatedHead(E={len(self.experts)}, C={self.num_classes}{f', {signature}' if signature else ''})"


class InstanceWeightedHead(Saved):
    """z_i = Σ_e λ_ie z_ie, with weights λ_i on the simplex for every row i, found from two views of it.

    λ_i is where the two views' combined predictions agree most (see ``ltpost.heads.agreement``). No other row and no
    label is looked at. The rows must have views (:meth:`ltpost.FeatureSet.two_views`).

    Args:
        experts: E of them.
        space: what is compared: combined ``logits``, or their ``softmax``.
        similarity: ``cosine`` or ``dot``.
        strength: t, how far the weights go from equal ones (0) to those of most agreement (1): (1 - t)/E + t λ_i.
    """

    def __init__(
        self,
        experts: Sequence[ExpertHead],
        space: Space = "softmax",
        similarity: Similarity = "cosine",
        strength: float = 1.0,
    ):
        self.experts, self.space, self.similarity, self.strength = list(experts), space, similarity, float(strength)
        self.info: dict[str, Any] = {}
        self._known: tuple[HeadRows, Array] | None = None

    @property
    def num_classes(self) -> int:
        """C."""
        return self.experts[0].num_classes

    def weights(self, rows: HeadRows) -> NDArray[np.float32]:
        """The weights of the experts for every row, (N, E).

        Raises:
            DataError: the rows have no views.
        """
        equal = np.float32(1 / len(self.experts))
        return np.asarray(equal + np.float32(self.strength) * (self._agreeing(rows) - equal), dtype=np.float32)

    def _agreeing(self, rows: HeadRows) -> NDArray[np.float32]:
        """λ, (N, E). Those of the rows that were asked for last are kept."""
        if self._known is not None and self._known[0] is rows:
            return self._known[1]
        views, index = rows.two_views()
        shares = np.empty((len(index), len(self.experts)), dtype=np.float32)
        size = max(1, _BLOCK_ELEMENTS // (len(self.experts) * self.num_classes))
        for start in range(0, len(index), size):
            part = index[start : start + size]
            first, second = (stacked_logits(self.experts, views, part[:, view]) for view in (0, 1))
            shares[start : start + size] = best_on_simplex(
                agreement(first, second, self.space, self.similarity), len(part), len(self.experts)
            )
        self._known = (rows, shares)
        return shares

    def row_figures(self, rows: HeadRows) -> dict[str, Array]:
        """The weight of every expert, (N,) each."""
        return {f"weight of expert {e}": column for e, column in enumerate(self.weights(rows).T)}

    def is_stored(self, rows: HeadRows) -> bool:
        """Never."""
        return False

    def reader(self, rows: HeadRows) -> Reader:
        """See :class:`~ltpost.heads.protocol.Head`."""
        weights, reads = self.weights(rows), [expert.reader(rows) for expert in self.experts]

        def add(key: Key, out: Array | None = None) -> Array:
            parts = [weights[key, e, None] * read(key) for e, read in enumerate(reads)]
            return np.asarray(sum(parts), dtype=np.float32)

        return add

    def linear(self) -> LinearHead | None:
        """None: the weights differ from row to row."""
        return None

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """The experts; weights are found anew for the rows that the head is used on."""
        specs, tensors = experts_state(self.experts)
        settings = {"space": self.space, "similarity": self.similarity, "strength": self.strength}
        return {"kind": "instance-weighted", "experts": specs, **settings}, tensors


def stacked_logits(experts: Sequence[ExpertHead], rows: HeadRows, key: Key) -> NDArray[np.float64]:
    """Logits of all experts on some rows, (n, E, C) float64."""
    return np.stack([expert.reader(rows)(key) for expert in experts], axis=1).astype(np.float64)


def experts_state(experts: Sequence[ExpertHead]) -> tuple[list[Spec], dict[str, Array]]:
    """Specs of experts, and their tensors with the place of the expert before the name; read by ``loading``."""
    specs, tensors = [], {}
    for place, expert in enumerate(experts):
        spec, own = expert.state()
        specs.append(spec)
        tensors.update({f"{place}.{name}": tensor for name, tensor in own.items()})
    return specs, tensors


def experts_from_state(specs: Sequence[Spec], tensors: Mapping[str, Array], build: Any) -> list[ExpertHead]:
    """The experts that :func:`experts_state` describes; ``build`` makes a head from spec and tensors."""
    experts = []
    for place, spec in enumerate(specs):
        begin = f"{place}."
        own = {name.removeprefix(begin): tensor for name, tensor in tensors.items() if name.startswith(begin)}
        experts.append(build(spec, own))
    if not all(isinstance(expert, ExpertHead) for expert in experts):
        raise DataError("the heads that are combined must be of kind 'expert'")
    sizes = sorted({expert.num_classes for expert in experts})
    if len(sizes) != 1:
        raise DataError(f"experts must have the same number of classes, but have {sizes}")
    return experts
