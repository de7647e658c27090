"""What one classifier does on the rows of one split: figures, by class, and row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.data.priors import GROUPS, ShotGroups
from ltpost.heads import Array
from ltpost.scores.confusion import group_matrix
from ltpost.scores.metrics import Figures


@dataclass(frozen=True, eq=False)
class JudgedRows:
    """The rows that classifiers are judged on, and what is known of their classes.

    Attributes:
        labels: (N,).
        num_classes: C.
        groups: many/medium/few-shot classes, or None.
        class_counts: (C,) training samples, or None.
        class_names: C names, or None.
        sample: (N,), which sample a row shows, where several rows are views of one.
    """

    labels: NDArray[np.int64]
    num_classes: int
    groups: ShotGroups | None = None
    class_counts: NDArray[np.int64] | None = None
    class_names: list[str] | None = None
    sample: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, feature_set: FeatureSet, groups: ShotGroups | None) -> JudgedRows:
        """The rows of a feature set."""
        known = (feature_set.class_counts, feature_set.class_names, feature_set.sample)
        return cls(feature_set.labels, feature_set.num_classes, groups, *known)

    @cached_property
    def names(self) -> list[str]:
        """The name of every class, or its number; letters that a terminal would obey are replaced."""
        names = self.class_names or [str(c) for c in range(self.num_classes)]
        return ["".join(letter if letter.isprintable() else "?" for letter in name) for name in names]

    @cached_property
    def group_names(self) -> list[str | None]:
        """The group of every class: "many", "medium", "few"; None where the training counts are not known."""
        if self.groups is None:
            return [None] * self.num_classes
        inside = np.stack([getattr(self.groups, name) for name in GROUPS])
        return [GROUPS[k] for k in inside.argmax(axis=0)]


@dataclass(frozen=True)
class Judgement:
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
        signature: how the classifier was made, in one line; "" if that is not known.
        rows: the rows, or None where they are not known.
        correct: (N,), which of them are right, or None.
        predicted: (N,), the answer to each; None where only ``correct`` is known.
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
    signature: str = ""
    rows: JudgedRows | None = field(default=None, repr=False)
    correct: NDArray[np.bool_] | None = field(default=None, repr=False)
    predicted: NDArray[np.integer[Any]] | None = field(default=None, repr=False)

    @property
    def per_class(self) -> Array:
        """Accuracy of each class, (C,); NaN for classes that the split does not have."""
        with np.errstate(invalid="ignore"):
            accuracy: Array = self.hits / self.totals
        return accuracy

    @cached_property
    def answers(self) -> NDArray[np.int64] | None:
        """How often each class is the answer, (C,); None where answers are not known."""
        return None if self.predicted is None else np.bincount(self.predicted, minlength=len(self.totals))

    @property
    def precision(self) -> Array:
        """Share of the answers of each class that are right, (C,); NaN where it is never the answer, or not known."""
        with np.errstate(invalid="ignore"):
            return np.full(len(self.hits), np.nan) if self.answers is None else self.hits / self.answers

    @property
    def f1(self) -> Array:
        """2 hits / (rows + answers) of each class, (C,); NaN where both are 0, or answers are not known."""
        with np.errstate(invalid="ignore"):
            return (
                np.full(len(self.hits), np.nan)
                if self.answers is None
                else 2 * self.hits / (self.totals + self.answers)
            )

    @property
    def group_matrix(self) -> Array | None:
        """The rows of which group are taken for which, (3, 3); see ``scores.confusion``. None where it is not known."""
        if self.predicted is None or self.rows is None or self.rows.groups is None:
            return None
        return group_matrix(self.rows.labels, self.predicted, self.rows.groups)

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
            **{key_of(table): {key_of(name): number(v) for name, v in row.items()} for table, row in self.more.items()},
        }


def number(value: float) -> float | None:
    """For JSON and CSV: None for what is not finite."""
    return float(value) if np.isfinite(value) else None


def key_of(name: str) -> str:
    """A name for JSON and CSV."""
    return name.replace(" ", "_").replace("-", "_")
