"""Choose a hyperparameter honestly: never on the rows that the number is reported on.

With a val and a test split: chosen on val, reported on test. With val only: chosen on all of val for the head that is
saved, and reported by cross-fitting inside val, where every row is judged by what the other folds gave: the value that
is best on them and, of a method that fits to val, the head that is fitted to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.data.priors import ShotGroups, minority_class
from ltpost.errors import DataError, UsageError
from ltpost.family import Family
from ltpost.heads import Array, Head
from ltpost.scores.answers import Answers
from ltpost.scores.crossed import CrossedCurve
from ltpost.scores.curve import Best, Curve
from ltpost.scores.exact import ExactCurve
from ltpost.scores.folds import FOLDS, CrossFitted, cross_fit, each_fold, stratified_folds
from ltpost.scores.goal import GOALS, OF_ANSWERS, Goal, Limit
from ltpost.scores.predict import predict
from ltpost.scores.tabulated import GridCurve

_MAY_DIFFER = 1e-3  # of the rows
_ROUNDING = 1e-5  # of the largest score
_SMALLEST = 1e-35  # less is where float32 loses digits
#: labelled rows to fit to, and rows that may be looked at without labels, to a family of heads
FamilyOf = Callable[[FeatureSet, FeatureSet], Family]


@dataclass(frozen=True)
class Choice:
    """A head, and how it was chosen.

    Attributes:
        head: at the chosen value.
        family: it belongs to.
        curve: accuracy on the rows of the choice, or None where there was nothing to choose.
        grid: values of the curve that are shown; the choice was made between the least and the greatest.
        best: the chosen value.
        whole: of a family along several parameters, all of it; ``family`` is then along the inner one.
        goal: what was maximised and kept.
        ends: the values between which the choice was made.
        missed: by how much limits are missed, summed; see ``goal.Goal``.
    """

    head: Head
    family: Family
    curve: Curve | None = None
    grid: tuple[float, ...] = ()
    best: Best | None = None
    whole: Family | None = None
    goal: Goal = field(default_factory=Goal)
    ends: tuple[float, float] = (-np.inf, np.inf)
    missed: float = 0.0

    def __repr__(self) -> str:
        return f"Choice({self.head!r}{'' if self.best is None else f', {self.best!r}'})"


@dataclass(frozen=True)
class Selection:
    """The rules of a choice.

    Attributes:
        select: the figure to maximise, one of ``goal.GOALS``.
        groups: many/medium/few-shot classes, or None.
        grid: values of the hyperparameter between which to choose; default those of the curve.
        seed: of the folds.
        device: where to compute.
        keep: limits of other figures; see ``goal.Goal``.
        cost: (C, C), for the figure ``cost``.
        grid_is_given: whether the user gave the grid. If not, thresholds of two classes are free.
        num_folds: of cross-fitting.
    """

    select: str = "all"
    groups: ShotGroups | None = None
    grid: tuple[float, ...] = ()
    seed: int = 0
    device: str = "cpu"
    keep: tuple[Limit, ...] = ()
    cost: Array | None = None
    grid_is_given: bool = False
    num_folds: int = FOLDS

    def __post_init__(self) -> None:
        if self.select not in GOALS:
            raise UsageError(f"select= must be one of {', '.join(GOALS)}, but is {self.select!r}")
        if self.select == "cost" and self.cost is None:
            raise UsageError("select=cost needs a matrix of costs; give it with cost=")

    def goal(self, split: FeatureSet) -> Goal:
        """What is to be maximised and kept on these rows."""
        joint = predict(split.joint, split, self.device) if any(limit.relative for limit in self.keep) else None
        return Goal(self.select, self.keep, minority_class(split.class_counts), self.cost, joint)

    def choose(self, split: FeatureSet, family: Family) -> Choice:
        """The best head of a family on a split; the family was made without the labels of the split."""
        if family.parameter is None:
            return self._only(family, split)
        choice = self._on(family.curve(split, self.groups, grid=self.grid, device=self.device), family, split)
        check_against_curve(choice, split, self.device)
        return choice

    def choose_fitted(self, split: FeatureSet, family_of: FamilyOf, target: FeatureSet | None = None) -> Choice:
        """The same for a method that fits to the split: the value is chosen by cross-fitting, the head fits all.

        ``target`` are the rows that it is for, of which a transductive method sees no labels; default the split.
        """
        family = family_of(split, split if target is None else target)
        if family.parameter is None or family.only is not None:  # nothing to choose
            return self._only(family, split)
        return self._on(self._cross_fitted_curve(split, family_of), family, split)

    def _on(self, curve: Curve, family: Family, split: FeatureSet) -> Choice:
        grid = self.grid or tuple(float(value) for value in curve.grid())
        free = self.select in OF_ANSWERS and curve.num_classes == 2 and not self.grid_is_given
        goal, ends = self.goal(split), (-np.inf, np.inf) if free else (min(grid), max(grid))
        best = curve.best(goal, *ends)
        return Choice(family.head_of(best), family.at(best.others), curve, grid, best, family, goal, ends, best.missed)

    def _only(self, family: Family, split: FeatureSet) -> Choice:
        """The one head of a family."""
        head = family.head(family.only)
        if not self.keep:
            return Choice(head, family)
        goal, known = self.goal(split), (split.labels, self.groups, split.num_classes)
        values = goal.figures(predict(head, split, self.device), *known)
        each = {name: np.array([value]) for name, value in values.items()}
        missed = goal.ranked(each, np.array([True]), goal.floors(*known))[1]
        return Choice(head, family, goal=goal, missed=missed)

    def with_interval(self, choice: Choice) -> Choice:
        """The choice with the bootstrap interval of its value."""
        if choice.curve is None or choice.best is None:
            return choice
        interval = choice.curve.bootstrap_best(choice.goal, *choice.ends, seed=self.seed)
        return replace(choice, best=replace(choice.best, interval=interval))

    def cross_fit(self, split: FeatureSet, choice: Choice) -> CrossFitted:
        """The rows of the choice, each at the value that is best on the other folds."""
        assert choice.curve is not None
        self._folds(split)  # raises where a fold would be all there is
        return cross_fit(choice.curve, choice.goal, *choice.ends, num_folds=self.num_folds, seed=self.seed)

    def cross_fit_fitted(self, split: FeatureSet, family_of: FamilyOf) -> CrossFitted:
        """The rows, each answered by a head that was fitted and chosen on the other folds alone."""
        predicted = np.full(len(split), -1, dtype=np.int64)
        for head, inside in self.fitted_by_fold(split, family_of):
            predicted[inside] = predict(head, split.subset(inside), self.device)
        return CrossFitted(predicted == split.labels, np.maximum(predicted, 0))

    def fitted_by_fold(self, split: FeatureSet, family_of: FamilyOf) -> list[tuple[Head, NDArray[np.int64]]]:
        """For every fold the head that was fitted and chosen on the other folds alone, and the rows of the fold."""
        return [
            (self.choose_fitted(split.subset(rest), family_of, split.subset(inside)).head, inside)
            for inside, rest in each_fold(self._folds(split))
        ]

    def chosen_by_fold(
        self, split: FeatureSet, choice: Choice, family_of: FamilyOf | None = None
    ) -> list[tuple[Head, NDArray[np.int64]]]:
        """For every fold the head that is best on the other folds, and the rows of the fold.

        Args:
            split: N rows, those of the choice.
            choice: what was chosen on all of them.
            family_of: of a method that fits to the split; it is then fitted anew for every fold.
        """
        if family_of is not None:
            return self.fitted_by_fold(split, family_of)
        pairs = []
        for inside, rest in each_fold(self._folds(split)):
            head = choice.head
            if choice.curve is not None:
                times = np.zeros(len(split))
                times[rest] = 1.0
                best = choice.curve.best(choice.goal, *choice.ends, times)
                head = (choice.whole or choice.family).head_of(best)
            pairs.append((head, inside))
        return pairs

    def _cross_fitted_curve(self, split: FeatureSet, family_of: FamilyOf) -> Curve:
        """The curve of which every row comes from a family that was fitted to the other folds."""
        parts = []
        for inside, rest in each_fold(self._folds(split)):
            rows = split.subset(inside)
            family = family_of(split.subset(rest), rows)
            parts.append((inside, family.curve(rows, self.groups, grid=self.grid, device=self.device)))
        return _merged(parts, split.labels, split.sample)

    def _folds(self, split: FeatureSet) -> NDArray[np.int64]:
        folds = stratified_folds(split.labels, self.num_folds, self.seed, split.sample)
        if not each_fold(folds):
            raise DataError(f"{split.name}: has too few rows to choose on some and judge others; extract more of them")
        return folds


def _merged(
    parts: Sequence[tuple[NDArray[np.int64], Curve]], labels: NDArray[np.int64], sample: NDArray[np.int64] | None
) -> Curve:
    """One curve over all rows, from curves over the rows of each fold."""
    curves = [curve for _, curve in parts]
    first, total = curves[0], len(labels)
    shared = (labels, first.groups, first.num_classes)
    if isinstance(first, CrossedCurve):
        members = [(inside, curve.curves) for inside, curve in parts if isinstance(curve, CrossedCurve)]
        return CrossedCurve(
            first.outer,
            {value: _merged([(inside, of[value]) for inside, of in members], labels, sample) for value in first.curves},
        )
    if all(isinstance(curve, ExactCurve) for curve in curves):
        low, high = np.empty(total), np.empty(total)
        for inside, curve in parts:
            assert isinstance(curve, ExactCurve)
            low[inside], high[inside] = curve.low, curve.high

        def answers(least: float, most: float) -> Answers:
            exact = [(inside, curve) for inside, curve in parts if isinstance(curve, ExactCurve)]
            return Answers.joined(curve.answers(least, most).of_rows(inside) for inside, curve in exact)

        return ExactCurve(first.parameter, low, high, *shared, sample, answers)
    values = first.grid()
    correct = np.empty((len(values), total), dtype=bool)
    predicted = np.full((len(values), total), -1, dtype=np.int32)
    for inside, curve in parts:
        correct[:, inside] = [curve.correct(value) for value in values]
        for row, value in zip(predicted, values, strict=True):
            found = curve.predicted(value)
            row[inside] = -1 if found is None else found
    known = len(values) > 0 and predicted.min(initial=0) >= 0
    return GridCurve(first.parameter, values, correct, *shared, sample, predicted if known else None)


def check_against_curve(choice: Choice, split: FeatureSet, device: str = "cpu") -> None:
    """Make sure that the chosen head does on the rows of the choice what its curve says, beyond rounding.

    A row may differ where the score of its own class and the best score are equal up to rounding.

    Args:
        choice: with an exact curve; figures of a tabulated one are those of its heads.
        split: the rows of the curve.
        device: where to compute.

    Raises:
        DataError: more than one row in a thousand differs; the values leave the range of float32.
    """
    if choice.best is None or not isinstance(choice.curve, ExactCurve):
        return
    head, labels = choice.head, split.labels
    differs = (predict(head, split, device) == labels) != choice.curve.correct(choice.best.value)
    rows = np.flatnonzero(differs)
    if len(rows) <= _MAY_DIFFER * len(split):
        return
    read, beyond = head.reader(split), 0
    offset = getattr(head, "offset", None)
    largest_offset = 0.0 if offset is None else float(np.abs(offset).max(initial=0.0))
    for part in np.array_split(rows, -(-len(rows) // split.block_rows())):
        scores = read(part).astype(np.float64)
        own, best = scores[np.arange(len(part)), labels[part]], scores.max(axis=1)
        with np.errstate(invalid="ignore"):
            rounding = _ROUNDING * (np.abs(scores).max(axis=1) + largest_offset)
            beyond += int((~(best - own <= rounding) | (rounding < _SMALLEST)).sum())
    if beyond > _MAY_DIFFER * len(split):
        raise DataError(
            f"{split.name}: the head at {choice.curve.parameter} {choice.best.value:.6g} gives {beyond:,} of "
            f"{len(split):,} rows another answer than its curve, as float32 does not hold its values; choose from "
            "smaller values of the hyperparameter, or bring features and weights to an ordinary size"
        )
