"""Results: what classifiers do on splits, as a table for people, JSON and CSV for programs, HTML for notebooks.

Percent with two decimals in text and HTML, fractions everywhere else. ± reaches to the farther end of the
95 % interval (``scores.confidence``).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost import plots
from ltpost.errors import DataError
from ltpost.heads import Array
from ltpost.output import replacing
from ltpost.scores.metrics import FIGURES, Figures
from ltpost.tables import HEADINGS, percent, text_table

#: columns of ``Result.more`` that are no shares, so that they are not printed as percent
NO_SHARES = (
    "temperature",
    "nll",
    "nll before",
    "brier",
    "brier before",
    *(f"set size{end}" for end in ("", " many", " medium", " few")),
)


@dataclass(frozen=True)
class Result:
    """What one classifier does on one split.

    Attributes:
        name: the method.
        split: the split, and how honest the choice was where that must be said ("val (5-fold cross-fitted)").
        figures: fractions in 0..1, NaN for an empty group.
        intervals: 95 % interval of each figure, for these classes and other rows of them.
        hits: correct rows per class, (C,).
        totals: rows per class, (C,).
        detail: the hyperparameter, as text.
        num_invalid: rows that could not be read, left out.
        single_classes: classes with one row, or with views of one sample only.
        remarks: sentences that a reader of these figures has to know.
        more: other figures that were asked for: name of their table to column to value, NaN where there is none.
    """

    name: str
    split: str
    figures: Figures
    intervals: dict[str, tuple[float, float]]
    hits: NDArray[np.int64]
    totals: NDArray[np.int64]
    detail: str = ""
    num_invalid: int = 0
    single_classes: int = 0
    remarks: tuple[str, ...] = ()
    more: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def per_class(self) -> Array:
        """Accuracy of each class, (C,); NaN for classes that the split does not have."""
        with np.errstate(invalid="ignore"):
            accuracy: Array = self.hits / self.totals
        return accuracy

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures has to know: the remarks, and where ± is not what it says."""
        if not self.single_classes:
            return list(self.remarks)
        classes = "1 class has" if self.single_classes == 1 else f"{self.single_classes:,} classes have"
        note = (
            f"{classes} one sample in {self.split}, which does not say how sure its accuracy is; ± takes such classes "
            "together, and is too wide where they differ"
        )
        return [*self.remarks, note]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: fractions, null for an empty group."""
        bounds = {name: None if np.isnan(low) else [low, high] for name, (low, high) in self.intervals.items()}
        missing = np.flatnonzero(self.totals == 0)
        return {
            **self.figures.as_dict(),
            "interval95": bounds,
            "rows": int(self.totals.sum()),
            "unreadable_rows": self.num_invalid,
            "classes_without_rows": [int(c) for c in missing],
            "notes": self.notes,
            **{_key(table): {_key(name): _number(v) for name, v in row.items()} for table, row in self.more.items()},
        }

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row: the figures."""
        return Report([self]).to_frame()

    def _repr_html_(self) -> str:
        return str(Report([self])._repr_html_())

    def __str__(self) -> str:
        return str(Report([self]))


