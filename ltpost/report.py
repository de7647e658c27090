"""Results as a table for people, JSON and CSV for programs, HTML for notebooks.

Percent with two decimals in text and HTML, fractions everywhere else. ± is half the width of the 95 % bootstrap
interval.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltpost.metrics import FIGURES, Figures
from ltpost.output import replacing

if TYPE_CHECKING:
    from ltpost.evaluation import Result

HEADINGS = {"many": "Many", "medium": "Medium", "few": "Few", "all": "All", "top1": "Top-1"}


class Report:
    """Rows of results, usually several methods on one split.

    Args:
        results: see :class:`~ltpost.evaluation.Result`.
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
        return f"{title}\n{text_table(['method', '', *HEADINGS.values()], rows, left=2)}"

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
            records.append(record)
        return records

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`records`, in one step; an empty cell for an empty group."""
        records = self.records()
        with replacing(path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(records[0]))
            writer.writeheader()
            writer.writerows(records)
        return Path(path)

    def to_frame(self) -> Any:
        """A pandas DataFrame of :meth:`records`, indexed by split and method."""
        import pandas as pd

        return pd.DataFrame(self.records()).set_index(["split", "method"])

    def plot(self, ax: Any = None) -> Any:
        """Bars of many/medium/few/all per method; returns the matplotlib axes."""
        from ltpost.plots import plot_results

        return plot_results(self.results, ax)

    def _repr_html_(self) -> str:
        frame = self.to_frame()[["detail", *FIGURES]].rename(columns={**HEADINGS, "detail": ""})
        return str(frame.to_html(float_format=lambda value: f"{100 * value:.2f}", na_rep="–"))


def percent(value: float) -> str:
    """A fraction as percent with two decimals, "–" for NaN."""
    return "–" if np.isnan(value) else f"{100 * value:.2f}"


def curve_table(parameter: str, values: Sequence[float], rows: Sequence[Figures]) -> str:
    """Figures against a hyperparameter, as text."""
    places = max(len(f"{value:g}".partition(".")[2]) for value in values)
    exact = any("e" in f"{value:g}" for value in values)
    cells = [
        [f"{value:g}" if exact else f"{value:.{places}f}", *(percent(getattr(row, name)) for name in FIGURES)]
        for value, row in zip(values, rows, strict=True)
    ]
    return text_table([parameter, *HEADINGS.values()], cells)


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Columns aligned right, the first ``left`` of them left."""
    widths = [max(len(row[k]) for row in [headings, *rows]) for k in range(len(headings))]
    keep = [k for k, width in enumerate(widths) if width]
    lines = [
        "  ".join(row[k].ljust(widths[k]) if k < left else row[k].rjust(widths[k]) for k in keep)
        for row in [headings, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def _cell(result: Result, name: str) -> str:
    low, high = result.intervals[name]
    value = getattr(result.figures, name)
    return "–" if np.isnan(value) else f"{percent(value)} ±{50 * (high - low):.1f}"
