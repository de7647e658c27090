"""What running a method gives: the head, how it was chosen, and figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ltpost.heads import Head
from ltpost.model_selection import Choice
from ltpost.report.results import Report, Result
from ltpost.scores.curve import Best, Curve
from ltpost.tables import curve_table, percent


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

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints: fractions in 0..1, null for an empty group."""
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
            "results": self.report.as_dict(),
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

    def summary(self) -> str:
        """Everything a reader needs, as text: the curve, the choice, the figures, what to know about them."""
        parts = []
        if self.curve is not None and self.best is not None:
            parts.append(f"{self.method} on {self.selected_on}, {len(self.curve.labels):,} rows")
            parts.append(curve_table(str(self.parameter), self.grid, self.curve.at(self.grid)))
            parts.append(f"best {self.parameter} {_describe(self.best)}")
        parts.append(str(self.report))
        parts += [f"note: {note}" for note in self.notes]
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()

    def __str__(self) -> str:
        return self.summary()


def _describe(best: Best) -> str:
    plateau = "" if best.low == best.high else f" (best from {best.low:.4g} to {best.high:.4g})"
    interval = "" if best.interval is None else f", 95 % bootstrap {best.interval[0]:.3g} to {best.interval[1]:.3g}"
    beside = "".join(f", {name} {value:g}" for name, value in best.others.items())
    return f"{best.value:.4g}{beside}{plateau}{interval}: {percent(best.score)} %"


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
