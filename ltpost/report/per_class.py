"""Figures of every class, of several classifiers on one split: the table, records for programs, a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.data.priors import GROUPS
from ltpost.errors import UsageError
from ltpost.heads import Array
from ltpost.report.judgement import JudgedRows, Judgement, number
from ltpost.tables import Table, as_html, percent, signed

SORTS = ("class", "gain", "count", "accuracy", "name")
_LONGEST_NAME = 24
#: figure of a record to what it is, for those that JSON and CSV have and the table has not
_OF_ANSWERS = ("precision", "f1")


class PerClass:
    """Every class on one split, by classifiers that were judged on the same rows.

    Args:
        results: of one split; the joint classifier, where it is among them, is what the others are compared with.
        sort: the order of the classes: their number, the ``gain`` of the first other classifier (largest first), the
            training ``count`` (largest first), the ``accuracy`` of that classifier (largest first), or the ``name``.

    Raises:
        UsageError: another order.
    """

    def __init__(self, results: Sequence[Judgement], sort: str = "class"):
        if sort not in SORTS:
            raise UsageError(f"per_class= must be one of {', '.join(SORTS)}, but is {sort!r}")
        self.results, self.split = list(results), results[0].split
        first = results[0]
        self.rows = first.rows or JudgedRows(np.zeros(0, np.int64), len(first.totals))
        self.joint = next((result for result in results if result.name == "joint"), None)
        #: class numbers, (C,), in the order of the table
        self.order = self._order(sort)

    def __repr__(self) -> str:
        return f"PerClass({self.split}: {len(self.order)} classes by {', '.join(one.name for one in self.results)})"

    def _repr_html_(self) -> str:
        return as_html(self.tables())

    @property
    def others(self) -> list[Judgement]:
        """All but the joint classifier."""
        return [result for result in self.results if result is not self.joint]

    def difference(self, result: Judgement) -> Array:
        """Accuracy less that of the joint classifier, (C,); NaN where one is not known."""
        return np.full(len(result.totals), np.nan) if self.joint is None else result.per_class - self.joint.per_class

    def changed(self, result: Judgement) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Rows of each class that are right and were wrong in the joint classifier, and the reverse, (C,) each."""
        if self.joint is None or self.joint.correct is None or result.correct is None or result.rows is None:
            return None
        labels, classes = result.rows.labels, len(result.totals)
        gained = np.bincount(labels[result.correct & ~self.joint.correct], minlength=classes)
        return gained, np.bincount(labels[self.joint.correct & ~result.correct], minlength=classes)

    def _order(self, sort: str) -> NDArray[np.int64]:
        shown = (self.others or self.results)[0]
        counts = self.rows.class_counts
        keys: dict[str, Array] = {
            "class": np.arange(len(shown.totals)),
            "gain": -self.difference(shown),
            "count": -(np.zeros(len(shown.totals)) if counts is None else counts.astype(np.float64)),
            "accuracy": -shown.per_class,
            "name": np.array(self.rows.names),
        }
        return np.argsort(keys[sort], kind="stable")  # NaN comes last

    def records(self) -> list[dict[str, Any]]:
        """One flat record per classifier and class; None for what is not known."""
        records, counts = [], self.rows.class_counts
        for result in self.results:
            difference, changed = self.difference(result), self.changed(result)
            for c in self.order:
                records.append(
                    {
                        "split": self.split,
                        "method": result.name,
                        "class": int(c),
                        "name": self.rows.names[c],
                        "training_samples": None if counts is None else int(counts[c]),
                        "group": self.rows.group_names[c],
                        "rows": int(result.totals[c]),
                        "accuracy": number(result.per_class[c]),
                        "difference": number(difference[c]),
                        "gained": None if changed is None else int(changed[0][c]),
                        "lost": None if changed is None else int(changed[1][c]),
                        **{name: number(getattr(result, name)[c]) for name in _OF_ANSWERS},
                    }
                )
        return records

    def to_frame(self) -> Any:
        """A pandas DataFrame of :meth:`records`, indexed by split, method and class."""
        import pandas as pd

        return pd.DataFrame(self.records()).set_index(["split", "method", "class"])

    def table(self) -> Table:
        """One row per class: name, training samples, group, rows, accuracy of each classifier, difference to joint."""
        columns: dict[str, list[str]] = {"class": [str(c) for c in range(len(self.rows.names))]}
        if self.rows.class_names is not None:
            columns["name"] = [_short(name) for name in self.rows.names]
        if self.rows.class_counts is not None:
            columns["train"] = [f"{n:,}" for n in self.rows.class_counts]
        if self.rows.groups is not None:
            headings = self.rows.groups.headings
            columns["group"] = [headings[str(name)] for name in self.rows.group_names]
        left = len(columns)
        columns["rows"] = [f"{n:,}" for n in self.results[0].totals]
        for result in self.results:
            columns[result.name] = [percent(value) for value in result.per_class]
            if self.joint is not None and result is not self.joint:
                columns[f"{result.name} - joint"] = [signed(value) for value in self.difference(result)]
        only = self.others[0] if len(self.others) == 1 else None
        changed = None if only is None else self.changed(only)
        if changed is not None:
            columns["gained"], columns["lost"] = ([str(n) for n in counts] for counts in changed)
        order = self.order
        rows = [[column[c] for column in columns.values()] for c in order]
        return Table(f"{self.split}: every class", list(columns), rows, left=left)

    def confusion(self) -> Table | None:
        """Which group the rows of each group are taken for, by every classifier; None where no answers are known."""
        known = [(result, result.group_matrix) for result in self.results]
        groups = self.rows.groups
        if groups is None or all(matrix is None for _, matrix in known):
            return None
        names = groups.headings
        rows = [
            [result.name, names[group], *(percent(matrix[k, GROUPS.index(other)]) for other in names)]
            for result, matrix in known
            if matrix is not None
            for k, group in enumerate(GROUPS)
            if group in names and not np.isnan(matrix[k]).all()
        ]
        title = f"{self.split}: which group the rows of a group are taken for (mean over its classes)"
        return Table(title, ["method", "true group", *(f"as {name}" for name in names.values())], rows, left=2)

    def tables(self) -> list[Table]:
        """Both tables."""
        confusion = self.confusion()
        return [self.table(), *([] if confusion is None else [confusion])]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
