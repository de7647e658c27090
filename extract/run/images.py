"""Images on disk as rows for the loop: workers decode and cut, the device scales and normalises."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ltpost.errors import DataError, LtpostError
from ltpost.extract.data.batches import Arguments
from ltpost.extract.data.class_order import class_counts_of, in_class_order
from ltpost.extract.data.presets import check_preset, note_on_statistics
from ltpost.extract.data.source import Source, Unreadable
from ltpost.extract.messages import tell
from ltpost.extract.pixels.views import Views
from ltpost.extract.run.feed import Batch, Known
from ltpost.extract.run.partial import IMAGES_STATE

_MOST_TRIED = 64  # rows, to find one whose image can be read


@dataclass
class ImageFeed:
    """The images of a split in their views, see :class:`~ltpost.extract.run.feed.Feed`.

    Args:
        source: the images.
        views: how each is shown.
        batch_size: rows at a time.
        workers: processes that decode; None chooses.
        dataset: one of the field, whose number of classes is checked.
        class_order: how classes are numbered; None leaves the labels as they are.
        class_counts: (C,) in the numbering of the data, or a file of them; None counts the train split.
        statistics_given: whether mean and std are the user's, so that nothing need be said of them.
    """

    source: Source
    views: Views
    batch_size: int
    workers: int | None = None
    dataset: str | None = None
    class_order: str | None = None
    class_counts: Any = None
    statistics_given: bool = False
    unit: str = "img"
    proven: bool = True

    @property
    def name(self) -> str:
        """Of the split."""
        return self.source.name

    @property
    def variants(self) -> int:
        """Inputs per row."""
        return self.views.variants

    def __len__(self) -> int:
        return len(self.source) * self.views.count

    def __str__(self) -> str:
        return str(self.views.preprocess)

    def known(self, num_classes: int) -> Known:
        """Everything but the pixels.

        Raises:
            DataError: labels or class names are not those of ``num_classes`` classes.
        """
        source, views = self.source, self.views
        if self.dataset is not None:
            check_preset(self.dataset, num_classes)
        note = note_on_statistics(self.dataset, views.preprocess, num_classes)
        if note is not None and not self.statistics_given:
            tell(note)
        names = source.class_names
        if names is not None and len(names) != num_classes:
            raise DataError(
                f"{source.name}: has {len(names)} class names, but the classifier has {num_classes} classes; without a "
                "train folder that has all classes the labels would be shifted"
            )
        counts = class_counts_of(source, self.class_counts, num_classes)
        source, counts = in_class_order(source, self.class_order, counts, num_classes)
        return Known(
            np.repeat(source.labels, views.count),
            class_counts=counts,
            class_names=source.class_names,
            paths=None if source.paths is None else [path for path in source.paths for _ in range(views.count)],
            columns=views.columns(len(source)),
            attrs={
                "transform": json.dumps(views.preprocess.to_json()),
                "dataset": json.dumps({"name": source.name, "sha256": source.fingerprint, "rows": len(self)}),
                **views.attrs(),
                **({} if source.class_order is None else {"class_order": source.class_order}),
                IMAGES_STATE: source.images.state(),
            },
        )

    def batches(self, starts: Sequence[int], stop: int, device: torch.device) -> Iterator[Batch]:
        """See :class:`~ltpost.extract.run.feed.Feed`."""
        batches = Batches(self.source, self.views, self.batch_size, list(starts), stop)
        for batch in checked(loader_of(batches, workers_for(self.workers, self.source), device)):
            yield Batch(*batch)

    def example(self, device: torch.device) -> Arguments:
        """An image that can be read, and its mirror image; black ones where none can."""
        side = self.views.preprocess.crop or 32
        pixels = torch.zeros(1, side, side, 3, dtype=torch.uint8)
        try:
            for row in range(min(len(self), _MOST_TRIED)):
                _, found, bad = Batches(self.source, self.views, 1, [row], len(self)).read(row)
                if not bad:
                    pixels = found[:1]
                    break
        finally:
            self.close()
        return self.arguments(torch.cat([pixels, pixels.flip(2)]), device)

    def arguments(self, inputs: Tensor, device: torch.device) -> Arguments:
        """Pixels uint8 (n, h, w, channels) to what the model takes."""
        return Arguments.of(self.views.preprocess.normalise(inputs.to(device, non_blocking=True)))

    def close(self) -> None:
        """Close the files of the source."""
        self.source.images.close()


@dataclass
class Batches(Dataset[Any]):
    """Item i is the batch from row ``starts[i]``: that row, pixels uint8 (n, h, w, channels), and unreadable rows."""

    source: Source
    views: Views
    batch_size: int
    starts: list[int]
    stop: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[int, Tensor, dict[int, str]] | LtpostError:
        try:
            return self.read(self.starts[index])
        except LtpostError as error:  # a worker's exceptions lose their type on the way, its results do not
            return error

    def read(self, start: int) -> tuple[int, Tensor, dict[int, str]]:
        """The batch that begins at a row."""
        views = self.views
        rows = range(start, min(start + self.batch_size, self.stop))
        first, last = rows[0] // views.count, rows[-1] // views.count
        pixels: list[NDArray[np.uint8] | None] = []
        bad: dict[int, str] = {}
        for sample, image in enumerate(self.source.images.read(slice(first, last + 1)), first):
            reason = image.reason if isinstance(image, Unreadable) else views.refusal(image)
            for row in range(max(rows[0], sample * views.count), min(rows[-1] + 1, (sample + 1) * views.count)):
                if reason is not None:
                    bad[row - start] = reason
                    pixels += [None] * views.variants
                else:
                    pixels += views.cut(image, sample, row - sample * views.count)
        return start, torch.from_numpy(self._stacked(pixels)), bad

    def _stacked(self, pixels: list[NDArray[np.uint8] | None]) -> NDArray[np.uint8]:
        """All images as one array. Images that could not be read are black."""
        shapes = {image.shape for image in pixels if image is not None}
        if len(shapes) > 1:
            sizes = sorted(f"{height} x {width}" for height, width, *_ in shapes)
            raise DataError(f"{self.source.name}: images differ in size ({sizes[0]}, {sizes[-1]}); give img_size=")
        side = self.views.preprocess.crop or 32
        batch = np.zeros((len(pixels), *(shapes.pop() if shapes else (side, side, 3))), np.uint8)
        for image, place in zip(pixels, batch, strict=True):
            if image is not None:
                place[:] = image
        return batch


def loader_of(batches: Any, workers: int, device: torch.device) -> DataLoader[Any]:
    """Read batches (:class:`Batches`, or another data set of them) in order, in ``workers`` processes."""
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=min(workers, len(batches)),
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_interrupts_to_the_parent,
    )


def _leave_interrupts_to_the_parent(_: int) -> None:
    """Ignore Ctrl-C in a worker. It stops with its parent, and prints no traceback of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _not_of_a_parent_that_left


def _not_of_a_parent_that_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print no traceback for a worker that hands over a batch after the parent has stopped."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, trace)


def checked(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches. An error that a worker returned is raised here."""
    for batch in loader:
        if isinstance(batch, LtpostError):
            raise batch
        yield batch


def workers_for(workers: int | None, source: Source) -> int:
    """The number of processes that decode images. By default one per core, at most 16; none where reading is fast."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores) if source.images.slow else 0
