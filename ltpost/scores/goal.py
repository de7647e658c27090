"""What a choice maximises, and what it must keep.

Beside the figures of the field (``metrics``) a choice may go by figures of the answers: how often a class is the
answer, and how often rightly. Of two classes they are those of the class with fewer training samples:

    precision  hits / answers         recall  hits / rows         f1  2 hits / (rows + answers)

Of more classes they are the means over the classes that the rows have. The ``cost`` of an answer comes from a matrix;
it is minimised.

NOTE[DIFF]: scikit-learn's macro average counts classes too that are answered but have no rows; here they lower the
precision of no class, as accuracies leave them out too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ltpost.data.priors import GROUPS, ShotGroups
from ltpost.errors import DataError, UsageError, first_line
from ltpost.heads import Array
from ltpost.scores.metrics import FIGURES, SELECT, row_weights, selection_score

OF_ANSWERS = ("f1", "precision", "recall", "cost")
#: what a choice may maximise
GOALS = (*SELECT, *OF_ANSWERS)
SAME = 1e-9  # accuracies that differ by less are the same number of rows
_LIMIT = re.compile(r"\s*([\w-]+)\s*(:|>=)\s*([-+]?\d+(?:\.\d*)?)\s*")


@dataclass(frozen=True)
class Limit:
    """The least that a figure may be: ``value``, or the joint classifier's plus ``value``; fractions."""

    figure: str
    value: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Limit:
        """``many:-2``, two points below the joint classifier at most; ``precision>=50``, 50 % at least.

        Raises:
            UsageError: neither.

        >>> Limit.parse("many:-2"), Limit.parse("precision>=50")
        (Limit(figure='many', value=-0.02, relative=True), Limit(figure='precision', value=0.5, relative=False))
        """
        match = _LIMIT.fullmatch(text)
        names = [name for name in (*FIGURES, *OF_ANSWERS) if name != "cost"]
        if match is None or match[1].replace("-", "") not in names:
            raise UsageError(
                "keep= must be such as many:-2 (points against the joint classifier) or precision>=50 (percent), with "
                f"a figure out of {', '.join(names)}, but is {text!r}"
            )
        return cls(match[1].replace("-", ""), float(match[3]) / 100, match[2] == ":")

    def __str__(self) -> str:
        return f"{self.figure}{':' if self.relative else '>='}{100 * self.value:g}"


@dataclass(frozen=True, eq=False)
class Goal:
    """What a choice maximises, and what it must keep.

    Attributes:
        select: the figure to maximise (a cost is minimised), one of ``GOALS``.
        keep: limits. Where no value keeps them all, the one that misses them least is taken.
        positive: of two classes the one that precision, recall and f1 are about.
        cost: (C, C), of every answer (column) to rows of every class (row); needed for ``cost`` alone.
        joint: (N,) answers of the joint classifier to the rows of the choice; needed for relative limits alone.
    """

    select: str = "all"
    keep: tuple[Limit, ...] = ()
    positive: int = 1
    cost: Array | None = None
    joint: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, goal: str | Goal) -> Goal:
        """The goal itself, or to maximise the figure of that name."""
        return goal if isinstance(goal, Goal) else cls(goal)

    @property
    def usual(self) -> tuple[str, ...]:
        """The figures of the field that it needs."""
        names = {limit.figure for limit in self.keep}
        names |= set(GROUPS) if self.select == "harmonic" else {self.select}
        return tuple(name for name in FIGURES if name in names)

    @property
    def of_answers(self) -> tuple[str, ...]:
        """The figures of answers that it needs."""
        names = {self.select, *(limit.figure for limit in self.keep)}
        return tuple(name for name in OF_ANSWERS if name in names)

    def score(self, values: Mapping[str, Array]) -> Array:
        """What is maximised, from figures by name; (K,) for K values of a parameter."""
        if self.select in OF_ANSWERS:
            return -values["cost"] if self.select == "cost" else values[self.select]
        return selection_score(values, self.select)

    def ranked(
        self, values: Mapping[str, Array], allowed: NDArray[np.bool_], floors: Mapping[Limit, float]
    ) -> tuple[Array, float]:
        """What is maximised, (K,), -inf where a value may not be chosen; and by how much limits are missed at best.

        Args:
            values: figures by name, (K,) each.
            allowed: (K,), which values may be chosen.
            floors: see :meth:`floors`.

        Raises:
            DataError: a figure is not defined here.
        """
        score = self.score(values)
        if not self.keep:
            return np.where(allowed, score, -np.inf), 0.0
        missed = np.zeros(len(score))
        for limit in self.keep:
            value = values[limit.figure]
            if np.isnan(value).any():
                raise DataError(
                    f"keep= {limit} is not defined here: the split has no class of that group, or class_counts are "
                    "missing"
                )
            missed += np.maximum(0.0, floors[limit] - value)
        missed[missed < SAME] = 0.0
        least = float(missed[allowed].min())
        return np.where(allowed & (missed <= least + SAME), score, -np.inf), least

    def floors(
        self,
        labels: NDArray[np.int64],
        groups: ShotGroups | None,
        num_classes: int,
        times: Array | None = None,
    ) -> dict[Limit, float]:
        """The least value of every limit on these rows, each of which counts ``times`` (N,)."""
        floors = {limit: limit.value for limit in self.keep}
        relative = [limit for limit in self.keep if limit.relative]
        if relative:
            if self.joint is None:
                raise DataError("keep= needs the answers of the joint classifier for limits such as many:-2")
            values = self.figures(self.joint, labels, groups, num_classes, times)
            floors.update({limit: values[limit.figure] + limit.value for limit in relative})
        return floors

    def figures(
        self,
        predicted: NDArray[np.int64],
        labels: NDArray[np.int64],
        groups: ShotGroups | None,
        num_classes: int,
        times: Array | None = None,
    ) -> dict[str, float]:
        """The figures that it needs, of one classifier.

        Args:
            predicted: (N,), its answers.
            labels: (N,).
            groups: many/medium/few-shot classes, or None.
            num_classes: C.
            times: (N,), how often each row counts; default once.
        """
        correct = predicted == labels
        weights = row_weights(labels, groups, num_classes, times, self.usual)
        values = dict(zip(FIGURES, map(float, weights[:, correct].sum(axis=1)), strict=True))
        values = {name: values[name] if len(labels) and not np.isnan(weights[FIGURES.index(name), 0]) else np.nan
                  for name in self.usual}  # fmt: skip
        if self.of_answers:
            values |= answer_figures(predicted, labels, num_classes, self, times)
        return values

    def cost_of(self, labels: NDArray[np.int64], answers: NDArray[np.int64]) -> Array:
        """What each answer costs."""
        if self.cost is None:
            raise UsageError("select=cost needs a matrix of costs; give it with cost=")
        return np.asarray(self.cost[labels, answers])

    def share(self, totals: Array) -> Array:
        """What precision, recall and f1 of each class count, (C,); they sum to 1."""
        if len(totals) == 2:
            return np.asarray(np.arange(2) == self.positive, dtype=np.float64)
        present = totals > 0
        return np.asarray(present / max(1, present.sum()))


