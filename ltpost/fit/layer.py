"""The layer that a refit fits: where it starts, and what it may become. This module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ltpost.errors import DataError, UsageError
from ltpost.heads import LinearHead


@dataclass(frozen=True)
class Layer:
    """A linear layer to fit.

    Args:
        start: convex: the penalty is strength/2 ‖W - W_start‖², so that a strong one leaves the weights as they are;
            sgd: trained from here. Default 0, and random.
        pull: convex: whether the penalty pulls to the start; else it is strength/2 ‖W‖², and convex has no start.
        cosine: scores are cos(x, w_c), without a bias. sgd trains the angles alone. convex frees the lengths of the
            rows: with x at unit length the scores are w_c x, which is convex, and the penalty bounds them.
        max_norm: greatest ‖w_c‖, or None for any.
        factor: sgd: trains a factor per class on top, and W and b at this part of the learning rate; or None. A factor
            adds nothing to what W and b can be, so convex leaves it out.
    """

    start: LinearHead | None = None
    pull: bool = True
    cosine: bool = False
    max_norm: float | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        if self.max_norm is not None and not self.max_norm > 0:
            raise UsageError(f"the greatest norm of a weight must be positive, but is {self.max_norm}")

    def check(self, name: str, num_classes: int, num_features: int) -> None:
        """Raise DataError unless the start fits the training features."""
        if self.start is not None and self.start.shape != (num_classes, num_features):
            raise DataError(
                f"{name}: the classifier to start from must have shape (C, D) = ({num_classes}, {num_features}) like "
                f"the training features, but has {self.start.shape}"
            )
