"""Reports: what classifiers do on splits, as tables for people, JSON and CSV for programs, HTML for notebooks.

Percent with two decimals in text and HTML, fractions everywhere else. ± reaches to the farther end of the
95 % interval (``scores.confidence``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltpost import methods, plots
from ltpost.errors import DataError
from ltpost.report import paired
from ltpost.report.judgement import JudgedRows, Judgement, key_of, number
from ltpost.report.per_class import PerClass
from ltpost.scores.metrics import FIGURES
from ltpost.tables import HEADINGS, WIDTH, Table, as_html, percent, render, write_csv

__all__ = ["JudgedRows", "Report", "Result", "Style"]

#: columns of ``Result.more`` that are no shares, so that they are not printed as percent
NO_SHARES = (
    "temperature",
    "nll",
    "nll before",
    "brier",
    "brier before",
    "cost",
    *(f"set size{end}" for end in ("", " many", " medium", " few")),
)


@dataclass(frozen=True)
class Result(Judgement):
    """A judgement that shows itself as a table of one row; for its attributes see :class:`Judgement`."""

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row: the figures."""
        return Report([self]).to_frame()

    def _repr_html_(self) -> str:
        return Report([self])._repr_html_()

    def __repr__(self) -> str:
        return f"Result({self.name} on {self.split}: All {percent(self.figures.all)})"

    def __str__(self) -> str:
        return str(Report([self]))


@dataclass(frozen=True)
class Style:
    """How a report is printed.

    Attributes:
        intervals: print ±.
        bold: let the best of every column stand out, in Markdown and LaTeX.
        signature: print how every classifier was made under the table.
        quiet: print results alone.
        width: letters of a line of text; None for as wide as the tables are.
        labels: name methods as the field writes them (τ-norm), instead of by their keys.
    """

    intervals: bool = True
    bold: bool = True
    signature: bool = False
    quiet: bool = False
    width: int | None = WIDTH
    labels: bool = False

    def name(self, method: str) -> str:
        """What a method is called in a table."""
        return methods.label_of(method) if self.labels else method


class Report:
    """Rows of results, usually several methods on one split.

    Args:
        results: see :class:`Result`.
        per_class: give figures of every class too, in this order: one of ``per_class.SORTS``.
        against: compare every method with this one on the same rows; "best" is the best of each split.
        figure: by which figure.
    """

    def __init__(
        self,
        results: Sequence[Result],
        *,
        per_class: str | None = None,
        against: str | None = None,
        figure: str = "all",
    ):
        self.results, self.sort, self.against, self.figure = list(results), per_class, against, figure

    def by_split(self) -> dict[str, list[Result]]:
        """The results of every split."""
        splits: dict[str, list[Result]] = {}
        for result in self.results:
            splits.setdefault(result.split, []).append(result)
        return splits

    def per_class(self, split: str | None = None, sort: str = "class") -> PerClass:
        """Figures of every class on a split; default the first.

        Raises:
            UsageError: an order that there is not.
            DataError: no results of this split.
        """
        splits = self.by_split()
        name = next(iter(splits), "") if split is None else split
        if name not in splits:
            raise DataError(f"there are no results on {name!r}, only on {', '.join(splits) or 'no split'}")
        return PerClass(splits[name], sort)

    def _compared(self, results: Sequence[Result]) -> Mapping[str, paired.Comparison]:
        return {} if self.against is None else paired.compared(results, self.against, self.figure)

    def blocks(self, style: Style = Style()) -> list[Table]:
        """Every table, in the order of printing."""
        tables = []
        for split, results in self.by_split().items():
            tables.append(self._table(split, results, style))
            tables += [
                _more_table(name, results, style)
                for name in dict.fromkeys(name for one in results for name in one.more)
            ]
            if self.sort is not None:
                tables += self.per_class(split, self.sort).tables()
        return tables

    def __str__(self) -> str:
        return render(self.blocks())

    def _table(self, split: str, results: Sequence[Result], style: Style) -> Table:
        first = results[0]
        present = int((first.totals > 0).sum())
        title = f"{split}: {int(first.totals.sum()):,} rows, {present:,} of {len(first.totals):,} classes"
        if first.num_invalid:
            title += f"; {first.num_invalid:,} unreadable rows left out"
        headings = figure_headings(first)
        comparisons, extra = self._compared(results), []
        if comparisons:
            other = next(iter(comparisons.values())).against
            extra = paired.headings(style.name(other), self.figure, len(comparisons))
        notes = [f"note: {note}" for note in dict.fromkeys(note for result in results for note in result.notes)]
        notes += [f"note: {paired.note(len(comparisons), str(self.against), self.figure)}"] if comparisons else []

        notes += [result.signature for result in results if style.signature and result.signature]
        bold = _best(results, list(headings)) if style.bold else frozenset()

        def table(beside: bool, names: Sequence[str]) -> Table:
            rows = [
                [
                    name,
                    result.detail if beside else "",
                    *(_cell(result, figure, style.intervals) for figure in headings),
                    *(comparisons[result.name].cells if result.name in comparisons else [""] * len(extra)),
                ]
                for name, result in zip(names, results, strict=True)
            ]
            below = [] if beside else [_described(*pair) for pair in zip(names, results, strict=True)]
            lines = [*(line for line in below if line), *notes]
            return Table(title, ["method", "", *headings.values(), *extra], rows, 2, bold, lines)

        names = [style.name(result.name) for result in results]
        for tried in (table(True, names), table(False, names)):
            if style.width is None or tried.width <= style.width:
                return tried
        return table(False, _stems(names))

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Split, then method, then figures; for JSON."""
        return {split: self._split_as_dict(split, results) for split, results in self.by_split().items()}

    def _split_as_dict(self, split: str, results: Sequence[Result]) -> dict[str, Any]:
        table = {result.name: result.as_dict() for result in results}
        for name, comparison in self._compared(results).items():
            table[name]["paired"] = {"figure": self.figure, **comparison.as_dict()}
        if self.sort is not None:
            for record in self.per_class(split, self.sort).records():
                del record["split"]
                table[record.pop("method")].setdefault("per_class", []).append(record)
            for result in results:
                matrix = result.group_matrix
                if matrix is not None:
                    table[result.name]["group_confusion"] = [[number(value) for value in row] for row in matrix]
        return table

    def records(self) -> list[dict[str, Any]]:
        """One flat record per row: split, method, detail, the figures and the ends of their intervals."""
        records = []
        for results in self.by_split().values():
            comparisons = self._compared(results)
            for result in results:
                record: dict[str, Any] = {"split": result.split, "method": result.name, "detail": result.detail}
                record.update(result.figures.as_dict())
                for name, (low, high) in result.intervals.items():
                    record[f"{name}_low"], record[f"{name}_high"] = number(low), number(high)
                for table, row in result.more.items():
                    record.update({key_of(f"{table}_{name}"): number(value) for name, value in row.items()})
                if result.name in comparisons:
                    record.update(comparisons[result.name].record())
                records.append(record)
        return records

    def class_records(self) -> list[dict[str, Any]]:
        """One flat record per split, method and class; see :class:`~ltpost.report.per_class.PerClass`."""
        splits = self.by_split()
        return [record for split in splits for record in self.per_class(split, self.sort or "class").records()]

    def table_records(self) -> list[dict[str, Any]]:
        """What CSV on stdout has: :meth:`class_records` with ``per_class``, else :meth:`records`."""
        return self.records() if self.sort is None else self.class_records()

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`records`, in one step; an empty cell for an empty group.

        With ``per_class``, :meth:`class_records` are written beside it, to ``<name>-classes.csv``.
        """
        path = Path(path)
        if self.sort is not None:
            write_csv(self.class_records(), path.with_name(f"{path.stem}-classes{path.suffix}"))
        return write_csv(self.records(), path)

    def to_frame(self) -> Any:
        """A pandas DataFrame of :meth:`records`, indexed by split and method."""
        import pandas as pd

        return pd.DataFrame(self.records()).set_index(["split", "method"])

    def plot(self, ax: Any = None, *, width: float | None = None) -> Any:
        """Many/medium/few/all of every method on the first split, as bars or dots; returns the matplotlib axes.

        Args:
            ax: matplotlib axes; default a new figure.
            width: of a new figure in inches, to be saved.

        Raises:
            DataError: there are no results.
            UsageError: matplotlib is not installed.
        """
        if not self.results:
            raise DataError("there are no results to draw")
        split, shown = next(iter(self.by_split().items()))
        return plots.plot_groups(
            [methods.label_of(result.name) for result in shown],
            {name: np.array([getattr(result.figures, name) for result in shown]) for name in FIGURES},
            {name: np.array([result.intervals[name] for result in shown]) for name in FIGURES},
            headings=figure_headings(shown[0]),
            split=split,
            ax=ax,
            width=width,
        )

    def __repr__(self) -> str:
        splits = (f"{split}: {', '.join(one.name for one in results)}" for split, results in self.by_split().items())
        return f"Report({'; '.join(splits)})"

    def _repr_html_(self) -> str:
        return as_html(self.blocks(Style(width=None)))


