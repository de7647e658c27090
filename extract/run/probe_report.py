"""What a probe measured: a table, the best reading, and the options that choose it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ltpost.extract.run.race import Measured
from ltpost.extract.run.reading import Reading, command_options
from ltpost.scores.paired import Difference
from ltpost.tables import percent, text_table


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Args:
        round: 1 for changes of the current reading, 2 for changes of the best one of round 1, and so on.
        name: what is changed.
        reading: the whole reading.
        measured: its figures.
        difference: how much better it is than the reading that its round starts from; None for that itself, or where
            it could not be measured.
        better: whether it is better beyond noise.
    """

    round: int
    name: str
    reading: Reading
    measured: Measured
    difference: Difference | None
    better: bool


@dataclass(frozen=True)
class ProbeReport:
    """The result of a probe.

    Args:
        data: the split's file or folder.
        split: its name.
        images: how many images were drawn.
        num_classes: C.
        seed: of the draw.
        lines: of the table, cheapest first in every round.
        current: the reading that was asked for.
        best: the best one; the current one where none is better beyond noise.
        best_against_current: how much better it is, or None where it is the current one.
        stored_accuracy: the accuracy that the checkpoint holds, and its key, or None.
    """

    data: str
    split: str
    images: int
    num_classes: int
    seed: int
    lines: tuple[Line, ...]
    current: Reading
    best: Reading
    best_against_current: Difference | None
    stored_accuracy: tuple[str, float] | None

    @property
    def options(self) -> dict[str, Any]:
        """The options of ``extract_features`` that make the current reading the best one; None leaves one out."""
        return self.best.changes(self.current)

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints: fractions in 0..1, null for what could not be measured."""
        stored = self.stored_accuracy
        return {
            "split": self.split,
            "images": self.images,
            "classes": self.num_classes,
            "seed": self.seed,
            "stored_accuracy": None if stored is None else {"key": stored[0], "value": stored[1]},
            "readings": [self._line_as_dict(line) for line in self.lines],
            "best": {
                "options": self.options,
                "command_options": command_options(self.options),
                "difference": _difference_as_dict(self.best_against_current),
            },
        }

    def _line_as_dict(self, line: Line) -> dict[str, Any]:
        measured = line.measured
        return {
            "round": line.round,
            "name": line.name,
            "options": line.reading.changes(self.current),
            "images": measured.images,
            "top1": None if math.isnan(measured.top1) else measured.top1,
            "confidence": None if math.isnan(measured.confidence) else measured.confidence,
            "difference": _difference_as_dict(line.difference),
            "better": line.better,
            "best": line.reading == self.best,
            "error": measured.error or None,
        }

    def __str__(self) -> str:
        parts = [f"probe of {self.data}, split {self.split}: {self.images:,} images, seed {self.seed}"]
        if self.stored_accuracy is not None:
            key, value = self.stored_accuracy
            parts[0] += f"\nthe checkpoint holds {key} {percent(value)} %"
        parts += [self._table(), self._verdict(), _METHOD]
        if self.split == "test":
            parts.append("note: this chooses by labels of test; probe val or train where there is such a split")
        return "\n\n".join(parts)

    def _table(self) -> str:
        rows = []
        for line in self.lines:
            measured, mark = line.measured, "*" if line.reading == self.best else "+" if line.better else ""
            name = line.name if line.round == 1 else f"{line.round}: {line.name}"
            figures = [f"{measured.images:,}", percent(measured.top1), percent(measured.confidence)]
            rows.append([mark, name, *figures, *_difference_cells(line.difference), measured.error])
        headings = ["", "reading", "images", "Top-1", "confidence", "difference", "95 % interval", "p", ""]
        return text_table(headings, rows, left=2)

    def _verdict(self) -> str:
        if self.best_against_current is None:
            top1 = self.lines[0].measured.top1
            hint = "more images show smaller differences"
            if top1 * self.num_classes < _NEAR_CHANCE:
                hint = (
                    "its accuracy is near chance, so several settings may be wrong at once: set one that gives more "
                    "confidence, and probe again"
                )
            return f"no reading is better than the current one beyond noise; {hint}"
        gain, interval, p = _difference_cells(self.best_against_current)
        text = (
            f"the best reading (*) is better than the current one: {gain} points on these images (95 % interval "
            f"{interval}, p {p})\nadd to the command: {command_options(self.options)}"
        )
        left_out = [f"--{name.replace('_', '-')}" for name, value in self.options.items() if value is None]
        return text if not left_out else f"{text}\nwithout {', '.join(left_out)}"


#: top-1 below this many times 1/C shows nothing of a reading
_NEAR_CHANCE = 2.0
_METHOD = (
    "Each line changes one setting of the current reading; the class order may change with it, where that is better.\n"
    "What is better beyond noise (+) is combined, and the next round (numbers before the names) changes one setting\n"
    "of the best reading so far, until none is better. Beyond noise means p < 0.05 over all lines of a round, by the\n"
    "exact McNemar test on the same images. Readings that were clearly worse stopped early, and show fewer images.\n"
    "Nothing was written."
)


def _difference_cells(difference: Difference | None) -> list[str]:
    if difference is None:
        return ["", "", ""]
    low, high = map(_points, difference.interval)
    return [_points(difference.value), f"{low} to {high}", f"{difference.p:.2g}"]


def _points(difference: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return f"{round(100 * difference, 2) + 0.0:+.2f}"


def _difference_as_dict(difference: Difference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    return {"value": difference.value, "interval95": list(difference.interval), "p": difference.p}
