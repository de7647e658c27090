"""Calibration after the choice: how sure a classifier says it is, against how often it is right.

    temperature   softmax(z / T)
    bias          softmax(z + b)
    bcts          softmax(z / T + b)       bias-corrected temperature scaling
    vector        softmax(s ∘ z + b)

The parameters minimise the negative log-likelihood of labelled rows, which is convex in them (in 1/T). They change the
probabilities, and not which class a head predicts: confidence is the probability of the class that the head predicts.

Sources: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (temperature, vector, ECE); Alexandari,
Kundaje, Shrikumar, "Maximum Likelihood with Bias-Corrected Calibration …", ICML 2020 (BCTS).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.data.priors import GROUPS, ShotGroups
from ltpost.errors import UsageError
from ltpost.heads import Array, Head, RescaledHead
from ltpost.heads.arrays import scale_and_offset
from ltpost.heads.blocks import score_blocks
from ltpost.scores.posteriors import Passes, softmax
from ltpost.scores.reliability import calibration_error

KINDS = ("temperature", "bias", "bcts", "vector")
#: key of ``head.info`` under which a temperature is saved with a head
TEMPERATURE = "temperature"
_RANGE = (1e-3, 1e3)  # of a factor 1/T

#: heads, and the labelled rows on which each of them is judged
Parts = Sequence[tuple[Head, FeatureSet]]


@dataclass(frozen=True)
class Calibration:
    """softmax(scale ∘ z + offset).

    Attributes:
        kind: one of ``KINDS``.
        scale: () or (C,).
        offset: (C,), or None for zeros.
        rows: to how many it was fitted.
    """

    kind: str
    scale: Array
    offset: Array | None = None
    rows: int = 0

    @property
    def temperature(self) -> float:
        """T; NaN where every class has a factor of its own."""
        return 1 / float(self.scale) if np.ndim(self.scale) == 0 else np.nan

    def apply(self, head: Head) -> RescaledHead:
        """The head whose softmax is calibrated, for export. With an offset it may predict other classes."""
        return RescaledHead(head, np.broadcast_to(self.scale, (head.num_classes,)), self.offset)

    def posteriors(self, head: Head, rows: FeatureSet) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Slices of the rows, and their calibrated probabilities (n, C), block by block."""
        offset = 0.0 if self.offset is None else self.offset
        for part, scores in score_blocks(head, rows):
            yield part, softmax(scores * self.scale, offset)[0]

    def info(self) -> dict[str, Any]:
        """What is saved with a head, in ``head.info``; :meth:`of_info` reads it."""
        if np.ndim(self.scale) == 0 and self.offset is None:
            return {TEMPERATURE: self.temperature}
        offset = None if self.offset is None else self.offset.tolist()
        return {"calibration": {"kind": self.kind, "scale": self.scale.tolist(), "offset": offset}}

    @classmethod
    def of_info(cls, info: Mapping[str, Any]) -> Calibration:
        """The calibration that is saved with a head; softmax(z) where there is none."""
        return cls(info.get("calibration", {}).get("kind", "temperature"), *scale_and_offset(info))


NONE = Calibration("none", np.asarray(1.0))


