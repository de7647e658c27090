"""What a fitted head minimises: cross entropy of adjusted logits, with its gradient written out.

    L = Σ_i w_i [(1 - ε_y) (log Σ_k exp z'_ik - z'_iy) + ε_y mean_c (log Σ_k exp z'_ik - z'_ic)]
    z'_ic = s_c z_ic + t_c - m_c [c = y]

with class weights in w, and per class an offset t, a scale s, a margin m and a smoothing ε. Most long-tail losses are
this with one of them. ∂L/∂z_ic = w_i s_c (p_ic - (1 - ε_y) [c = y] - ε_y / C), p = softmax(z').

What this module does not do: regularise, or draw rows (``sampling``). It imports torch when a loss is first computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ltpost.errors import UsageError
from ltpost.heads import Array

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class BoundLoss(Protocol):
    """A loss whose constants are on a device."""

    def __call__(self, scores: Tensor, labels: Tensor, weights: Tensor | float) -> Tensor:
        """Σ_i w_i loss_i, 0-d float64; **the scores (n, C) are replaced by the gradient** with respect to them."""

    def curvature(self, scores: Tensor) -> Tensor:
        """About ∂²loss_i/∂z_ic², (n, C), for the preconditioner."""


class WholeLoss:
    """A bound loss that is no sum over rows: it looks at all rows (of a batch) before it gives value and gradient.

    ``gather`` is called with every block, then ``settle`` once, then the loss itself with every block again.
    """

    def gather(self, scores: Tensor, labels: Tensor, weights: Tensor | float) -> None:
        """Take note of a block, whose scores it leaves as they are."""
        raise NotImplementedError

    def settle(self) -> None:
        """All blocks were seen, in every process."""
        raise NotImplementedError

    def __call__(self, scores: Tensor, labels: Tensor, weights: Tensor | float) -> Tensor:
        """As of a :class:`BoundLoss`; the values of all blocks add up to that of all rows."""
        raise NotImplementedError

    def curvature(self, scores: Tensor) -> Tensor:
        """As of a :class:`BoundLoss`."""
        raise NotImplementedError


class HeadLoss(Protocol):
    """A loss of logits (n, C) and labels (n,)."""

    @property
    def weight(self) -> Array | None:
        """(C,) what a row of each class counts, or None for 1."""

    def on(self, device: torch.device) -> BoundLoss:
        """The loss with its constants on a device."""


@dataclass(frozen=True)
class Loss:
    """Cross entropy of adjusted logits; plain cross entropy where nothing is given.

    Args:
        weight: (C,) what a row of each class counts; not normalised.
        offset: (C,) t, added to the logits.
        scale: (C,) s, multiplies the logits.
        margin: (C,) m, subtracted from the logit of the row's own class.
        smoothing: (C,) ε in 0..1, the share of the target that a row of each class spreads over all classes.

    Raises:
        UsageError: values of another shape, or not finite.
    """

    weight: Array | None = None
    offset: Array | None = None
    scale: Array | None = None
    margin: Array | None = None
    smoothing: Array | None = None

    def __post_init__(self) -> None:
        shapes = {np.shape(value) for value in vars(self).values() if value is not None}
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            raise UsageError(f"the parts of a loss must all have shape (C,), but have {sorted(shapes)}")
        for name, value in vars(self).items():
            if value is not None and not np.isfinite(value).all():
                odd = int(np.argmin(np.isfinite(value)))
                raise UsageError(f"the {name} of a loss must be finite, but that of class {odd} is {value[odd]}")

    def on(self, device: torch.device) -> BoundLoss:
        """The loss with its constants on a device."""
        import torch

        def moved(values: Array | None) -> Tensor | None:
            return None if values is None else torch.as_tensor(values, dtype=torch.float32, device=device)

        return _Bound(*(moved(values) for values in (self.offset, self.scale, self.margin, self.smoothing)))


@dataclass(frozen=True)
class _Bound:
    offset: Any
    scale: Any
    margin: Any
    smoothing: Any

    def _adjust_(self, scores: Tensor) -> Tensor:
        if self.scale is not None:
            scores.mul_(self.scale)
        if self.offset is not None:
            scores.add_(self.offset)
        return scores

    def __call__(self, scores: Tensor, labels: Tensor, weights: Tensor | float) -> Tensor:
        self._adjust_(scores)
        if self.margin is not None:
            scores.scatter_add_(1, labels[:, None], -self.margin[labels][:, None])
        smoothing = None if self.smoothing is None else self.smoothing[labels]
        total = cross_entropy_(scores, labels, weights, smoothing)
        if self.scale is not None:
            scores.mul_(self.scale)
        return total

    def curvature(self, scores: Tensor) -> Tensor:
        p = self._adjust_(scores).softmax(1)
        p.addcmul_(p, p, value=-1)
        return p if self.scale is None else p.mul_(self.scale).mul_(self.scale)


def cross_entropy_(logits: Tensor, labels: Tensor, weights: Tensor | float, smoothing: Tensor | None = None) -> Tensor:
    """Weighted cross entropy of a block; **the logits are replaced by the gradient** with respect to them.

    Args:
        logits: (n, C), overwritten.
        labels: (n,) int64.
        weights: (n,), or one number for all rows.
        smoothing: (n,) ε of each row, or None for 0.

    Returns:
        Σ_i w_i loss_i as a 0-d float64 tensor; nothing waits for the device.
    """
    import torch

    torch.log_softmax(logits, dim=1, out=logits)
    column = labels[:, None]
    log_p = logits.gather(1, column)[:, 0].double()
    if smoothing is not None:
        log_p = log_p + smoothing.double() * (logits.mean(1).double() - log_p)
    logits.exp_()
    if smoothing is None:
        logits.scatter_add_(1, column, logits.new_full(column.shape, -1.0))
    else:
        logits.sub_((smoothing / logits.shape[1])[:, None])
        logits.scatter_add_(1, column, (smoothing - 1)[:, None])
    if isinstance(weights, torch.Tensor):
        logits.mul_(weights[:, None])
    else:
        logits.mul_(weights)
    return -(log_p * weights).sum()
