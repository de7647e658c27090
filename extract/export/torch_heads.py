"""Heads as modules of PyTorch: the same formulas on tensors, for whole networks that give a head's scores.

``module_of(head)`` gives a module whose forward takes what a network gives for n images: features (n, D), logits (n, C)
of its own classifier, and layers, name to (n, D_l). Tests hold every module against the head's own arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ltpost.errors import DataError
from ltpost.heads import (
    CausalNormHead,
    ChangedHead,
    GatedHead,
    Head,
    JointHead,
    LinearHead,
    MixedHead,
    NeighbourHead,
    NormalizedMeanHead,
    PairwiseHead,
    PrototypeHead,
    RescaledHead,
    SummedHead,
)

Layers = Mapping[str, Tensor]


def module_of(head: Head) -> nn.Module:
    """A head as a module; one linear layer where it is one.

    Raises:
        DataError: it reads more than one network gives for an image: several views, or experts of their own.
    """
    layer = head.linear()
    if layer is not None:
        return Linear(LinearHead(layer.weight, layer.bias))
    build = _MODULES.get(type(head))
    if build is None:
        raise DataError(
            f"a head of kind '{head.state()[0]['kind']}' reads several experts or views of a row, and cannot be "
            "computed from one image in one network; its scores on stored rows are head.reader(feature_set)"
        )
    return build(head)


class _Module(nn.Module):
    """Keeps constants beside the weights, float32 unless said otherwise."""

    def keep(self, name: str, values: Any, dtype: torch.dtype = torch.float32) -> None:
        """A tensor that moves with the module."""
        self.register_buffer(name, torch.tensor(np.asarray(values), dtype=dtype))


class Linear(nn.Linear):
    """x Wᵀ + b."""

    def __init__(self, head: LinearHead):
        super().__init__(head.num_features, head.num_classes, bias=head.bias is not None)
        self.weight.data = torch.from_numpy(head.weight.copy())
        if head.bias is not None:
            self.bias.data = torch.from_numpy(head.bias.copy())

    def forward(self, features: Tensor, logits: Tensor | None = None, layers: Layers | None = None) -> Tensor:
        """(n, D) to (n, C)."""
        return super().forward(features)


class Joint(nn.Module):
    """The logits of the network's own classifier."""

    def __init__(self, head: JointHead):
        super().__init__()

    def forward(self, features: Tensor, logits: Tensor, layers: Layers) -> Tensor:
        """(n, C) as they are."""
        return logits


class Rescaled(_Module):
    """Scale · z + offset."""

    def __init__(self, head: RescaledHead):
        super().__init__()
        ones = np.ones(head.num_classes)
        self.base = module_of(head.base)
        self.keep("scale", ones if head.scale is None else head.scale)
        self.keep("offset", 0 * ones if head.offset is None else head.offset)

    def forward(self, features: Tensor, logits: Tensor, layers: Layers) -> Tensor:
        """(n, C)."""
        return self.base(features, logits, layers) * self.scale + self.offset


class Mixed(nn.Module):
    """(1 - t) z + t z'."""

    def __init__(self, head: MixedHead):
        super().__init__()
        self.first, self.second, self.weight = module_of(head.first), module_of(head.second), head.weight

    def forward(self, features: Tensor, logits: Tensor, layers: Layers) -> Tensor:
        """(n, C)."""
        one, two = (head(features, logits, layers) for head in (self.first, self.second))
        return (1 - self.weight) * one + self.weight * two


class Summed(nn.Module):
    """Σ_k v_k log softmax(z^k)."""

    def __init__(self, head: SummedHead):
        super().__init__()
        self.heads = nn.ModuleList(module_of(one) for one in head.heads)
        self.weights = list(head.weights)

    def forward(self, features: Tensor, logits: Tensor, layers: Layers) -> Tensor:
        """(n, C)."""
        parts = [head(features, logits, layers).log_softmax(dim=1) for head in self.heads]
        return torch.stack([weight * part for weight, part in zip(self.weights, parts, strict=True)]).sum(dim=0)


class Changed(nn.Module):
    """A linear layer over features, or a layer, to a power and of unit length."""

    def __init__(self, head: ChangedHead):
        super().__init__()
        self.layer, self.power, self.unit, self.source = Linear(head.layer), head.power, head.unit, head.source

    def forward(self, features: Tensor, logits: Tensor, layers: Layers) -> Tensor:
        """(n, C)."""
        rows = layers[self.source] if self.source else features
        if self.power != 1:
            rows = rows.relu().sqrt() if self.power == 0.5 else rows.relu() ** self.power
        return self.layer(_unit(rows) if self.unit else rows)


