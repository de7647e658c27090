"""What running a method gives: the head, how it was chosen, and figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ltpost.heads import Head
from ltpost.methods import label_of
from ltpost.model_selection import Choice
from ltpost.report.results import Report, Result, Style, figure_headings
from ltpost.scores.curve import Best, Curve
from ltpost.scores.front import Point, front_of
from ltpost.scores.goal import OF_ANSWERS, answer_figures
from ltpost.tables import Table, as_html, curve_table, percent, render


@dataclass(frozen=True)
class Outcome:
    """A method, chosen and reported.

    Attributes:
        method: its key.
        choice: the head, and how it was chosen.
        params: how the head was made, the chosen value included.
        selected_on: the split of the choice, or None where there was nothing to choose.
        results: the joint classifier and the method, on every split that is reported.
        signature: all of this in one line.
        notes: what a reader of the numbers has to know.
        per_group: what the head did differently from row to row (weights of experts, experts used), as its mean over
            the reported rows of each group.
    """

    method: str
    choice: Choice
    params: dict[str, Any]
    selected_on: str | None
    results: list[Result]
    signature: str
    notes: tuple[str, ...]
    per_group: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def head(self) -> Head:
        """The classifier to use."""
        return self.choice.head

    @property
    def curve(self) -> Curve | None:
        """Accuracy against the hyperparameter on the split of the choice, or None."""
        if self.choice.curve is None or self.choice.best is None:
            return None
        return self.choice.curve.along(self.choice.best)

    @property
    def best(self) -> Best | None:
        """The chosen value, or None."""
        return self.choice.best

    @property
    def grid(self) -> tuple[float, ...]:
        """The values of the curve that are shown."""
        return self.choice.grid

    @property
    def parameter(self) -> str | None:
        """Name of the hyperparameter, or None."""
        return self.choice.family.parameter

    @property
    def report(self) -> Report:
        """The results as a table."""
        return Report(self.results)

    def curve_table(self) -> Table:
        """The figures at the values of the grid, and the figure of answers that was chosen by, if any."""
        curve, goal = self.curve, self.choice.goal
        assert curve is not None
        more: dict[str, list[float]] = {}
        for name in goal.of_answers:
            each = [curve.predicted(value) for value in self.grid]
            known = [one for one in each if one is not None]
            if name != "cost" and len(known) == len(each):
                more[name] = [answer_figures(one, curve.labels, curve.num_classes, goal)[name] for one in known]
        headings = figure_headings(self.results[0])
        return curve_table(str(self.parameter), self.grid, curve.at(self.grid), headings, **more)

    def front(self, split: str, x: str = "many", y: str = "few") -> list[Point]:
        """What the method can reach in two figures on the split of the choice; see ``scores.front``.

        Args:
            split: of the choice, where there was nothing to choose.
            x: a figure.
            y: the other figure.
        """
        if self.choice.curve is not None:
            return front_of(self.choice.curve, *self.choice.ends, x, y)
        return [
            Point(None, result.figures)
            for result in self.results
            if (result.name, result.split) == (self.method, split)
        ]

    def report_with(self, **shown: Any) -> Report:
        """The results as a table that shows more: ``per_class``, ``against``, ``figure`` of :class:`Report`."""
        return Report(self.results, **shown)

    def as_dict(self, **shown: Any) -> dict[str, Any]:
        """What ``--json`` prints: fractions in 0..1, null for an empty group; ``shown`` as in :meth:`report_with`."""
        curve = []
        if self.curve is not None:
            rows = self.curve.at(self.grid)
            curve = [{str(self.parameter): value, **row.as_dict()} for value, row in zip(self.grid, rows, strict=True)]
        best = None
        if self.best is not None:
            best = {
                str(self.parameter): self.best.value,
                **self.best.others,
                "low": _finite(self.best.low),
                "high": _finite(self.best.high),
                **self.best.figures.as_dict(),
                "interval95": self.best.interval,
            }
        return {
            "method": self.method,
            "params": self.params,
            "selected_on": self.selected_on,
            "curve": curve,
            "best": best,
            "results": self.report_with(**shown).as_dict(),
            "signature": self.signature,
            "notes": list(self.notes),
            **({"per_group": {name: dict(means) for name, means in self.per_group.items()}} if self.per_group else {}),
        }

    def save_head(self, path: str | os.PathLike[str]) -> Path:
        """Write the head with its signature.

        Raises:
            DataError: the file cannot be written.
        """
        return self.head.save(path)

    def blocks(self, style: Style = Style(), **shown: Any) -> list[Table | str]:  # noqa: B008 - frozen
        """Everything a reader needs: the curve, the choice, the figures, what to know about them.

        Args:
            style: how to print.
            **shown: as in :meth:`report_with`.
        """
        blocks: list[Table | str] = []
        if self.curve is not None and self.best is not None and not style.quiet:
            blocks.append(f"{self.method} on {self.selected_on}, {len(self.curve.labels):,} rows")
            blocks.append(self.curve_table())
            blocks.append(f"best {self.parameter} {_describe(self.best, self.choice.goal.select)}")
        blocks += self.report_with(**shown).blocks(style)
        return [*blocks, *(f"note: {note}" for note in self.notes)]

    def summary(self) -> str:
        """:meth:`blocks` as text."""
        return render(self.blocks())

    def plot(self, ax: Any = None, *, width: float | None = None) -> Any:
        """The curve that the value was chosen on, over its own range; without a choice, the results as bars.

        Args:
            ax: matplotlib axes; default a new figure.
            width: of a new figure in inches, to be saved.
        """
        if self.curve is None or self.best is None:
            return self.report.plot(ax, width=width)
        named = {"method": label_of(self.method), "split": str(self.selected_on)}
        return self.curve.plot(ax, **named, select=self.choice.goal.select, best=self.best, grid=self.grid, width=width)

    def _repr_html_(self) -> str:
        blocks = self.blocks(Style(width=None))  # without the curve, which is long
        return as_html(
            [block for block in blocks if not (isinstance(block, Table) and block.headings[0] == self.parameter)]
        )

    def __repr__(self) -> str:
        value = "" if self.best is None else f", {self.parameter} {self.best.value:.4g} chosen on {self.selected_on}"
        return f"Outcome({self.method}{value}: {self.report!r})"

    def __str__(self) -> str:
        return self.summary()


def _describe(best: Best, select: str) -> str:
    plateau = "" if best.low == best.high else f" (near-best from {best.low:.4g} to {best.high:.4g})"
    interval = "" if best.interval is None else f", 95 % bootstrap {best.interval[0]:.3g} to {best.interval[1]:.3g}"
    beside = "".join(f", {name} {value:g}" for name, value in best.others.items())
    return f"{best.value:.4g}{beside}{plateau}{interval}: {_score(best, select)}"


def _score(best: Best, select: str) -> str:
    if select == "cost":
        return f"cost {-best.score:.4g}"
    return f"{select} {percent(best.score)} %" if select in OF_ANSWERS else f"{percent(best.score)} %"


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
