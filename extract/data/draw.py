"""Some rows of a split, drawn evenly over its classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.extract.data.source import Images, Source


def rows_over_classes(labels: NDArray[np.int64], count: int, seed: int = 0) -> NDArray[np.int64]:
    """At most ``count`` rows, of which every beginning is spread over the classes too.

    >>> labels = np.array([0, 0, 0, 0, 1, 1, 2])
    >>> [labels[rows_over_classes(labels, 3)].tolist().count(label) for label in range(3)]
    [1, 1, 1]
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(labels))
    by_class = rows[np.argsort(labels[rows], kind="stable")]
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.arange(len(labels)) - np.repeat(starts, counts)  # 0 for the first row of each class, 1 for the second
    return by_class[np.lexsort((rng.random(len(labels)), turn))][:count]


@dataclass
class DrawnImages:
    """Images of some rows of a split, in any order."""

    images: Images
    rows: NDArray[np.int64]

    @property
    def slow(self) -> bool:
        """See :class:`ltpost.extract.data.source.Images`."""
        return self.images.slow

    def read(self, samples: slice) -> Iterator[Any]:
        """See :class:`ltpost.extract.data.source.Images`."""
        for row in self.rows[samples].tolist():
            yield from self.images.read(slice(row, row + 1))

    def close(self) -> None:
        """See :class:`ltpost.extract.data.source.Images`."""
        self.images.close()

    def state(self) -> str:
        """See :class:`ltpost.extract.data.source.Images`."""
        return self.images.state()


def drawn(source: Source, rows: Sequence[int] | NDArray[np.int64]) -> Source:
    """These rows of a source, in this order."""
    chosen = np.asarray(rows, np.int64)
    paths = None if source.paths is None else [source.paths[row] for row in chosen]
    return replace(source, labels=source.labels[chosen], images=DrawnImages(source.images, chosen), paths=paths)