class Gated(_Module):
    """(1 + g α) z + g β, with a gate g of the features."""

    def __init__(self, head: GatedHead):
        super().__init__()
        self.base, self.unit = Linear(head.base), head.unit
        self.gate = Linear(LinearHead(head.gate[None], np.array([head.gate_bias])))
        self.keep("alpha", head.alpha)
        self.keep("beta", head.beta)

    def forward(self, features: Tensor, logits: Tensor, layers: Layers) -> Tensor:
        """(n, C)."""
        x = _unit(features) if self.unit else features
        opening = self.gate(x).sigmoid()
        return self.base(x) * (1 + opening * self.alpha) + opening * self.beta


class Distance(_Module):
    """Minus a distance to a point for every class: of unit rows squared, of scaled ones halved."""

    def __init__(self, head: NormalizedMeanHead | PrototypeHead):
        super().__init__()
        self.squared = isinstance(head, NormalizedMeanHead)
        points, shift, divisor = (
            (head.means, head.centre, np.ones(head.num_features))
            if isinstance(head, NormalizedMeanHead)
            else (head.prototypes / head.temperature, np.zeros(head.num_features), head.temperature)
        )
        for name, values in (("points", points), ("shift", shift), ("divisor", divisor)):
            self.keep(name, values, torch.float64)

    def forward(self, features: Tensor, logits: Tensor, layers: Layers) -> Tensor:
        """(n, C)."""
        query = (features.double() - self.shift) / self.divisor
        query = _unit(query) if self.squared else query
        squares = query.square().sum(1, keepdim=True) + self.points.square().sum(1) - 2 * query @ self.points.T
        return (-squares if self.squared else -0.5 * squares.relu().sqrt()).float()


class CausalNorm(_Module):
    """τ/K Σ_k (x̂_k - α cos(x_k, e_k) ê_k) · ŵ_ck."""

    def __init__(self, head: CausalNormHead):
        super().__init__()
        self.parts, self.alpha, self.factor = head.parts, head.alpha, head.scale / head.parts
        weight = head.weight.astype(np.float64).reshape(head.num_classes, self.parts, -1)
        embed = head.embed.astype(np.float64).reshape(self.parts, -1)
        norms, length = np.linalg.norm(weight, axis=2, keepdims=True), np.linalg.norm(embed, axis=1, keepdims=True)
        self.keep("weight", (weight / (norms + head.gamma)).reshape(head.num_classes, -1))
        self.keep("embed", embed / np.where(length > 0, length, 1))

    def forward(self, features: Tensor, logits: Tensor, layers: Layers) -> Tensor:
        """(n, C)."""
        unit = _unit(features.unflatten(1, (self.parts, -1)))
        along = (unit * self.embed).sum(2, keepdim=True)
        return self.factor * (unit - self.alpha * along * self.embed).flatten(1) @ self.weight.T


class Pairwise(_Module):
    """The share of classes against which a class wins."""

    def __init__(self, head: PairwiseHead):
        super().__init__()
        self.base = module_of(head.base)
        mine, theirs = zip(*(head.factors(c) for c in range(head.num_classes)), strict=True)
        self.keep("mine", np.stack(mine))
        self.keep("theirs", np.stack(theirs))

    def forward(self, features: Tensor, logits: Tensor, layers: Layers) -> Tensor:
        """(n, C); n C² comparisons at a time."""
        scores = self.base(features, logits, layers)
        return (scores[:, :, None] * self.mine > scores[:, None] * self.theirs).float().mean(dim=2)


class Neighbours(_Module):
    """The vote of the k nearest training rows."""

    def __init__(self, head: NeighbourHead):
        super().__init__()
        self.k, self.temperature, self.num_classes = min(head.k, len(head.rows)), head.temperature, head.num_classes
        self.keep("rows", head.rows)
        self.keep("labels", head.labels, torch.int64)
        self.keep("votes", head.votes[head.labels])  # (N,)

    def forward(self, features: Tensor, logits: Tensor, layers: Layers) -> Tensor:
        """(n, C)."""
        near, rows = (_unit(features) @ self.rows.T).topk(self.k, dim=1)
        votes = ((near - 1) / self.temperature).exp() * self.votes[rows]
        return votes.new_zeros(len(votes), self.num_classes).scatter_add(1, self.labels[rows], votes)


def _unit(rows: Tensor) -> Tensor:
    """Rows of unit length; a row of zeros stays one."""
    return functional.normalize(rows, dim=-1, eps=1e-30)


_MODULES: dict[type, Callable[[Any], nn.Module]] = {
    JointHead: Joint,
    RescaledHead: Rescaled,
    MixedHead: Mixed,
    SummedHead: Summed,
    ChangedHead: Changed,
    GatedHead: Gated,
    NormalizedMeanHead: Distance,
    PrototypeHead: Distance,
    CausalNormHead: CausalNorm,
    PairwiseHead: Pairwise,
    NeighbourHead: Neighbours,
}
