"""What the loop runs: batches of rows, and what is known of them before the first one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ltpost.extract.data.batches import Arguments


@dataclass(frozen=True)
class Batch:
    """Consecutive rows from ``start`` on.

    Args:
        start: the first row.
        inputs: as the feed's own ``arguments`` takes them.
        bad: rows of the batch that cannot be read, and why.
        labels: (n,), where they come with the rows; None where they were known before.
    """

    start: int
    inputs: Any
    bad: Mapping[int, str] = field(default_factory=dict)
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Known:
    """What is known of rows before the first batch; fields as of :class:`~ltpost.extract.run.partial.Spec`."""

    labels: NDArray[np.int64]
    class_counts: NDArray[np.int64] | None = None
    class_names: list[str] | None = None
    paths: Sequence[str] | None = None
    columns: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


class Feed(Protocol):
    """Rows for the loop."""

    #: where they come from, for messages
    name: str
    batch_size: int
    #: of the progress bar
    unit: str
    #: consecutive inputs whose results are averaged to one row
    variants: int
    #: whether the attributes prove that rows are those of an earlier run; else some are computed again and compared
    proven: bool

    def __len__(self) -> int:
        """N."""

    def known(self, num_classes: int) -> Known:
        """What is known before the first batch."""

    def batches(self, starts: Sequence[int], stop: int, device: torch.device) -> Iterator[Batch]:
        """The batches that begin at ``starts``, each up to ``stop``, in this order."""

    def example(self, device: torch.device) -> Arguments:
        """A few rows as the model takes them, on the device."""

    def arguments(self, inputs: Any, device: torch.device) -> Arguments:
        """What the model is called with, on the device."""

    def close(self) -> None:
        """Close what reading has opened in this process."""

    def __str__(self) -> str:
        """How inputs are prepared, in half a sentence."""
