"""Sets of classes that hold the right one with a wanted probability, for rare classes too.

A row's set is every class c with score_c(x) ≤ q_c; labelled rows tell q.

    softmax    score = 1 - p_c,          q the quantile over all rows
    pas        score = -p_c / π_c,       q the quantile over all rows      (prevalence-adjusted softmax)
    interp-q   score = 1 - p_c,          q_c = t · quantile over rows of c + (1 - t) · quantile over all rows

With n rows, the quantile is the ⌈(n + 1) · level⌉-th smallest score, ∞ where that is more than n (1 for a class of
interp-q). Sets of ``softmax`` and ``pas`` hold the right class with probability ``level`` over rows like the labelled
ones; those of ``interp-q`` trade that for classes. ``pas`` is made for probabilities under the prior π, those of the
joint classifier: a head that was adjusted already is corrected twice.

Source: Ding, Fermanian, Salmon, "Conformal prediction for long-tailed classification", arXiv:2507.06867.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltpost.calibration import NONE, Calibration, Parts
from ltpost.data.features import FeatureSet
from ltpost.data.priors import GROUPS, ShotGroups, log_prior
from ltpost.errors import UsageError
from ltpost.heads import Array, Head

KINDS = ("softmax", "pas", "interp-q")


@dataclass(frozen=True)
class SetRule:
    """The set of a row is every class c with p_c · unit_c ≥ least_c.

    Attributes:
        unit: (C,).
        least: (C,), -∞ where every row gets the class.
        calibration: of the probabilities p.
    """

    unit: Array
    least: Array
    calibration: Calibration = NONE


def set_rule(
    parts: Parts,
    kind: str,
    level: float,
    *,
    class_counts: Array | None = None,
    share: float = 0.5,
    calibration: Calibration = NONE,
) -> SetRule:
    """The rule that labelled rows give.

    Args:
        parts: heads, and labelled rows on which each is judged, to which it was not fitted.
        kind: one of ``KINDS``.
        level: the wanted coverage, 0 to 1.
        class_counts: (C,) training samples per class, for ``pas``.
        share: t of ``interp-q``, 0 (all rows) to 1 (rows of the class).
        calibration: of the probabilities.

    Raises:
        UsageError: an unknown kind, a level or share out of range, or ``pas`` without counts.
        DataError: ``pas``, and a class has no training samples.
    """
    if kind not in KINDS:
        raise UsageError(f"kind= must be one of {', '.join(KINDS)}, but is {kind!r}")
    if not 0 < level < 1 or not 0 <= share <= 1:
        raise UsageError(f"level= must lie between 0 and 1 and share= from 0 to 1, but are {level:g} and {share:g}")
    if kind == "pas" and class_counts is None:
        raise UsageError("kind='pas' divides by the class prior and needs class_counts=")
    classes = parts[0][0].num_classes
    unit = np.ones(classes) if kind != "pas" or class_counts is None else np.exp(-log_prior(class_counts))
    labels = np.concatenate([rows.labels for _, rows in parts])
    own = np.concatenate([_own_probability(head, rows, calibration) for head, rows in parts]) * unit[labels]
    overall = _quantile(-own, level)
    if kind != "interp-q":
        return SetRule(unit, np.full(classes, -overall), calibration)
    order = np.argsort(labels, kind="stable")
    pieces = np.split(-own[order], np.cumsum(np.bincount(labels, minlength=classes))[:-1])
    of_class = np.array([_quantile(piece, level) for piece in pieces])
    of_class[np.isinf(of_class)] = 0.0  # score 1 - p = 1: every row gets the class
    return SetRule(unit, -(share * of_class + (1 - share) * min(overall, 0.0)), calibration)


def _quantile(scores: Array, level: float) -> float:
    """The ⌈(n + 1) level⌉-th smallest, ∞ where there are not so many.

    >>> _quantile(np.array([3.0, 1.0, 2.0, 4.0]), 0.5)
    3.0
    """
    place = int(np.ceil((len(scores) + 1) * level - 1e-12))
    return float(np.partition(scores, place - 1)[place - 1]) if 1 <= place <= len(scores) else np.inf


def _own_probability(head: Head, rows: FeatureSet, calibration: Calibration) -> NDArray[np.float64]:
    own = np.empty(len(rows))
    for part, posterior in calibration.posteriors(head, rows):
        own[part] = posterior[np.arange(len(posterior)), rows.labels[part]]
    return own


def set_figures(head: Head, rows: FeatureSet, rule: SetRule, groups: ShotGroups | None) -> dict[str, float]:
    """What the sets of a head are like on labelled rows; one pass.

    Returns:
        ``coverage``: how often the right class is in the set, mean over classes, and for each group; ``set size``: mean
        over rows, and for the rows of each group; ``classes below half``: share of classes with coverage below 1/2.
    """
    size, held = np.empty(len(rows)), np.empty(len(rows), dtype=bool)
    for part, posterior in rule.calibration.posteriors(head, rows):
        inside = posterior * rule.unit >= rule.least
        size[part] = np.count_nonzero(inside, axis=1)
        held[part] = inside[np.arange(len(inside)), rows.labels[part]]
    totals = np.bincount(rows.labels, minlength=head.num_classes)
    present = totals > 0
    coverage = np.bincount(rows.labels, weights=held, minlength=head.num_classes) / np.maximum(totals, 1)
    figures = {"coverage": _mean(coverage[present]), "set size": _mean(size)}
    for name in GROUPS:
        members = np.zeros(len(totals), dtype=bool) if groups is None else getattr(groups, name)
        figures[f"coverage {name}"] = _mean(coverage[present & members])
        figures[f"set size {name}"] = _mean(size[members[rows.labels]])
    figures["classes below half"] = _mean(coverage[present] < 0.5)
    return figures


def _mean(values: Array) -> float:
    return float(np.mean(values)) if len(values) else np.nan


def all_set_figures(
    parts: Parts,
    head: Head,
    rows: FeatureSet,
    level: float,
    *,
    class_counts: Array | None,
    groups: ShotGroups | None,
    calibration: Calibration = NONE,
    kinds: Sequence[str] = KINDS,
) -> dict[str, dict[str, float]]:
    """:func:`set_figures` of several kinds, those that can be had; see :func:`set_rule` for the arguments."""
    known = [kind for kind in kinds if kind != "pas" or class_counts is not None]
    return {
        kind: set_figures(
            head,
            rows,
            set_rule(parts, kind, level, class_counts=class_counts, calibration=calibration),
            groups,
        )
        for kind in known
    }
