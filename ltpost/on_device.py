"""The passes over N x C scores on a GPU: predictions, and the intervals of the exact sweep.

The same formulas as ``evaluation.predict`` and ``intervals.affine_interval``, for blocks of rows of any label, in
torch; a test holds them equal. The CPU keeps its numpy versions, which start without torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltpost.features import FeatureSet
from ltpost.head import Array, Head, LinearHead
from ltpost.intervals import TINY
from ltpost.tensors import as_tensor, find_device

_BLOCK_ELEMENTS = 2**26  # of N x C scores at a time; the sweep holds about ten times that, in bytes times eight


def predict(head: Head, feature_set: FeatureSet, device: str) -> NDArray[np.int64]:
    """As :func:`ltpost.evaluation.predict`, on ``device``."""
    found = [scores.argmax(dim=1) for _, scores in score_blocks(feature_set, head, find_device(device))]
    return torch.cat(found).cpu().numpy() if found else np.empty(0, dtype=np.int64)


def intervals(
    feature_set: FeatureSet, slope: Array, head: Head | None, device: str, *, scaled: bool
) -> tuple[Array, Array]:
    """The interval of every row, (N,) each, for :func:`ltpost.intervals.intervals`."""
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


def score_blocks(feature_set: FeatureSet, head: Head | None, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Blocks ``(slice, logits of head)`` on the device; stored logits are used as ``FeatureSet.score_blocks`` does."""
    head = feature_set.joint if head is None else head
    size = max(16, _BLOCK_ELEMENTS // feature_set.num_classes)
    if feature_set.answers_for(head) or not isinstance(head, LinearHead):
        for part, scores in feature_set.score_blocks(head, size=size):
            yield part, as_tensor(scores, device)
        return
    weight = as_tensor(head.weight, device)
    bias = torch.zeros(len(weight), device=device) if head.bias is None else as_tensor(head.bias, device)
    for part, features in feature_set.feature_blocks(size=size):
        yield part, torch.addmm(bias, as_tensor(features, device), weight.T)


def affine_interval(scores: Tensor, labels: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`ltpost.intervals.affine_interval`.

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
    """See :func:`ltpost.intervals.scaled_interval`; arguments as for :func:`affine_interval`."""
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
