"""Class means and the within-class scatter that all classes share, in one pass over the features.

    m_c = 1/n_c Σ_{i: y_i = c} x_i        S = Σ_i (x_i - m_{y_i}) (x_i - m_{y_i})ᵀ = Σ_i x_i x_iᵀ - Σ_c n_c m_c m_cᵀ

What this module does not do: estimate a covariance for each class; that would take C D² numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltpost.data.distributed import sum_array
from ltpost.heads import Array


@dataclass(frozen=True)
class ClassScatter:
    """What one pass over the rows of C classes tells.

    Attributes:
        counts: (C,) rows per class.
        means: (C, D) float64; 0 for a class without rows.
        within: (D, D) float64, the scatter of the rows around the means of their classes, summed over all rows.
    """

    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    within: NDArray[np.float64]

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(D, D), the scatter divided by the number of rows."""
        return self.within / max(1, int(self.counts.sum()))


def class_scatter(
    blocks: Iterator[tuple[slice, Array]],
    labels: NDArray[np.int64],
    num_classes: int,
    num_features: int,
    change: Callable[[Array], Array] | None = None,
) -> ClassScatter:
    """Class means and within-class scatter, of all processes where there are several.

    Args:
        blocks: ``(slice, rows (n, D))`` of all rows, checked to be finite.
        labels: (N,) of them.
        num_classes: C.
        num_features: D.
        change: applied to each block as float64 (n, D); default none.

    Memory: 2 D² numbers in float64 (64 MiB at D = 2,048), C D for the means, and two blocks.
    Work: N D² multiplications, half of a training epoch of a linear layer with C = D.
    """
    sums, moments = np.zeros((num_classes, num_features)), np.zeros((num_features, num_features))
    for part, block in blocks:
        rows = block.astype(np.float64)
        rows = rows if change is None else change(rows)
        order = np.argsort(labels[part], kind="stable")
        present, first = np.unique(labels[part][order], return_index=True)
        sums[present] += np.add.reduceat(rows[order], first, axis=0)
        moments += rows.T @ rows
    counts = sum_array(np.bincount(labels, minlength=num_classes).astype(np.int64))
    sums, moments = sum_array(sums), sum_array(moments)
    means = sums / np.maximum(counts, 1)[:, None]
    within = moments - (means * counts[:, None]).T @ means
    return ClassScatter(counts, means, (within + within.T) / 2)
