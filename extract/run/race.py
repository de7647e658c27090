"""Measures several readings of the same images, and stops those early that are clearly worse.

Images are decoded once for all readings. Readings that differ in the numbering of the classes only share one pass
through the network. The images come in blocks of growing size; after each one, readings that are clearly worse than the
best one (exact McNemar test) are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ltpost.errors import DataError, LtpostError
from ltpost.extract.data.draw import drawn
from ltpost.extract.data.source import Source, Unreadable
from ltpost.extract.networks.backbone import Backbone
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.extract.run.images import checked, loader_of
from ltpost.extract.run.loop import deaths_are_told
from ltpost.extract.run.reading import Reading
from ltpost.scores.paired import Difference, paired_difference

#: a reading is left out when it is worse than the best one at this level
_WORSE = 0.001
#: the first block has this share of the images, but at least so many images
_FIRST_SHARE, _FIRST_IMAGES = 1 / 16, 32


@dataclass
class Pass:
    """What the network gave for the images, with one set of weights and one transform.

    Args:
        predicted: (N,) class of the highest logit, -1 for images that it was not shown or that cannot be read.
        confidence: (N,) highest softmax probability.
        error: why the network cannot take such images, or "".
    """

    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    rows: int = 0
    error: str = ""


@dataclass(frozen=True)
class Measured:
    """Figures of one reading.

    Args:
        images: how many of the images it was measured on.
        top1: accuracy on them, NaN without images.
        confidence: mean of the highest probability, NaN without images.
        error: why it cannot be measured, or "".
    """

    images: int
    top1: float
    confidence: float
    error: str


@dataclass
class Cuts(Dataset[Any]):
    """Item i is the i-th batch of rows: its pixels by every transform, or an error for it, and its readable rows."""

    source: Source
    cuts: Sequence[Preprocess]
    starts: Sequence[int]
    batch_size: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._read(self.starts[index])
        except LtpostError as error:
            return error

    def _read(self, start: int) -> tuple[list[torch.Tensor | str], NDArray[np.int64]]:
        images = list(self.source.images.read(slice(start, start + self.batch_size)))
        readable = [row for row, image in enumerate(images) if not isinstance(image, Unreadable)]
        pixels: list[torch.Tensor | str] = []
        for cut in self.cuts:
            parts = [cut.cut(images[row]) for row in readable]
            sizes = sorted({f"{part.shape[0]} x {part.shape[1]}" for part in parts})
            if len(sizes) > 1:
                pixels.append(f"the images differ in size ({sizes[0]}, {sizes[-1]})")
            else:
                pixels.append(torch.from_numpy(np.stack(parts) if parts else np.empty(0, np.uint8)))
        return pixels, np.array(readable, np.int64) + start


@dataclass
class Race:
    """Readings of the same images.

    Args:
        source: the split.
        rows: N of its rows, in an order of which every beginning is spread over the classes.
        labels: class order to the labels (N,) of these rows.
        network_of: set of weights to the network and its own transform.
        num_classes: C.
        batch_size: images in a batch.
        workers: processes that decode images.
    """

    source: Source
    rows: NDArray[np.int64]
    labels: Mapping[str | None, NDArray[np.int64]]
    network_of: Callable[[str | None], tuple[Backbone, Preprocess]]
    num_classes: int
    batch_size: int = 64
    workers: int = 0
    passes: dict[tuple[str | None, Preprocess], Pass] = field(default_factory=dict)

    def run(self, readings: Sequence[Reading], title: str = "probe") -> None:
        """Measure readings; the first one on all images, the others until they are clearly worse than the best one."""
        total, running = len(self.rows), list(dict.fromkeys(readings))
        block = min(total, max(_FIRST_IMAGES, round(total * _FIRST_SHARE)))
        start = 0
        with tqdm(total=total * len(self._passes(running)), unit="img", desc=title, disable=None) as bar:
            while start < total:
                stop = min(start + block, total)
                self._measure(running, start, stop, bar)
                kept = self._kept(running, stop) if stop < total else running
                bar.total -= (len(self._passes(running)) - len(self._passes(kept))) * (total - stop)
                running, start, block = kept, stop, stop

    def key(self, reading: Reading) -> tuple[str | None, Preprocess]:
        """The set of weights and the transform of a reading."""
        return reading.weights, reading.preprocess(self.network_of(reading.weights)[1])

    def hits(self, reading: Reading) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which images are measured, and which of them are right, (N,) each."""
        measured = self.passes.get(self.key(reading))
        if measured is None or measured.error:
            nothing = np.zeros(len(self.rows), dtype=bool)
            return nothing, nothing
        return measured.predicted >= 0, measured.predicted == self.labels[reading.class_order]

    def measured(self, reading: Reading) -> Measured:
        """The figures of a reading."""
        outcome, (shown, right) = self.passes[self.key(reading)], self.hits(reading)
        if outcome.error or not shown.any():
            return Measured(0, np.nan, np.nan, outcome.error or "none of the images can be read")
        return Measured(int(shown.sum()), float(right[shown].mean()), float(outcome.confidence[shown].mean()), "")

    def difference(self, base: Reading, other: Reading) -> Difference | None:
        """How much better ``other`` is than ``base`` on the images that both have; all of a failed base are wrong."""
        (shown_base, right_base), (shown, right) = self.hits(base), self.hits(other)
        both = shown & shown_base if shown_base.any() else shown
        if not both.any():
            return None
        labels = self.source.labels[self.rows[both]]
        of_both = right_base[both], right[both], labels
        return paired_difference(*of_both, num_classes=self.num_classes, only="top1")["top1"]

    def is_ahead(self, reading: Reading, other: Reading) -> bool:
        """Whether a reading has more of the images right than another one, of those that both have."""
        difference = self.difference(other, reading)
        return difference is not None and difference.value > 0

    def cost(self, reading: Reading, start: Reading) -> tuple[bool, bool, int]:
        """What decides how long a reading takes beside another one: a pass of its own, other weights, its size."""
        weights, preprocess = self.key(reading)
        return self.key(reading) != self.key(start), weights != start.weights, preprocess.crop or 0

    # -- one block ---------------------------------------------------------------------------------------------------

    def _passes(self, readings: Sequence[Reading]) -> list[tuple[str | None, Preprocess]]:
        """Each pass that readings need, once."""
        return list(dict.fromkeys(self.key(reading) for reading in readings))

    def _kept(self, readings: Sequence[Reading], stop: int) -> list[Reading]:
        """The readings that are not clearly worse than the best one on the first rows; the first reading stays."""
        best = max(readings, key=lambda reading: int(self.hits(reading)[1][:stop].sum()))
        kept = []
        for number, reading in enumerate(readings):
            difference = self.difference(best, reading)
            worse = difference is None or (difference.value < 0 and difference.p < _WORSE)
            if number == 0 or not worse:
                kept.append(reading)
        return kept

    def _measure(self, readings: Sequence[Reading], start: int, stop: int, bar: Any) -> None:
        """Show images ``start…stop`` to the network in every pass that has not seen them."""
        passes = self._passes(readings)
        keys = [key for key in passes if self._pass(key).rows < stop and not self.passes[key].error]
        bar.update((len(passes) - len(keys)) * (stop - start))
        if not keys:
            return
        cuts = list(dict.fromkeys(_only_cut(preprocess) for _, preprocess in keys))
        order = start + np.argsort(self.rows[start:stop])  # files are read forwards
        starts = list(range(0, len(order), self.batch_size))
        batches = Cuts(drawn(self.source, self.rows[order]), cuts, starts, self.batch_size)
        device = self.network_of(keys[0][0])[0].device
        with deaths_are_told():
            for pixels, readable in checked(loader_of(batches, self.workers, device)):
                by_cut = dict(zip(cuts, pixels, strict=True))
                for key in keys:
                    self._show(key, by_cut[_only_cut(key[1])], order[readable])
                    bar.update(len(readable))
        for key in keys:
            self.passes[key].rows = stop

    def _pass(self, key: tuple[str | None, Preprocess]) -> Pass:
        if key not in self.passes:
            total = len(self.rows)
            self.passes[key] = Pass(np.full(total, -1), np.zeros(total, np.float32))
        return self.passes[key]

    def _show(self, key: tuple[str | None, Preprocess], pixels: torch.Tensor | str, rows: NDArray[np.int64]) -> None:
        """One batch through the network of a pass."""
        weights, preprocess = key
        outcome = self.passes[key]
        if isinstance(pixels, str):
            outcome.error = pixels
        if outcome.error or not len(rows):
            return
        backbone, _ = self.network_of(weights)
        try:
            _, logits = backbone(preprocess.normalise(pixels.to(backbone.device, non_blocking=True)))
        except DataError as error:
            outcome.error = str(error)
            return
        highest, predicted = logits.softmax(dim=1).nan_to_num().max(dim=1)
        outcome.predicted[rows] = predicted.cpu().numpy()
        outcome.confidence[rows] = highest.cpu().numpy()


def _only_cut(preprocess: Preprocess) -> Preprocess:
    """The part of a transform that workers do: transforms that share it share their uint8 pixels."""
    return Preprocess(preprocess.resize, preprocess.crop, preprocess.squash, preprocess.interpolation)
