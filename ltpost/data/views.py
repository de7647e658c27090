"""Augmented views of rows: which two rows of another feature set, or of the same, show each row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError


class Viewed(Protocol):
    """What is asked of rows and of their views: a :class:`~ltpost.FeatureSet`."""

    name: str
    labels: NDArray[np.int64]
    sample: NDArray[np.int64] | None
    view: NDArray[np.int64] | None

    @property
    def split(self) -> str | None:
        """The name of the split."""

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What the file says of itself."""

    @property
    def samples(self) -> NDArray[np.int64]:
        """The sample that each row shows, (N,)."""

    @property
    def has_views(self) -> bool:
        """Whether there are several views of each row."""


def two_of_each(rows: Viewed, views: Viewed) -> NDArray[np.int64]:
    """The numbers of the first two views of every row, (N, 2).

    Args:
        rows: N rows.
        views: rows with ``sample`` and ``view``, of any order; may be ``rows`` itself.

    Raises:
        DataError: there are no views, fewer than two of some row, or views that are no augmented ones.
    """
    if not rows.has_views or views.sample is None or views.view is None:
        split = rows.split or "test"
        raise DataError(
            f"{rows.name}: has no views of its rows; write them beside it with ltpost extract --split {split} --views 2"
        )
    if augmentation(views) == "none":
        raise DataError(
            f"{views.name}: must hold augmented views, but each image is shown several times as it is; extract it with "
            "--augment standard"
        )
    order = np.lexsort((views.view, views.sample))
    samples = views.sample[order]
    first = np.searchsorted(samples, rows.samples, side="left")
    count = np.searchsorted(samples, rows.samples, side="right") - first
    for row in np.flatnonzero(count < 2)[:1]:
        raise DataError(
            f"{views.name}: must hold two views of every row of {rows.name}, but has {count[row]} of sample "
            f"{rows.samples[row]}; extract both from the same data"
        )
    index: NDArray[np.int64] = order[first[:, None] + np.arange(2)]
    if (views.labels[index] != rows.labels[:, None]).any():
        raise DataError(f"{views.name}: 'labels' differ from those of {rows.name}; extract both from the same data")
    return index


def augmentation(views: Viewed) -> str | None:
    """How images were augmented, as ``ltpost extract`` says it; None where nothing is said."""
    try:
        return str(json.loads(str(views.attrs.get("views", "{}")))["augment"])
    except (ValueError, KeyError, TypeError):
        return None