def fit_calibration(
    parts: Parts,
    kind: str = "temperature",
    *,
    balanced: bool = False,
    strength: float = 0.1,
    start: Calibration | None = None,
) -> Calibration:
    """The calibration that makes labelled rows most likely.

    Args:
        parts: heads, and the labelled rows for each; rows that a head was not fitted to.
        kind: one of ``KINDS``.
        balanced: count all classes alike, so that softmax refers to the uniform prior over classes.
        strength: of the penalty strength/2 (‖b‖² + ‖s - mean s‖²) / C on what each class has of its own.
        start: one of the same kind to start from; the result is the same, in fewer passes.

    Raises:
        UsageError: an unknown kind, or no rows.

    Cost: one pass over the rows for each of 5 to 15 steps (temperature), or up to 100 (the others).
    """
    if kind not in KINDS:
        raise UsageError(f"kind= must be one of {', '.join(KINDS)}, but is {kind!r}")
    total = sum(len(rows) for _, rows in parts)
    if total == 0:
        raise UsageError("calibration needs at least one labelled row")
    from scipy.optimize import minimize

    classes = parts[0][0].num_classes
    labels = np.concatenate([rows.labels for _, rows in parts])
    counts = np.bincount(labels, minlength=classes)
    weight = np.full(classes, 1 / total)
    if balanced:
        weight = 1 / (np.maximum(counts, 1) * (counts > 0).sum())
    blocks = Passes(parts)
    per_class, shifted = kind == "vector", kind != "temperature"
    num_scales = classes if per_class else 1

    def objective(x: Array) -> tuple[float, Array]:
        scale, shift = x[:num_scales], x[num_scales:] if shifted else np.zeros(classes)
        value, scale_gradient, shift_gradient = 0.0, np.zeros(num_scales), np.zeros(classes)
        for k, part, scores in blocks:
            own = parts[k][1].labels[part]
            z = scores.astype(np.float64)
            posterior, log_total = softmax(z * scale, shift)
            index, w = np.arange(len(own)), weight[own]
            value += float(w @ (log_total - (scale[own] if per_class else scale[0]) * z[index, own] - shift[own]))
            posterior[index, own] -= 1
            posterior *= w[:, None]
            shift_gradient += posterior.sum(axis=0)
            products = np.einsum("nc,nc->c", posterior, z)
            scale_gradient += products if per_class else products.sum()
        if shifted:
            value += strength / 2 * float(shift @ shift) / classes
            shift_gradient += strength * shift / classes
        if per_class:
            away = scale - scale.mean()
            value += strength / 2 * float(away @ away) / classes
            scale_gradient += strength * away / classes
        return value, np.concatenate([scale_gradient, shift_gradient] if shifted else [scale_gradient])

    begin = Calibration(kind, np.ones(num_scales)) if start is None else start
    shift = np.zeros(classes) if begin.offset is None else begin.offset
    first = np.concatenate([np.broadcast_to(begin.scale, (num_scales,)), shift if shifted else []])
    bounds = [(1.0, 1.0) if kind == "bias" else _RANGE] * num_scales + [(None, None)] * (classes if shifted else 0)
    solution = minimize(
        objective, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 100, "ftol": 1e-12}
    ).x
    scale = solution[:num_scales] if per_class else np.asarray(solution[0])
    return Calibration(kind, scale, solution[num_scales:] if shifted else None, total)


@dataclass(frozen=True)
class RowScores:
    """How a head's probabilities do on each of N rows.

    Attributes:
        labels: (N,).
        confidence: (N,), the probability of the class that the head predicts.
        correct: (N,), whether that is the right one.
        nll: (N,), minus the log of the probability of the right class.
        brier: (N,), the squared distance of the probabilities to the right answer, 0..2.
    """

    labels: NDArray[np.int64]
    confidence: Array
    correct: NDArray[np.bool_]
    nll: Array
    brier: Array

    @classmethod
    def joined(cls, several: Sequence[RowScores]) -> RowScores:
        """The rows of several, one after the other."""
        return cls(*(np.concatenate([getattr(one, name) for one in several]) for name in cls.__dataclass_fields__))


def row_scores(head: Head, rows: FeatureSet, calibration: Calibration = NONE) -> RowScores:
    """One pass over the rows; nothing of N x C is kept."""
    total = len(rows)
    confidence, nll, brier = np.empty(total), np.empty(total), np.empty(total)
    correct = np.empty(total, dtype=bool)
    offset = 0.0 if calibration.offset is None else calibration.offset
    for part, scores in score_blocks(head, rows):
        own, predicted = rows.labels[part], scores.argmax(axis=1)
        posterior, log_total = softmax(scores.astype(np.float64) * calibration.scale, offset)
        index = np.arange(len(own))
        confidence[part], correct[part] = posterior[index, predicted], predicted == own
        right = posterior[index, own]
        shifted = scores[index, own] * np.broadcast_to(calibration.scale, (head.num_classes,))[own]
        nll[part] = log_total - shifted - np.broadcast_to(offset, (head.num_classes,))[own]
        brier[part] = np.einsum("nc,nc->n", posterior, posterior) - 2 * right + 1
    return RowScores(rows.labels, confidence, correct, nll, brier)


