"""Figures beside accuracies that were asked for: calibration, sets of classes, unanswered rows, other class priors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ltpost.calibration import CalibrationStep
from ltpost.conformal import all_set_figures
from ltpost.data.features import FeatureSet
from ltpost.data.priors import GROUPS, ShotGroups
from ltpost.heads import Array, Head, RowFigures
from ltpost.rejection import rejection_figures
from ltpost.report.results import Result
from ltpost.scores.test_priors import figures_under


@dataclass(frozen=True)
class MoreFigures:
    """What was asked for.

    Attributes:
        chosen_on: the split of the choice.
        groups: many/medium/few-shot classes, or None.
        calibration: whether figures of probabilities are wanted.
        coverage: of sets of classes, or None.
        reject: share of rows to leave unanswered, or None.
        test_priors: class priors (C,) by name.
    """

    chosen_on: FeatureSet
    groups: ShotGroups | None
    calibration: bool
    coverage: float | None
    reject: float | None
    test_priors: dict[str, Array]

    def beside(
        self, results: Sequence[Result], head: Head, step: CalibrationStep | None, reported: Sequence[FeatureSet]
    ) -> list[Result]:
        """The results of one head on the reported splits, with these figures.

        Args:
            results: one for each split, or several.
            head: that gave them.
            step: what comes after its choice, or None where nothing does.
            reported: the splits.
        """
        by_split = {part.split: part for part in reported}
        return [replace(one, more={**one.more, **self._of(one, head, step, by_split[one.split])}) for one in results]

    def _of(
        self, result: Result, head: Head, step: CalibrationStep | None, part: FeatureSet
    ) -> dict[str, dict[str, float]]:
        more: dict[str, dict[str, float]] = {}
        here = part is self.chosen_on
        if step is not None and self.calibration:
            more["calibration"] = step.cross_fitted(self.groups) if here else step.figures(head, part, self.groups)
        if step is not None and self.coverage is not None and not here:
            sets = all_set_figures(
                step.parts,
                head,
                part,
                self.coverage,
                class_counts=part.class_counts,
                groups=self.groups,
                calibration=step.calibration,
            )
            more.update({f"{kind} sets": dict(row) for kind, row in sets.items()})
        if step is not None and self.reject is not None and not here:
            answered = rejection_figures(
                step.parts, head, part, self.reject, groups=self.groups, calibration=step.calibration
            )
            more.update({f"answered by {kind}": row for kind, row in answered.items()})
        if self.test_priors:
            more["test priors"] = figures_under(self.test_priors, result.hits, result.totals)
        return more


def per_group_means(head: Head, rows: FeatureSet, groups: ShotGroups | None) -> dict[str, dict[str, float]]:
    """What a head did differently from row to row, as its mean over the rows of each group, and over all."""
    if not isinstance(head, RowFigures):
        return {}
    members = {"all": np.ones(len(rows), dtype=bool)}
    if groups is not None:
        members = {**{name: getattr(groups, name)[rows.labels] for name in GROUPS}, **members}
    return {
        figure: {name: float(values[inside].mean()) for name, inside in members.items() if inside.any()}
        for figure, values in head.row_figures(rows).items()
    }
