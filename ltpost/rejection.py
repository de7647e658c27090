"""Rows that a head leaves unanswered, so that the answers to the others are right in every group of classes.

Two rules; labelled rows tell the threshold t, at which the wanted share of rows stays unanswered. p is the softmax of a
row, g(y) the group of class y, K the number of groups:

    chow       answer argmax_y p_y,             where max_y p_y ≥ t
    plug-in    answer argmax_y u_g(y) p_y,      where max_y u_g(y) p_y - Σ_y (u_g(y) - m_g(y)) p_y ≥ t

Chow's rule answers frequent classes, as they are the surest. The plug-in rule makes the mean over groups of the error
among answered rows small: u_k = 1 / (K a_k), where a_k is the share of rows that are of group k and answered, a fixed
point; and m moves from frequent to rare groups in even steps, by the λ whose error is least on the labelled rows.

NOTE[DIFF]: the paper has two groups, head and tail, and λ in (1, 6, 11) for rows that are long-tailed themselves. Here
there are up to three, many-, medium- and few-shot classes, and λ in ``MOVES``, which suits balanced rows too.

Source: Narasimhan, Menon, Jitkrittum, Gupta, Kumar, "Learning to reject meets long-tail learning", ICLR 2024, theorem 1
and algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ltpost.calibration import NONE, Calibration, Parts
from ltpost.data.features import FeatureSet
from ltpost.data.priors import GROUPS, ShotGroups
from ltpost.errors import UsageError
from ltpost.heads import Array, Head

RULES = ("chow", "plug-in")
ROUNDS = 10  # of the fixed point
#: λ, from favouring answers to frequent classes to favouring answers to rare ones
MOVES = np.array([0.0, 0.25, -0.25, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 6.0, -6.0, 11.0, -11.0])


class ByGroup(NamedTuple):
    """What a rule needs to know of N rows and K groups of classes.

    Attributes:
        highest: (N, K), the largest probability of a class of the group.
        which: (N, K), that class.
        mass: (N, K), the sum of the probabilities of the group.
        labels: (N,).
        group: (N,), of the label.
    """

    highest: Array
    which: NDArray[np.int64]
    mass: Array
    labels: NDArray[np.int64]
    group: NDArray[np.int64]


@dataclass(frozen=True)
class RejectRule:
    """A row is answered by argmax_k unit_k highest_k where its maximum less Σ_k cost_k mass_k is at least ``least``.

    Attributes:
        unit: (K,).
        cost: (K,).
        least: the threshold.
    """

    unit: Array
    cost: Array
    least: float = -np.inf

    def answers(self, rows: ByGroup) -> tuple[NDArray[np.int64], Array]:
        """(N,) the class that every row would get, and (N,) how safe that is."""
        scaled = rows.highest * self.unit
        best = scaled.argmax(axis=1)
        here = np.arange(len(best))
        return rows.which[here, best], scaled[here, best] - rows.mass @ self.cost


def reject_rule(rows: ByGroup, kind: str, share: float) -> RejectRule:
    """The rule that labelled rows give.

    Args:
        rows: labelled rows, of heads that were not fitted to them.
        kind: one of ``RULES``.
        share: of rows that are left unanswered, 0 to 1.

    Raises:
        UsageError: an unknown rule, or a share that is not between 0 and 1.
    """
    if kind not in RULES:
        raise UsageError(f"kind= must be one of {', '.join(RULES)}, but is {kind!r}")
    if not 0 < share < 1:
        raise UsageError(f"reject= must lie between 0 and 1, but is {share:g}")
    groups = rows.mass.shape[1]
    if kind == "chow" or groups == 1:
        return _with_threshold(np.ones(groups), np.zeros(groups), rows, share)[0]
    rules = [_fixed_point(rows, share, move * np.linspace(-0.5, 0.5, groups)) for move in MOVES]
    return max(rules, key=lambda rule: float(np.mean(_shares(*_counts(rule, rows)[:2]))))


def _fixed_point(rows: ByGroup, share: float, moved: Array) -> RejectRule:
    """The rule whose u agrees with the rows that it answers; ``moved`` is m (K,)."""
    groups = len(moved)
    answered = np.bincount(rows.group, minlength=groups) / len(rows.group)  # a, as if all were
    for _ in range(ROUNDS):
        unit = 1 / (groups * np.maximum(answered, 1 / len(rows.group)))
        rule, safe = _with_threshold(unit, unit - moved, rows, share)
        kept = rows.group[safe >= rule.least]
        answered = (answered + np.bincount(kept, minlength=groups) / len(rows.group)) / 2
    return rule


def _with_threshold(unit: Array, cost: Array, rows: ByGroup, share: float) -> tuple[RejectRule, Array]:
    """The rule that leaves a share of the rows unanswered, and how safe each row is by it, (N,)."""
    safe = RejectRule(unit, cost).answers(rows)[1]
    return RejectRule(unit, cost, float(np.quantile(safe, share, method="higher"))), safe


def _counts(rule: RejectRule, rows: ByGroup) -> NDArray[np.int64]:
    """Rows of each group that are answered rightly, that are answered, and all, (3, K)."""
    answer, safe = rule.answers(rows)
    groups, kept = rows.mass.shape[1], safe >= rule.least
    chosen = (kept & (answer == rows.labels), kept, slice(None))
    return np.array([np.bincount(rows.group[some], minlength=groups) for some in chosen])


def _shares(some: NDArray[np.int64], of: NDArray[np.int64]) -> Array:
    """0 where there are none."""
    shares: Array = some / np.maximum(of, 1)
    return shares


def rejection_figures(
    parts: Parts,
    head: Head,
    rows: FeatureSet,
    share: float,
    *,
    groups: ShotGroups | None,
    calibration: Calibration = NONE,
) -> dict[str, dict[str, float]]:
    """What the answers of a head are like where it leaves some rows unanswered; one pass over every split.

    Args:
        parts: heads, and labelled rows on which each is judged, to which it was not fitted; they give the thresholds.
        head: the head that answers.
        rows: labelled rows to report.
        share: of rows to leave unanswered, 0 to 1.
        groups: many-, medium- and few-shot classes; None for one group of all classes.
        calibration: of the probabilities.

    Returns:
        For each of ``RULES``: ``answered``, the share of rows; ``right``, the share of answered rows that are right;
        ``right balanced``, its mean over groups; ``right worst``, its minimum over groups; and both for each group.
    """
    names, group_of = _groups_with_classes(groups, head.num_classes)
    labelled = [by_group(one, part, group_of, calibration) for one, part in parts]
    known = ByGroup(*(np.concatenate(values) for values in zip(*labelled, strict=True)))
    seen = by_group(head, rows, group_of, calibration)
    return {kind: _figures(reject_rule(known, kind, share), seen, names) for kind in RULES}


def _groups_with_classes(groups: ShotGroups | None, num_classes: int) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the groups that have classes, and (C,) the group of each class."""
    if groups is None:
        return [], np.zeros(num_classes, dtype=np.int64)
    members = {name: getattr(groups, name) for name in GROUPS}
    names = [name for name in GROUPS if members[name].any()]
    return names, np.argmax([members[name] for name in names], axis=0)


