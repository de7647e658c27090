"""The Pareto front of methods, many-shot against few-shot accuracy: exact, as a table, records and a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltpost import plots
from ltpost.errors import DataError, first_line
from ltpost.output import replacing
from ltpost.report.judgement import number
from ltpost.scores.front import Point, not_beaten
from ltpost.scores.metrics import FIGURES
from ltpost.tables import HEADINGS, Table, percent, write_csv

SHOWN = 15  # points of the table


@dataclass(frozen=True)
class FrontPoint:
    """A point of the front: a method, and what it does at a value of its hyperparameter."""

    method: str
    parameter: str | None
    point: Point

    @property
    def setting(self) -> str:
        """The value, as text."""
        values = {str(self.parameter): self.point.value, **self.point.others}
        return ", ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)

    def record(self) -> dict[str, Any]:
        """Flat, for CSV: fractions."""
        figures = {name: number(getattr(self.point.figures, name)) for name in FIGURES}
        return {"method": self.method, "parameter": self.parameter, "value": self.point.value, "setting": self.setting,
                **figures}  # fmt: skip


class Front:
    """What several methods can reach in two figures on the same rows.

    Args:
        split: the rows: those of the choice, so that figures of chosen points are a little too good.
        of_methods: name of a method to its parameter and its own front, by falling ``x``.
        x: a figure.
        y: the other figure.

    Attributes:
        points: those that no point of any method beats, by falling ``x``.

    Raises:
        DataError: one of the figures is not defined here.
    """

    def __init__(
        self,
        split: str,
        of_methods: Mapping[str, tuple[str | None, Sequence[Point]]],
        x: str = "many",
        y: str = "few",
    ):
        self.split, self.x, self.y = split, x, y
        self.of_methods = {
            method: [FrontPoint(method, parameter, point) for point in points]
            for method, (parameter, points) in of_methods.items()
        }
        every = [point for points in self.of_methods.values() for point in points]
        kept = not_beaten(*(np.array([self._figure(point, name) for point in every]) for name in (x, y)))
        if len(kept) == 0:
            raise DataError(
                f"{split}: a front needs rows with the figures {x} and {y}; see class_counts, many_shot= and few_shot="
            )
        self.points = [every[k] for k in kept]

    def __repr__(self) -> str:
        methods = ", ".join(self.of_methods)
        return f"Front({self.x} against {self.y} on {self.split}: {len(self.points)} points of {methods})"

    def _repr_html_(self) -> str:
        return self.table().html()

    @staticmethod
    def _figure(point: FrontPoint, name: str) -> float:
        return float(getattr(point.point.figures, name))

    def records(self) -> list[dict[str, Any]]:
        """Every point of every method's own front, with whether it is on the front of all; fractions."""
        on_front = {id(point) for point in self.points}
        return [
            {"split": self.split, **point.record(), "on_front": id(point) in on_front}
            for points in self.of_methods.values()
            for point in points
        ]

    def to_frame(self) -> Any:
        """A pandas DataFrame of :meth:`records`."""
        import pandas as pd

        return pd.DataFrame(self.records())

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`records`, in one step."""
        return write_csv(self.records(), path)

    def table(self) -> Table:
        """The front of all methods, thinned to at most ``SHOWN`` points."""
        chosen = np.unique(np.linspace(0, len(self.points) - 1, SHOWN).round().astype(int))
        names = (self.x, self.y, *(name for name in ("all", "top1") if name not in (self.x, self.y)))
        rows = [
            [point.method, point.setting, *(percent(self._figure(point, name)) for name in names)]
            for point in (self.points[k] for k in chosen)
        ]
        title = (
            f"{self.split}: Pareto front of {HEADINGS[self.x]} against {HEADINGS[self.y]}, {len(chosen)} of "
            f"{len(self.points)} points"
        )
        return Table(title, ["method", "", *(HEADINGS[name] for name in names)], rows, left=2)

    def plot(self, ax: Any = None) -> Any:
        """Draw the front of every method, and that of all; returns the matplotlib axes.

        Raises:
            UsageError: matplotlib is not installed.
        """
        ax = plots.new_axes(5.6, 4.2) if ax is None else ax
        for number_, (method, points) in enumerate(self.of_methods.items()):
            colour, marker = plots.SERIES[number_ % len(plots.SERIES)], plots.MARKERS[number_ % len(plots.MARKERS)]
            x, y = ([100 * self._figure(point, name) for point in points] for name in (self.x, self.y))
            if len(points) > 1:
                ax.plot(x, y, color=colour, linewidth=1.3, label=method, drawstyle="steps-post", alpha=0.9)
            else:
                ax.plot(x, y, marker, color=colour, label=method, markersize=6)
        x, y = ([100 * self._figure(point, name) for point in self.points] for name in (self.x, self.y))
        ax.plot(x, y, color="black", linewidth=4, alpha=0.15, drawstyle="steps-post", label="front of all")
        ax.set_xlabel(f"{HEADINGS[self.x]}, accuracy in % on {self.split}")
        ax.set_ylabel(f"{HEADINGS[self.y]}, accuracy in %")
        ax.grid(alpha=0.3, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        columns = 1 if len(self.of_methods) <= 8 else 2
        ax.legend(frameon=False, fontsize=8, ncols=columns, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return ax

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write every point as CSV where the name ends in ``.csv``, else a picture, in one step."""
        path = Path(path)
        if path.suffix == ".csv":
            return self.to_csv(path)
        with replacing(path, keep_ending=True) as partial:
            try:
                self.plot().figure.savefig(partial, dpi=150)
            except ValueError as error:  # an ending that matplotlib does not know
                raise DataError(f"{path}: name a file .csv, .png, .pdf or .svg ({first_line(error)})") from None
        return path
