"""The passes over N x C scores on a GPU: predictions, and the intervals of the exact sweep.

These are the formulas of ``predict`` and ``intervals``, in torch, for blocks of rows of any label. A test checks that
both give the same. The CPU keeps its numpy versions, which start without torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltpost.data.features import FeatureSet
from ltpost.data.tensors import as_tensor, find_device
from ltpost.heads import Array, Head
from ltpost.heads.blocks import score_blocks as host_blocks
from ltpost.scores.intervals import TINY

_BLOCK_ELEMENTS = 2**26  # of N x C scores at a time; the sweep holds about ten times that, in bytes times eight


def predict(head: Head, feature_set: FeatureSet, device: str) -> NDArray[np.int64]:
    """As :func:`ltpost.scores.predict.predict`, on ``device``."""
    blocks = [scores.argmax(dim=1) for _, scores in score_blocks(feature_set, head, find_device(device))]
    return torch.cat(blocks).cpu().numpy() if blocks else np.empty(0, dtype=np.int64)


def intervals(feature_set: FeatureSet, slope: Array, head: Head, device: str, *, scaled: bool) -> tuple[Array, Array]:
    """The interval of every row, (N,) each, for :func:`ltpost.scores.sweep.intervals`."""
    where = find_device(device)
    labels = torch.from_numpy(feature_set.labels).to(where)
    slopes = torch.from_numpy(np.asarray(slope, dtype=np.float64)).to(where)
    interval = scaled_interval if scaled else affine_interval
    ends = [
        torch.stack(interval(scores.double(), labels[part], slopes))
        for part, scores in score_blocks(feature_set, head, where)
    ]
    low, high = torch.cat(ends, dim=1).cpu().numpy() if ends else np.empty((2, 0))
    return low, high


def score_blocks(feature_set: FeatureSet, head: Head, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Blocks ``(slice, logits of head)`` on the device: a linear layer is multiplied there, others are read."""
    size = max(16, _BLOCK_ELEMENTS // feature_set.num_classes)
    layer = None if head.is_stored(feature_set) else head.linear()
    if layer is None:
        for part, scores in host_blocks(head, feature_set, size):
            yield part, as_tensor(scores, device)
        return
    weight = as_tensor(layer.weight, device)
    bias = torch.zeros(len(weight), device=device) if layer.bias is None else as_tensor(layer.bias, device)
    for part, features in feature_set.feature_blocks(size=size):
        yield part, torch.addmm(bias, as_tensor(features, device), weight.T)


def affine_interval(scores: Tensor, labels: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`ltpost.scores.intervals.affine_interval`.

    Args:
        scores: a, (n, C) float64.
        labels: (n,), of any class.
        slope: b, (C,) float64.
    """
    column = torch.arange(scores.shape[1], device=scores.device)
    own = scores.gather(1, labels[:, None])
    steeper = slope - slope[labels][:, None]
    first = column < labels[:, None]  # rivals that win a tie
    lost = ((steeper == 0) & ((scores > own) | ((scores == own) & first))).any(dim=1)

    crossing = (scores - own) / steeper.where(steeper != 0, 1.0)
    from_below = crossing.where(steeper > 0, -torch.inf)
    low = from_below.amax(dim=1)
    tied = ((from_below == low[:, None]) & first).any(dim=1)
    low = torch.nextafter(low, low.new_tensor(torch.inf)).where(tied, low)
    from_above = crossing.where(steeper < 0, torch.inf)
    high = from_above.amin(dim=1)
    tied = ((from_above == high[:, None]) & first).any(dim=1)
    high = torch.nextafter(high, high.new_tensor(-torch.inf)).where(tied, high)
    low = low.where(low > -torch.finfo(low.dtype).max, -torch.inf).where(~lost, torch.inf)
    high = high.where(high < torch.finfo(high.dtype).max, torch.inf).where(~lost, -torch.inf)
    return low, high


def scaled_interval(scores: Tensor, labels: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`ltpost.scores.intervals.scaled_interval`; arguments as for :func:`affine_interval`."""
    own = scores.gather(1, labels[:, None])[:, 0]
    best = scores.amax(dim=1)
    low, high = affine_interval(scores.clamp(min=TINY).log(), labels, slope)
    low, high = low.where(own > 0, torch.inf), high.where(own > 0, -torch.inf)
    first_zero = (scores == 0).int().argmax(dim=1) == labels
    always = (own == 0) & (best == 0) & first_zero
    low, high = low.where(~always, -torch.inf), high.where(~always, torch.inf)
    negative = torch.nonzero(best < 0)[:, 0]
    if len(negative):
        low[negative], high[negative] = affine_interval(-(-scores[negative]).log(), labels[negative], -slope)
    return low, high
