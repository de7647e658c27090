"""A head that lets every pair of classes vote: the 1-vs-1 adjuster of neural-collapse aware boundaries.

Source: "Multiplicative Logit Adjustment Approximates Neural-Collapse-Aware Decision Boundary Adjustment"
(Hasegawa & Sato, ICLR 2025, arXiv:2409.17582).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ltpost.errors import DataError
from ltpost.heads.protocol import Array, Head, HeadRows, Key, Reader, Spec
from ltpost.heads.saving import Saved

_BLOCK_ELEMENTS = 2**18  # of an (n, C) block of comparisons: it stays in the cache


class PairwiseHead(Saved):
    """Score of class c: the share of classes c' with z_c κ(c, c') > z_c' κ(c', c).

        θ(c, c') = ρ a_c' / (a_c + a_c'),   ρ = arccos(-1 / (C - 1)),   κ(c, c') = sin θ(c, c') + cos ρ sin θ(c', c)

    θ(c, c') is the angle between the weight of c and its boundary with c'; ρ is the angle between two weights under
    neural collapse. A rare class, whose a is small, gets the wider angle. As both angles sum to ρ, κ(c, c') is
    sin ρ cos θ(c', c), and the factor sin ρ makes no difference. Takes O(N C²) steps; a C x C matrix is never made.

    NOTE[DIFF]: with two classes ρ = π, every κ is 0 and the formula says nothing. ρ = π/2 is taken then, its value for
    many classes.

    Args:
        base: its logits are z.
        spread: (C,) a, all positive.

    Raises:
        DataError: another number of classes, or a value that is not positive.
    """

    def __init__(self, base: Head, spread: Array):
        spread = np.asarray(spread, dtype=np.float64)
        if spread.shape != (base.num_classes,) or not (spread > 0).all():
            raise DataError(f"a pairwise head needs (C,) = ({base.num_classes},) positive values of a")
        self.base, self.spread = base, spread
        self.rho = float(np.arccos(-1 / (base.num_classes - 1))) if base.num_classes > 2 else np.pi / 2
        self.info: dict[str, Any] = {}

    @property
    def num_classes(self) -> int:
        """C."""
        return self.base.num_classes

    def factors(self, c: int) -> tuple[Array, Array]:
        """κ(c, c') / sin ρ and κ(c', c) / sin ρ for all c', (C,) each."""
        angle = self.rho * self.spread / (self.spread[c] + self.spread)  # θ(c, c')
        return np.cos(self.rho - angle), np.cos(angle)

    def widest_angle(self) -> float:
        """The greatest θ, in radians; the formula is made for angles below π/2."""
        return self.rho * float(self.spread.max() / (self.spread.max() + self.spread.min()))

    def is_stored(self, rows: HeadRows) -> bool:
        """False: its scores are votes, not logits."""
        return False

    def reader(self, rows: HeadRows) -> Reader:
        """The logits of the base, and the votes that follow from them."""
        read = self.base.reader(rows)

        def vote(key: Key, out: Array | None = None) -> Array:
            return self.votes(read(key))

        return vote

    def votes(self, logits: Array) -> Array:
        """Logits (n, C) of the base to the share of votes, (n, C) float32."""
        scores = np.empty(logits.shape, dtype=np.float32)
        size = max(1, _BLOCK_ELEMENTS // self.num_classes)
        for c in range(self.num_classes):
            mine, theirs = (factor.astype(np.float32) for factor in self.factors(c))
            for start in range(0, len(logits), size):
                z = logits[start : start + size].astype(np.float32, copy=False)
                wins = z[:, c, None] * mine > z * theirs
                scores[start : start + size, c] = np.count_nonzero(wins, axis=1) / self.num_classes
        return scores

    def linear(self) -> None:
        """None: votes are not linear."""
        return

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """See :class:`~ltpost.heads.protocol.Head`."""
        spec, tensors = self.base.state()
        return {"kind": "pairwise", "base": spec}, {**tensors, "spread": self.spread}
