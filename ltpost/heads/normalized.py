"""Nearest mean of normalised features: the head of the NCM variants that are not linear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ltpost.errors import DataError
from ltpost.heads.feature_head import FeatureHead
from ltpost.heads.protocol import Array, Spec


class NormalizedMeanHead(FeatureHead):
    """z_c = -‖q - μ_c‖², q = (x - m) / ‖x - m‖.

    The norm of the query makes it no linear function of x, so that there is no weight matrix to export.

    Args:
        means: (C, D) means of the normalised training features; not normalised again.
        centre: (D,) m, the mean of all training rows (``cl2n``) or 0 (``l2n``).
        info: what is known of how the head was made.
    """

    def __init__(self, means: Array, centre: Array, info: Mapping[str, Any] | None = None):
        if means.ndim != 2 or centre.shape != means.shape[1:]:
            raise DataError(
                f"means and centre must have shapes (C, D) and (D,), but have {means.shape} and {centre.shape}"
            )
        self.means, self.centre = (
            part.astype(np.result_type(part, np.float32), copy=False) for part in (means, centre)
        )
        self.info = dict(info or {})

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.means)

    @property
    def num_features(self) -> int:
        """D."""
        return len(self.centre)

    def logits(self, features: Array) -> Array:
        """(n, D) features to (n, C) float32: minus the squared distance to every mean."""
        query = normalized(np.asarray(features, dtype=np.float64) - self.centre)
        # ‖q - μ‖² = ‖q‖² - 2 q·μ + ‖μ‖²
        squares = np.square(query).sum(1)[:, None] + np.square(self.means).sum(1)
        scores: Array = (2 * query @ self.means.T - squares).astype(np.float32)
        return scores

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """See :class:`~ltpost.heads.protocol.Head`."""
        return {"kind": "normalized-mean"}, {"means": self.means, "centre": self.centre}

    @classmethod
    def from_state(cls, spec: Spec, tensors: Mapping[str, Array]) -> NormalizedMeanHead:
        """The head that :meth:`state` describes."""
        return cls(tensors["means"], tensors["centre"])


def normalized(rows: Array) -> Array:
    """Rows / their Euclidean norms; a row of zeros stays one."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)