class Report:
    """Rows of results, usually several methods on one split.

    Args:
        results: see :class:`Result`.
    """

    def __init__(self, results: Sequence[Result]):
        self.results = list(results)

    def __str__(self) -> str:
        splits = list(dict.fromkeys(result.split for result in self.results))
        return "\n\n".join(self._table(split) for split in splits)

    def _table(self, split: str) -> str:
        results = [result for result in self.results if result.split == split]
        first = results[0]
        present = int((first.totals > 0).sum())
        title = f"{split}: {int(first.totals.sum()):,} rows, {present:,} of {len(first.totals):,} classes"
        if first.num_invalid:
            title += f"; {first.num_invalid:,} unreadable rows left out"
        rows = [[result.name, result.detail, *(_cell(result, name) for name in FIGURES)] for result in results]
        notes = [f"note: {note}" for note in dict.fromkeys(note for result in results for note in result.notes)]
        tables = ["\n".join([title, text_table(["method", "", *HEADINGS.values()], rows, left=2), *notes])]
        tables += [_more_table(name, results) for name in dict.fromkeys(name for one in results for name in one.more)]
        return "\n\n".join(tables)

    def per_class_table(self) -> str:
        """Accuracy of every class, as text."""
        headings = ["class", "rows", *(result.name for result in self.results)]
        rows = [
            [str(c), str(total), *(percent(result.per_class[c]) for result in self.results)]
            for c, total in enumerate(self.results[0].totals)
        ]
        return text_table(headings, rows)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Split, then method, then figures; for JSON."""
        table: dict[str, dict[str, Any]] = {}
        for result in self.results:
            table.setdefault(result.split, {})[result.name] = result.as_dict()
        return table

    def records(self) -> list[dict[str, Any]]:
        """One flat record per row: split, method, detail, the figures and the ends of their intervals."""
        records = []
        for result in self.results:
            record: dict[str, Any] = {"split": result.split, "method": result.name, "detail": result.detail}
            record.update(result.figures.as_dict())
            for name, (low, high) in result.intervals.items():
                record[f"{name}_low"] = None if np.isnan(low) else low
                record[f"{name}_high"] = None if np.isnan(high) else high
            for table, row in result.more.items():
                record.update({_key(f"{table}_{name}"): _number(value) for name, value in row.items()})
            records.append(record)
        return records

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`records`, in one step; an empty cell for an empty group."""
        records = self.records()
        with replacing(path) as partial, partial.open("w", newline="") as file:
            columns = dict.fromkeys(name for record in records for name in record)
            writer = csv.DictWriter(file, fieldnames=list(columns))
            writer.writeheader()
            writer.writerows(records)
        return Path(path)

    def to_frame(self) -> Any:
        """A pandas DataFrame of :meth:`records`, indexed by split and method."""
        import pandas as pd

        return pd.DataFrame(self.records()).set_index(["split", "method"])

    def plot(self, ax: Any = None) -> Any:
        """Bars of many/medium/few/all per method, on the first split; returns the matplotlib axes.

        Raises:
            DataError: there are no results.
            UsageError: matplotlib is not installed.
        """
        if not self.results:
            raise DataError("there are no results to draw")
        split = self.results[0].split
        shown = [result for result in self.results if result.split == split]
        return plots.plot_groups(
            [result.name for result in shown],
            {name: np.array([getattr(result.figures, name) for result in shown]) for name in FIGURES},
            {name: np.array([result.intervals[name] for result in shown]) for name in FIGURES},
            title=f"accuracy on {split}",
            ax=ax,
        )

    def _repr_html_(self) -> str:
        frame = self.to_frame()[["detail", *FIGURES]].rename(columns={**HEADINGS, "detail": ""})
        return str(frame.to_html(float_format=lambda value: f"{100 * value:.2f}", na_rep="–"))


def _cell(result: Result, name: str) -> str:
    low, high = result.intervals[name]
    value = getattr(result.figures, name)
    return "–" if np.isnan(value) else f"{percent(value)} ±{100 * max(high - value, value - low):.1f}"


def _more_table(name: str, results: Sequence[Result]) -> str:
    """A table of other figures than accuracy by group."""
    shown = [result for result in results if name in result.more]
    columns = list(dict.fromkeys(column for result in shown for column in result.more[name]))
    rows = [
        [result.name, *(_plain_cell(column, result.more[name].get(column, np.nan)) for column in columns)]
        for result in shown
    ]
    return f"{results[0].split}, {name}\n{text_table(['method', *columns], rows, left=1)}"


def _plain_cell(column: str, value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.3f}" if column in NO_SHARES else percent(value)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _key(name: str) -> str:
    """A name for JSON and CSV."""
    return name.replace(" ", "_").replace("-", "_")