def calibration_figures(scores: RowScores, groups: ShotGroups | None) -> dict[str, float]:
    """NLL, ECE, ECE with all classes counted alike, ECE of the rows of each group, and Brier score; NaN where empty."""
    counts = np.bincount(scores.labels)
    figures = {
        "nll": float(scores.nll.mean()) if len(scores.nll) else np.nan,
        "ece": calibration_error(scores.confidence, scores.correct),
        "ece_balanced": calibration_error(scores.confidence, scores.correct, 1 / counts[scores.labels]),
    }
    for name in GROUPS:
        inside = np.zeros(len(scores.labels), dtype=bool) if groups is None else getattr(groups, name)[scores.labels]
        figures[f"ece_{name}"] = calibration_error(scores.confidence[inside], scores.correct[inside])
    figures["brier"] = float(scores.brier.mean()) if len(scores.brier) else np.nan
    return figures


@dataclass(frozen=True)
class CalibrationStep:
    """What comes after a choice: a calibration that is fitted on the rows of the choice, and figures of it.

    Args:
        kind: one of ``KINDS``, or "none".
        parts: heads and labelled rows to fit to. For a head of which a hyperparameter was chosen on these rows, that
            head and all of them. For one that was fitted to them, a head for each fold, which was fitted to the others.
        folds: for figures on these rows: of each fold the head that was chosen on the others, the rows of the fold, and
            heads and rows of the others to fit to.
    """

    kind: str
    parts: Parts
    folds: Sequence[tuple[Head, FeatureSet, Parts]]

    @classmethod
    def after(
        cls, kind: str, head: Head, split: FeatureSet, by_fold: Sequence[tuple[Head, NDArray[np.int64]]], fitted: bool
    ) -> CalibrationStep:
        """The step for a head, whose folds are known.

        Args:
            kind: one of ``KINDS``, or "none".
            head: the chosen one.
            split: N rows of the choice.
            by_fold: for every fold the head that was chosen on the others, and the rows of the fold; none where the
                choice is an oracle's, which is judged on the very rows that it was made on.
            fitted: whether heads were fitted to the rows, and not a number alone chosen on them.
        """
        if not by_fold:
            return cls(kind, [(head, split)], [(head, split, [(head, split)])])
        inside = [(one, split.subset(rows)) for one, rows in by_fold]
        if fitted:
            others = [[part for other, part in enumerate(inside) if other != k] for k in range(len(inside))]
            return cls(kind, inside, [(*part, rest) for part, rest in zip(inside, others, strict=True)])
        everything = np.arange(len(split))
        outside = [[(one, split.subset(np.setdiff1d(everything, rows)))] for one, rows in by_fold]
        return cls(kind, [(head, split)], [(*part, rest) for part, rest in zip(inside, outside, strict=True)])

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration fitted to all of the rows."""
        return self._fit(self.parts)

    def _fit(self, parts: Parts, start: Calibration | None = None) -> Calibration:
        return NONE if self.kind == NONE.kind else fit_calibration(parts, self.kind, start=start)

    def figures(self, head: Head, rows: FeatureSet, groups: ShotGroups | None) -> dict[str, float]:
        """Figures of a head on other rows than those of the choice."""
        return self._table([(head, rows, self.calibration)], groups)

    def cross_fitted(self, groups: ShotGroups | None) -> dict[str, float]:
        """Figures on the rows of the choice: those of a fold under what is fitted to the other folds."""
        return self._table([(head, rows, self._fit(rest, self.calibration)) for head, rows, rest in self.folds], groups)

    def _table(
        self, judged: Sequence[tuple[Head, FeatureSet, Calibration]], groups: ShotGroups | None
    ) -> dict[str, float]:
        after = RowScores.joined([row_scores(*one) for one in judged])
        before = RowScores.joined([row_scores(head, rows) for head, rows, _ in judged])
        return comparison(calibration_figures(before, groups), calibration_figures(after, groups), self.calibration)


def comparison(before: Mapping[str, float], after: Mapping[str, float], calibration: Calibration) -> dict[str, float]:
    """One row of the table: what was fitted, figures with it, and the most usual ones without it."""
    fitted = {} if np.isnan(calibration.temperature) else {"temperature": calibration.temperature}
    return {**fitted, **after, "nll before": before["nll"], "ece before": before["ece"]}


def saved_calibration_figures(head: Head, rows: FeatureSet, groups: ShotGroups | None) -> dict[str, float]:
    """Figures of a head with the calibration that was saved with it, if any."""
    calibration = Calibration.of_info(head.info)
    return comparison(
        calibration_figures(row_scores(head, rows), groups),
        calibration_figures(row_scores(head, rows, calibration), groups),
        calibration,
    )
