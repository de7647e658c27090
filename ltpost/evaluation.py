"""Evaluate a head on a split: predictions, figures, and how sure one can be of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.features import FeatureSet
from ltpost.head import Array, Head
from ltpost.metrics import Figures, bootstrap_figures, figures
from ltpost.priors import FEW_SHOT, MANY_SHOT, ShotGroups
from ltpost.report import Report


@dataclass(frozen=True)
class Result:
    """What one classifier does on one split.

    Attributes:
        name: the method.
        split: the split, and how honest the choice was where that must be said ("val (5-fold cross-fitted)").
        figures: fractions in 0..1, NaN for an empty group.
        intervals: 95 % bootstrap interval of each figure, rows resampled within their class.
        hits: correct rows per class, (C,).
        totals: rows per class, (C,).
        detail: the hyperparameter, as text.
        num_invalid: rows that could not be read, left out.
    """

    name: str
    split: str
    figures: Figures
    intervals: dict[str, tuple[float, float]]
    hits: NDArray[np.int64]
    totals: NDArray[np.int64]
    detail: str = ""
    num_invalid: int = 0

    @property
    def per_class(self) -> Array:
        """Accuracy of each class, (C,); NaN for classes that the split does not have."""
        with np.errstate(invalid="ignore"):
            accuracy: Array = self.hits / self.totals
        return accuracy

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
        }

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row: the figures."""
        return Report([self]).to_frame()

    def _repr_html_(self) -> str:
        return str(Report([self])._repr_html_())

    def __str__(self) -> str:
        return str(Report([self]))


def predict(head: Head, feature_set: FeatureSet, device: str = "cpu") -> NDArray[np.int64]:
    """The class of the largest logit of every row, (N,); the lowest class number where several are equal.

    Args:
        head: any head.
        feature_set: N rows.
        device: where to compute; anything but "cpu" imports torch.
    """
    if device != "cpu":
        from ltpost import on_device

        return on_device.predict(head, feature_set, device)
    predicted = np.empty(len(feature_set), dtype=np.int64)
    for part, scores in feature_set.score_blocks(head):
        predicted[part] = scores.argmax(axis=1)
    return predicted


def evaluate(
    head: Head,
    feature_set: FeatureSet,
    groups: ShotGroups | None = None,
    *,
    name: str = "head",
    detail: str = "",
    seed: int = 0,
    device: str = "cpu",
) -> Result:
    """Figures of a head on a split.

    Args:
        head: any head; C must be that of the split.
        feature_set: N rows.
        groups: many/medium/few-shot classes; default from its ``class_counts``.
        name: what to call the row.
        detail: shown beside the name.
        seed: of the bootstrap.
        device: where the logits are computed.

    Raises:
        DataError: no rows, or another number of classes.
    """
    if head.num_classes != feature_set.num_classes:
        raise DataError(
            f"{feature_set.name}: has C = {feature_set.num_classes} classes, but the head has {head.num_classes}; "
            "it was made for other features"
        )
    groups = feature_set.shot_groups() if groups is None else groups
    correct = predict(head, feature_set, device) == feature_set.labels
    return result_of(correct, feature_set, groups, name=name, detail=detail, seed=seed)


def result_of(
    correct: NDArray[np.bool_],
    feature_set: FeatureSet,
    groups: ShotGroups | None,
    *,
    name: str,
    split: str = "",
    detail: str = "",
    seed: int = 0,
) -> Result:
    """The same from which rows are right, (N,)."""
    if len(feature_set) == 0:
        raise DataError(f"{feature_set.name}: has no readable rows, so there is nothing to evaluate")
    classes = feature_set.num_classes
    totals = np.bincount(feature_set.labels, minlength=classes)
    hits = np.bincount(feature_set.labels[correct], minlength=classes)
    return Result(
        name,
        split or feature_set.split,
        figures(hits, totals, groups),
        bootstrap_figures(hits, totals, groups, seed=seed),
        hits,
        totals,
        detail,
        feature_set.num_invalid,
    )


def evaluate_heads(
    heads: Mapping[str, Head], feature_set: FeatureSet, many_shot: int = MANY_SHOT, few_shot: int = FEW_SHOT
) -> Report:
    """Several heads on one split, beside the joint classifier where that is known.

    Args:
        heads: name to head.
        feature_set: N rows.
        many_shot: see :func:`~ltpost.priors.shot_groups`.
        few_shot: see there.
    """
    groups = feature_set.shot_groups(many_shot, few_shot)
    named = dict(heads)
    if feature_set.head is not None or feature_set.has_logits:
        named = {"joint": feature_set.joint, **named}
    if not named:
        raise DataError(f"{feature_set.name}: has neither 'head/weight' nor 'logits'; name a head with --head")
    return Report([evaluate(head, feature_set, groups, name=name) for name, head in named.items()])