def figure_headings(result: Result) -> dict[str, str]:
    """Figure to its heading; a figure that there cannot be is left out."""
    groups = None if result.rows is None else result.rows.groups
    return HEADINGS if groups is None else {**groups.headings, "all": HEADINGS["all"], "top1": HEADINGS["top1"]}


def _described(name: str, result: Result) -> str:
    """A line about a row, under the table."""
    whole = "" if name == result.name else f"{result.name}: "
    return f"  {name}: {whole}{result.detail}" if whole or result.detail else ""


def _stems(names: Sequence[str]) -> list[str]:
    """Names of files without folder and ending, where they still differ."""
    stems = [Path(name).stem for name in names]
    return stems if len(set(stems)) == len(stems) else list(names)


def _cell(result: Result, name: str, with_interval: bool) -> str:
    low, high = result.intervals[name]
    value = getattr(result.figures, name)
    if np.isnan(value) or not with_interval:
        return percent(value)
    reach = f"{100 * max(high - value, value - low):.1f}"
    return f"{percent(value)} ±{'<0.1' if reach == '0.0' else reach}"


def _best(results: Sequence[Result], figures: Sequence[str]) -> frozenset[tuple[int, int]]:
    """(row, column) of the largest value of every figure, as printed; none where all are equal."""
    best = set()
    for column, name in enumerate(figures, start=2):
        shown = [percent(getattr(result.figures, name)) for result in results]
        known = [float(text) for text in shown if text != "–"]
        if len(set(known)) > 1:
            best |= {(row, column) for row, text in enumerate(shown) if text != "–" and float(text) == max(known)}
    return frozenset(best)


def _more_table(name: str, results: Sequence[Result], style: Style) -> Table:
    """A table of other figures than accuracy by group."""
    shown = [result for result in results if name in result.more]
    columns = list(dict.fromkeys(column for result in shown for column in result.more[name]))
    rows = [
        [style.name(result.name), *(_plain_cell(column, result.more[name].get(column, np.nan)) for column in columns)]
        for result in shown
    ]
    return Table(f"{results[0].split}, {name}", ["method", *columns], rows, left=1)


def _plain_cell(column: str, value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.3f}" if column in NO_SHARES else percent(value)