def answer_figures(
    predicted: NDArray[np.int64],
    labels: NDArray[np.int64],
    num_classes: int,
    goal: Goal,
    times: Array | None = None,
) -> dict[str, float]:
    """Precision, recall and f1, and the mean cost where there is a matrix; arguments as of :meth:`Goal.figures`."""
    weight = np.ones(len(labels)) if times is None else times
    totals, answers = (np.bincount(classes, weight, num_classes) for classes in (labels, predicted))
    hits = np.bincount(labels, weight * (predicted == labels), num_classes)
    share = goal.share(totals)
    values = {name: float(share @ of_counts(name, hits, answers, totals)) for name in ("f1", "precision", "recall")}
    if goal.cost is not None:
        values["cost"] = float(weight @ goal.cost_of(labels, predicted) / max(weight.sum(), 1e-300))
    return values


def of_counts(name: str, hits: Array, answers: Array, totals: Array) -> Array:
    """Precision, recall or f1 from counts; 0 where there is nothing to divide by."""
    above, below = {
        "precision": (hits, answers),
        "recall": (hits, totals),
        "f1": (2 * hits, answers + totals),
    }[name]
    result: Array = np.divide(above, below, out=np.zeros(np.shape(above), np.float64), where=np.asarray(below) > 0)
    return result


def costs_of(cost: Array | str | os.PathLike[str], num_classes: int) -> Array:
    """A matrix of costs, (C, C): what every answer (column) to rows of every class (row) costs.

    Args:
        cost: the matrix, or its file: a row of numbers a line, parted by commas or blanks, or ``.npy``.
        num_classes: C.

    Raises:
        DataError: there is no such file, or it is no such matrix.
    """
    if isinstance(cost, (str, os.PathLike)):
        name, costs = str(cost), _read_costs(Path(cost))
    else:
        name, costs = "cost=", np.asarray(cost)
    if costs.shape != (num_classes, num_classes) or costs.dtype.kind not in "fiu":
        raise DataError(
            f"{name}: must hold {num_classes} x {num_classes} costs, a row for every class and a column for every "
            f"answer, but holds {' x '.join(map(str, costs.shape)) or 'one number'}"
        )
    if not np.isfinite(costs).all():
        raise DataError(f"{name}: costs must be finite numbers")
    return np.asarray(costs, dtype=np.float64)


def _read_costs(source: Path) -> Array:
    if not source.is_file():
        raise DataError(f"{source}: no such file of costs")
    try:
        if source.suffix == ".npy":
            return np.asarray(np.load(source, allow_pickle=False))
        lines = [line.strip(" ,;\t") for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
        return np.array([[float(word) for word in re.split(r"[\s,;]+", line)] for line in lines])
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{source}: must hold a matrix of numbers ({first_line(error)})") from None


def parse_limits(texts: Iterable[str]) -> tuple[Limit, ...]:
    """Limits of ``keep=``; see :meth:`Limit.parse`."""
    return tuple(Limit.parse(text) for text in texts)
