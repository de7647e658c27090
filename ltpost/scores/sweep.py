"""One exact sweep: the accuracy for EVERY value of a parameter, from one pass over the scores of a split."""

from __future__ import annotations

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.data.priors import ShotGroups
from ltpost.errors import DataError
from ltpost.heads import Array, Head
from ltpost.heads.blocks import score_blocks
from ltpost.scores import on_cpu
from ltpost.scores.answers import Answers, answers_between, mixed_answers
from ltpost.scores.exact import ExactCurve
from ltpost.scores.intervals import Slopes, affine_interval


def intervals(
    feature_set: FeatureSet, slope: Array, head: Head, *, scaled: bool, device: str = "cpu"
) -> tuple[Array, Array]:
    """The interval [low, high] on which each row is right, (N,) each; low > high where it never is.

    Args:
        feature_set: N rows.
        slope: b, (C,) float64.
        head: its logits are a, or z.
        scaled: s_c(t) = z_c · exp(-t · b_c), not a_c - t · b_c.
        device: where to compute; anything but "cpu" imports torch.
    """
    slopes = Slopes(slope)
    if device == "cpu":
        low, high = on_cpu.intervals(feature_set, slopes, head, scaled=scaled)
    else:
        from ltpost.scores import on_device

        low, high = on_device.intervals(feature_set, slope, head, device, scaled=scaled)
    if scaled:  # farther out, ends may be those of the stand-in for a score that is not positive
        low[low < -slopes.reach], high[high > slopes.reach] = -np.inf, np.inf
    return low, high


def affine_curve(
    feature_set: FeatureSet,
    slope: Array,
    groups: ShotGroups | None,
    *,
    head: Head | None = None,
    parameter: str = "tau",
    device: str = "cpu",
) -> ExactCurve:
    """The exact curve of s_c(t) = z_c - t · slope_c.

    Args:
        feature_set: N rows.
        slope: (C,).
        groups: many/medium/few-shot classes, or None.
        head: its logits are z; default the joint classifier.
        parameter: the name of t.
        device: where to compute; anything but "cpu" imports torch.

    Other uses than logit adjustment (slope log π): the strength of a target prior π' (head: the joint one with offset
    -log π; slope: -log π'), or the mixing of two heads (:func:`mixing_curve`).
    """
    return _curve(feature_set, slope, groups, head, parameter, device, scaled=False)


def scaled_curve(
    feature_set: FeatureSet,
    slope: Array,
    groups: ShotGroups | None,
    *,
    head: Head | None = None,
    parameter: str = "tau",
    device: str = "cpu",
) -> ExactCurve:
    """The exact curve of s_c(t) = z_c · exp(-t · slope_c); arguments as for :func:`affine_curve`."""
    return _curve(feature_set, slope, groups, head, parameter, device, scaled=True)


def _curve(
    feature_set: FeatureSet,
    slope: Array,
    groups: ShotGroups | None,
    head: Head | None,
    parameter: str,
    device: str,
    *,
    scaled: bool,
) -> ExactCurve:
    head = feature_set.joint if head is None else head

    def answers(low: float, high: float) -> Answers:
        return answers_between(feature_set, head, slope, low, high, scaled=scaled)

    low, high = intervals(feature_set, slope, head, scaled=scaled, device=device)
    known = (feature_set.labels, groups, feature_set.num_classes, feature_set.sample)
    return ExactCurve(parameter, low, high, *known, answers)


def mixing_curve(
    one: FeatureSet,
    head: Head,
    other_head: Head,
    groups: ShotGroups | None,
    *,
    other: FeatureSet | None = None,
    parameter: str = "weight",
) -> ExactCurve:
    """The exact curve of a mixture of two classifiers, s(t) = (1 - t) z + t z'.

    Args:
        one: N rows.
        head: its logits are z.
        other_head: its logits are z'.
        groups: many/medium/few-shot classes, or None.
        other: the same N rows with the features of the other network; default ``one``.
        parameter: the name of t.
    """
    other = one if other is None else other
    if not np.array_equal(one.labels, other.labels):
        raise DataError(f"{one.name} and {other.name} must hold the same rows to be mixed, but their labels differ")
    low, high = np.empty(len(one)), np.empty(len(one))
    size = min(one.block_rows(), other.block_rows())
    pairs = zip(score_blocks(head, one, size), score_blocks(other_head, other, size), strict=True)
    for (rows, z), (_, z_other) in pairs:
        a = z.astype(np.float64)[:, None]
        ends = affine_interval(a, one.labels[rows], a - z_other[:, None])
        low[rows], high[rows] = ends[0][:, 0], ends[1][:, 0]
    known = (one.labels, groups, one.num_classes, one.sample)
    return ExactCurve(
        parameter, low, high, *known, lambda *range_: mixed_answers(one, head, other, other_head, *range_)
    )