def by_group(head: Head, rows: FeatureSet, group_of: NDArray[np.int64], calibration: Calibration = NONE) -> ByGroup:
    """Read rows once, and keep what rules need; ``group_of`` (C,) is the group of each class, 0 to K - 1."""
    classes = [np.flatnonzero(group_of == k) for k in range(int(group_of.max()) + 1)]
    shape = (len(rows), len(classes))
    highest, which, mass = np.empty(shape), np.empty(shape, dtype=np.int64), np.empty(shape)
    for part, posterior in calibration.posteriors(head, rows):
        for k, members in enumerate(classes):
            inside = posterior[:, members]
            best = inside.argmax(axis=1)
            highest[part, k], which[part, k] = inside[np.arange(len(best)), best], members[best]
            mass[part, k] = inside.sum(axis=1)
    return ByGroup(highest, which, mass, rows.labels, group_of[rows.labels])


def _figures(rule: RejectRule, rows: ByGroup, names: list[str]) -> dict[str, float]:
    counts = _counts(rule, rows)
    right, answered, total = counts
    accuracy, kept = _shares(right, answered), _shares(answered, total)
    all_right, all_answered, all_rows = counts.sum(axis=1)
    figures = {
        "answered": float(all_answered / all_rows),
        "right": float(all_right / all_answered) if all_answered else np.nan,
        "right balanced": float(np.mean(accuracy[total > 0])),  # a group may have no rows
        "right worst": float(np.min(accuracy[total > 0])),
    }
    for k, name in enumerate(names):
        figures[f"answered {name}"] = float(kept[k]) if total[k] else np.nan
        figures[f"right {name}"] = float(accuracy[k]) if answered[k] else np.nan
    return figures
