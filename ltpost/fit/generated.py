"""Generated features for rare classes: Gaussian draws whose covariance is borrowed from near classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.errors import DataError
from ltpost.heads import Array
from ltpost.heads.changed import change

RIDGE = 1e-4  # added to the diagonal of every covariance


class Generator:
    """Draws rows of N((x + Σ_k m_k) / (K + 1), mean_k S_k + α 11ᵀ + 10⁻⁴ I) around real rows x of a class.

    m_k and S_k are mean and covariance of the K classes nearest to x among those with two rows or more, so that classes
    of one row need no covariance of their own. No D x D matrix is made: with g standard normal, Σ_i g_i (x_i - m) /
    √(n - 1) has exactly the covariance S of the n rows x_i.

    Args:
        train: training features and labels.
        means: (C, D) of them, after the power.
        counts: (C,) rows per class.
        power: to which features are taken, see :class:`~ltpost.heads.ChangedHead`.
        neighbours: K.
        alpha: α.
        seed: of all draws.

    Raises:
        DataError: no class has two rows.
    """

    def __init__(
        self,
        train: FeatureSet,
        means: NDArray[np.float64],
        counts: NDArray[np.int64],
        *,
        power: float,
        neighbours: int,
        alpha: float,
        seed: int,
    ):
        self._train, self._power, self._alpha = train, power, alpha
        self._lenders = np.flatnonzero(counts >= 2)
        if len(self._lenders) == 0:
            raise DataError(f"{train.name}: needs two rows of at least one class for a covariance, but has none")
        self._means, self._count = means.astype(np.float32), min(neighbours, len(self._lenders))
        order = np.argsort(train.labels, kind="stable")
        self._rows = np.split(order, np.cumsum(counts)[:-1])
        self._random = np.random.default_rng(seed)

    def _read(self, rows: NDArray[np.int64]) -> Array:
        return change(self._train.read_features(rows).astype(np.float32), self._power)

    def draw(self, label: int, number: int) -> Array:
        """(number, D) float32 rows of a class."""
        size = self._means.shape[1]
        chosen = self._random.integers(len(self._rows[label]), size=number)
        unique, inverse = np.unique(chosen, return_inverse=True)
        real = self._read(self._rows[label][unique])
        candidates = self._means[self._lenders]
        distances = np.square(candidates).sum(1) - 2 * real @ candidates.T
        nearest = self._lenders[np.argsort(distances, axis=1, kind="stable")[:, : self._count]][inverse]
        centre = (real[inverse] + self._means[nearest].sum(1)) / (self._count + 1)
        noise = np.float32(RIDGE**0.5) * self._random.standard_normal((number, size), np.float32)
        noise += np.float32(self._alpha**0.5) * self._random.standard_normal((number, 1), np.float32)
        share = np.float32(1 / self._count) ** np.float32(0.5)
        for lender in np.unique(nearest):
            rows = self._rows[lender]
            centred = self._read(rows) - self._means[lender]
            for column in range(self._count):
                drawn = np.flatnonzero(nearest[:, column] == lender)
                normal = self._random.standard_normal((len(drawn), len(rows)), np.float32)
                noise[drawn] += share / np.float32((len(rows) - 1) ** 0.5) * (normal @ centred)
        result: Array = centre + noise
        return result
