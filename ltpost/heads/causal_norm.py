"""The classifier CausalNorm, with several parts that compare by cosine, and what is taken away from it.

Source: Tang, Huang, Zhang, "Long-Tailed Classification by Keeping the Good and Removing the Bad Momentum Causal
Effect", NeurIPS 2020, arXiv:2009.12991, equations 8 and 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ltpost.errors import DataError
from ltpost.heads.feature_head import FeatureHead
from ltpost.heads.linear import check_columns
from ltpost.heads.normalized import normalized
from ltpost.heads.protocol import Array, Spec

PARTS, SCALE, GAMMA = 2, 16.0, 1 / 32


class CausalNormHead(FeatureHead):
    """z_c = τ/K Σ_k (x̂_k - α cos(x_k, e_k) ê_k) · w_ck / (‖w_ck‖ + γ).

    The D columns are K parts of D / K; x̂ and ê are of unit length within their part. α = 0 is the classifier as it was
    trained; α > 0 takes away the direction in which the features drifted during training.

    Args:
        weight: (C, D) w.
        embed: (D,) e, the moving mean of the features during training.
        alpha: α.
        parts: K.
        scale: τ.
        gamma: γ.

    Raises:
        DataError: shapes do not fit.
    """

    def __init__(
        self,
        weight: Array,
        embed: Array,
        alpha: float = 0.0,
        *,
        parts: int = PARTS,
        scale: float = SCALE,
        gamma: float = GAMMA,
    ):
        if weight.ndim != 2 or embed.shape != weight.shape[1:]:
            raise DataError(
                f"a CausalNorm head needs 'weight' (C, D) and 'embed' (D,), but they have {weight.shape} and "
                f"{embed.shape}"
            )
        if parts < 1 or weight.shape[1] % parts:
            raise DataError(f"the {weight.shape[1]} columns of a CausalNorm head do not divide into {parts} parts")
        self.weight, self.embed = np.asarray(weight, dtype=np.float32), np.asarray(embed, dtype=np.float32)
        self.alpha, self.parts, self.scale, self.gamma = float(alpha), int(parts), float(scale), float(gamma)
        self.info: dict[str, Any] = {}
        pieces = np.split(self.weight.astype(np.float64), self.parts, axis=1)
        unit = [piece / (np.linalg.norm(piece, axis=1, keepdims=True) + self.gamma) for piece in pieces]
        self._unit_weight = np.concatenate(unit, axis=1).astype(np.float32)
        self._unit_embed = [normalized(piece[None])[0] for piece in np.split(self.embed.astype(np.float64), self.parts)]

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.weight)

    @property
    def num_features(self) -> int:
        """D."""
        return int(self.weight.shape[1])

    def at(self, alpha: float) -> CausalNormHead:
        """The same head with another α."""
        return CausalNormHead(self.weight, self.embed, alpha, parts=self.parts, scale=self.scale, gamma=self.gamma)

    def logits(self, features: Array) -> Array:
        """(n, D) features to (n, C) float32 logits."""
        check_columns(features, self.num_features)
        changed = []
        for piece, embed in zip(
            np.split(np.asarray(features, dtype=np.float64), self.parts, axis=1), self._unit_embed, strict=True
        ):
            unit = normalized(piece)
            changed.append(unit - self.alpha * (unit @ embed)[:, None] * embed)
        query = np.concatenate(changed, axis=1).astype(np.float32)
        scores: Array = np.float32(self.scale / self.parts) * (query @ self._unit_weight.T)
        return scores

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """See :class:`~ltpost.heads.protocol.Head`."""
        spec = {
            "kind": "causal-norm",
            "alpha": self.alpha,
            "parts": self.parts,
            "scale": self.scale,
            "gamma": self.gamma,
        }
        return spec, {"weight": self.weight, "embed": self.embed}

    @classmethod
    def from_state(cls, spec: Spec, tensors: Mapping[str, Array]) -> CausalNormHead:
        """The head that :meth:`state` describes."""
        settings = {name: spec[name] for name in ("parts", "scale", "gamma")}
        return cls(tensors["weight"], tensors["embed"], spec["alpha"], **settings)
