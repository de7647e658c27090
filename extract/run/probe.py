"""Which reading of images and labels a network was trained with: the library twin of ``ltpost extract --probe``.

Settings are changed one at a time. What is better beyond noise is combined, and the search goes on from there, until
nothing is better. Nothing is written, and nothing is changed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ltpost.errors import DataError, LtpostError, UsageError
from ltpost.extract.checkpoints.container import read_container
from ltpost.extract.checkpoints.weight_sets import weight_sets
from ltpost.extract.data.class_order import CLASS_ORDERS, class_counts_of, class_numbers
from ltpost.extract.data.draw import drawn, rows_over_classes
from ltpost.extract.data.forms import open_source
from ltpost.extract.data.presets import check_preset, statistics_of
from ltpost.extract.data.source import Source, Unreadable, check_labels, check_split
from ltpost.extract.messages import tell
from ltpost.extract.networks.backbone import Backbone, choose_device
from ltpost.extract.networks.opening import HEAD_SCALE, Network, open_network
from ltpost.extract.pixels.conventions import Alternative, both, pixel_alternatives
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.extract.run.images import workers_for
from ltpost.extract.run.probe_report import Line, ProbeReport
from ltpost.extract.run.race import Race
from ltpost.extract.run.reading import Reading
from ltpost.extract.run.rows import left_as_it_was

#: a reading is better where the exact test says so at this level, divided by the number of readings that are tried
LEVEL = 0.05
#: images that are looked at for their size
_LOOKED_AT = 8


def probe(
    model: nn.Module | str | os.PathLike[str],
    data: str | os.PathLike[str] = "data",
    split: str = "val",
    images: int = 500,
    *,
    arch: str | None = None,
    head_key: str | None = None,
    expert: int | str | None = None,
    head_scale: float = HEAD_SCALE,
    dataset: str | None = None,
    list_file: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    class_counts: Sequence[int] | NDArray[np.int64] | str | os.PathLike[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str = "auto",
    amp: str = "off",
    batch_size: int = 64,
    workers: int | None = None,
    seed: int = 0,
    **reading: Any,
) -> ProbeReport:
    """Measure the joint accuracy under every plausible reading of images and labels.

    Args:
        model: as for :func:`ltpost.extract.extract_features`, like all arguments that are not explained here.
        data: see there.
        split: see there; val or train, as the reading is chosen on its labels.
        images: how many labelled images, drawn evenly over the classes.
        arch: see there.
        head_key: see there.
        expert: see there.
        head_scale: see there.
        dataset: see there.
        list_file: see there.
        root: see there.
        class_counts: see there.
        mean: see there.
        std: see there.
        device: see there.
        amp: see there.
        batch_size: see there.
        workers: see there.
        seed: of the draw.
        **reading: the other fields of :class:`~ltpost.extract.run.reading.Reading`: what the current reading is.

    Raises:
        UsageError: an argument cannot be used.
        DataError: a file does not fulfil a requirement, or no image can be read.
    """
    if images < 1:
        raise UsageError(f"probe= must be at least 1 image, but is {images}")
    check_split(split)
    statistics = {key: value and tuple(value) for key, value in statistics_of(dataset, mean, std).items()}
    current = Reading(**reading, **statistics)
    networks = _Networks(model, device, amp, arch=arch, head_key=head_key, expert=expert, head_scale=head_scale)
    with networks.left_as_they_were():
        backbone, base = networks(current.weights)
        source = open_source(data, split, list_file, root, None, dataset)
        num_classes = backbone.head.num_classes
        if dataset is not None:
            check_preset(dataset, num_classes)
        check_labels(source.name, source.labels, num_classes)
        rows = rows_over_classes(source.labels, images, seed)
        if not len(rows):
            raise DataError(f"{source.name}: has no images")
        counts = class_counts_of(source, class_counts, num_classes)
        orders = _class_orders(source, counts, num_classes, current.class_order)
        labels = {order: numbers[source.labels[rows]] for order, numbers in orders.items()}
        race = Race(source, rows, labels, networks, num_classes, batch_size, workers_for(workers, source))
        channels, side = _shape(drawn(source, rows[:_LOOKED_AT]))
        sets = networks.others(current.weights, num_classes)

        def alternatives(start: Reading) -> list[Alternative]:
            other_orders = [
                Alternative("class order", _ORDER_NAMES[order], {"class_order": order})
                for order in orders
                if order != start.class_order
            ]
            others = pixel_alternatives(start.preprocess(base), channels, side)
            others += [Alternative("weights", f"weights {key}", {"weights": key}) for key in sets]
            return [*other_orders, *others, *(both(one, order) for one in others for order in other_orders)]

        try:
            lines, best = _search(race, current, alternatives)
        finally:
            source.images.close()
    gain = None if best == current else race.difference(current, best)
    stored = networks.stored_accuracy()
    return ProbeReport(source.name, split, len(rows), num_classes, seed, tuple(lines), current, best, gain, stored)


_ORDER_NAMES = {
    None: "labels as they are",
    "string": "classes sorted as text",
    "natural": "classes sorted as numbers",
    "frequency": "classes sorted by frequency",
}


def _search(
    race: Race, current: Reading, alternatives: Callable[[Reading], list[Alternative]]
) -> tuple[list[Line], Reading]:
    """The lines of the table, and the best reading."""
    start, number = current, 1
    lines: list[Line] = []
    tried = {current}
    while True:
        options = [(a, reading) for a in alternatives(start) if (reading := start.changed(a.options)) not in tried]
        options.sort(key=lambda option: race.cost(option[1], start))
        readings = [reading for _, reading in options]
        tried.update(readings)
        race.run([start, *readings], f"probe, round {number}")
        if number == 1:
            lines.append(Line(number, "current", current, race.measured(current), None, better=False))
            if race.measured(current).images == 0 and not any(race.measured(reading).images for reading in readings):
                raise DataError(f"{race.source.name}: {race.measured(current).error}")
        level = LEVEL / max(len(options), 1)
        better: dict[str, tuple[Alternative, Reading]] = {}
        table: list[tuple[Alternative, Line]] = []
        for alternative, reading in options:
            difference = race.difference(start, reading)
            is_better = difference is not None and difference.value > 0 and difference.p < level
            line = Line(number, alternative.name, reading, race.measured(reading), difference, is_better)
            table.append((alternative, line))
            if is_better and race.is_ahead(reading, better.get(alternative.setting, (None, start))[1]):
                better[alternative.setting] = alternative, reading
        chosen = [reading for _, reading in better.values()]
        lines += [line for alternative, line in table if not alternative.beside or line.reading in chosen]
        if not better:
            return lines, start
        best = start
        for reading in chosen:
            best = reading if race.is_ahead(reading, best) else best
        if len(better) > 1:
            combined = start
            for alternative, _ in better.values():
                combined = combined.changed(alternative.options)
            race.run([start, best, combined], f"probe, round {number}, combined")
            tried.add(combined)
            name = " + ".join(alternative.name for alternative, _ in better.values())
            difference = race.difference(start, combined)
            ahead = race.is_ahead(combined, best)
            lines.append(Line(number, name, combined, race.measured(combined), difference, ahead))
            best = combined if ahead else best
        else:
            race.run([start, best])
        start, number = best, number + 1


def _class_orders(
    source: Source, counts: NDArray[np.int64] | None, num_classes: int, current: str | None
) -> dict[str | None, NDArray[np.int64]]:
    """Class order to the numbers of the classes in it, (C,); the current order first, no numbering twice."""
    names = source.class_names if source.class_names is not None and len(source.class_names) == num_classes else None
    others = CLASS_ORDERS if source.class_order is not None else (None, *CLASS_ORDERS)
    orders: dict[str | None, NDArray[np.int64]] = {}
    for order in (current, *others):
        if order == "frequency" and counts is None and order != current:
            continue
        numbers = class_numbers(order, names, counts, num_classes)
        if not any(np.array_equal(numbers, known) for known in orders.values()):
            orders[order] = numbers
    return orders


def _shape(source: Source) -> tuple[int, int | None]:
    """Channels of the images, and their side where they are all square and of one size."""
    whole = Preprocess()
    images = source.images.read(slice(0, len(source)))
    shapes = {whole.cut(image).shape for image in images if not isinstance(image, Unreadable)}
    sides = {side for height, width, _ in shapes for side in (height, width)}
    return min((shape[2] for shape in shapes), default=3), sides.pop() if len(sides) == 1 else None


class _Networks:
    """The network of every set of weights, opened when it is needed."""

    def __init__(self, model: nn.Module | str | os.PathLike[str], device: str, amp: str, **opening: Any):
        self.model, self.opening, self.device, self.amp = model, opening, device, amp
        self._open: dict[str | None, tuple[Network, Backbone]] = {}

    def __call__(self, weights: str | None) -> tuple[Backbone, Preprocess]:
        """The network with these weights, and its own transform."""
        if weights not in self._open:
            network = open_network(self.model, weights=weights, **self.opening)
            own = isinstance(self.model, nn.Module) and self.device == "auto"
            first = next(network.model.parameters(), None)
            where = first.device if own and first is not None else choose_device("cpu" if own else self.device)
            backbone = Backbone(network.model, network.head_key, device=where, amp=self.amp, gated=network.gated)
            self._open[weights] = network, backbone
        network, backbone = self._open[weights]
        return backbone, network.preprocess

    def left_as_they_were(self) -> contextlib.AbstractContextManager[Any]:
        """A module of the user gets its device and its training flags back at the end."""
        return left_as_it_was(self.model) if isinstance(self.model, nn.Module) else contextlib.nullcontext()

    def others(self, current: str | None, num_classes: int) -> list[str]:
        """The keys of other sets of weights in a checkpoint file that make a network with as many classes."""
        if isinstance(self.model, nn.Module) or not Path(self.model).is_file():
            return []
        sets, usable = weight_sets(read_container(Path(self.model))), []
        for key in sets:
            if key == (current or sets[0]):
                continue
            try:
                if self(key)[0].head.num_classes == num_classes:
                    usable.append(key)
            except LtpostError as error:
                tell(f"weights '{key}' cannot be used: {error}")
        return usable

    def stored_accuracy(self) -> tuple[str, float] | None:
        """The accuracy that came with the first network, and its name."""
        attrs = next(iter(self._open.values()))[0].attrs
        return (attrs["stored_accuracy_key"], attrs["stored_accuracy"]) if "stored_accuracy" in attrs else None
