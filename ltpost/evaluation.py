"""Evaluate a head on a split: figures, and how sure one can be of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.calibration import saved_calibration_figures
from ltpost.data.features import FeatureSet
from ltpost.data.priors import FEW_SHOT, MANY_SHOT, ShotGroups, class_list, minority_class
from ltpost.data.view_means import has_plain_views, mean_of_views
from ltpost.errors import DataError
from ltpost.heads import Array, Head
from ltpost.outcome import Outcome
from ltpost.report.results import JudgedRows, Report, Result
from ltpost.scores.confidence import ClassMoments, figure_intervals
from ltpost.scores.goal import Goal, answer_figures
from ltpost.scores.metrics import figures
from ltpost.scores.predict import predict
from ltpost.scores.ranking import average_precision, score_differences
from ltpost.scores.test_priors import figures_under, named_priors


def evaluate(
    head: Head | Outcome,
    feature_set: FeatureSet,
    groups: ShotGroups | None = None,
    *,
    name: str = "",
    detail: str = "",
    device: str = "cpu",
    goal: Goal | None = None,
) -> Result:
    """Figures of a head on a split.

    Args:
        head: any head, or the outcome of a method; C must be that of the split. One that ``ltpost best`` made for the
            mean of several views reads the mean over the views of each sample, where they are stored.
        feature_set: N rows.
        groups: many/medium/few-shot classes; default from its ``class_counts``.
        name: what to call the row; default the method of an outcome, or "head".
        detail: shown beside the name.
        device: where the logits are computed.
        goal: what heads are chosen by; says which figures of answers to give.

    Raises:
        DataError: no rows, or another number of classes.
    """
    if isinstance(head, Outcome):
        name, detail = name or head.method, detail or description(head.head)
        head = head.head
    name = name or "head"
    if head.num_classes != feature_set.num_classes:
        raise DataError(
            f"{feature_set.name}: has C = {feature_set.num_classes} classes, but the head has {head.num_classes}; "
            "it was made for other features"
        )
    groups = feature_set.shot_groups() if groups is None else groups
    if head.info.get("views") == "mean" and has_plain_views(feature_set):
        feature_set = mean_of_views(feature_set)
    predicted = predict(head, feature_set, device)
    seen = _seen(head, feature_set.split)
    detail = ", ".join(part for part in (detail, seen and f"{seen} these rows") if part)
    remarks = (_advice(head, name, seen, feature_set.split),) if seen else ()
    result = result_of(
        predicted == feature_set.labels,
        feature_set,
        groups,
        name=name,
        detail=detail,
        remarks=remarks,
        predicted=predicted,
        goal=goal,
    )
    more, signature = _with_ranking(result.more, head, feature_set, goal), str(head.info.get("signature", ""))
    return replace(result, more=more, signature=signature)


def result_of(
    correct: NDArray[np.bool_],
    feature_set: FeatureSet,
    groups: ShotGroups | None,
    *,
    name: str,
    detail: str = "",
    remarks: tuple[str, ...] = (),
    predicted: NDArray[np.int64] | None = None,
    goal: Goal | None = None,
) -> Result:
    """Figures of a classifier of which it is known on which rows it is right, ``correct`` (N,).

    Several views of a sample are one independent unit in the intervals. ``predicted`` (N,) are the answers; of two
    classes they follow from ``correct``.
    """
    if len(feature_set) == 0:
        raise DataError(f"{feature_set.name}: has no readable rows, so there is nothing to evaluate")
    classes = feature_set.num_classes
    hits = np.bincount(feature_set.labels[correct], minlength=classes)
    moments = ClassMoments.of_rows(correct, feature_set.labels, classes, feature_set.sample)
    totals = moments.totals
    if predicted is None and classes == 2:
        predicted = np.where(correct, feature_set.labels, 1 - feature_set.labels)
    return Result(
        name,
        feature_set.split,
        figures(hits, totals, groups),
        figure_intervals(moments, groups),
        hits,
        totals,
        detail,
        feature_set.num_invalid,
        int((moments.units == 1).sum()),
        remarks,
        _answer_table(predicted, feature_set, goal),
        rows=JudgedRows.of(feature_set, groups),
        correct=correct,
        predicted=None if predicted is None else predicted.astype(np.int32),
    )


def _answer_table(
    predicted: NDArray[np.int64] | None, feature_set: FeatureSet, goal: Goal | None
) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and cost, under the name of their table; {} where nobody asked."""
    classes = feature_set.num_classes
    goal = goal or Goal(positive=minority_class(feature_set.class_counts))
    if predicted is None or (classes != 2 and not goal.of_answers and goal.cost is None):
        return {}
    values = answer_figures(predicted, feature_set.labels, classes, goal)
    names = {"precision": "precision", "recall": "recall", "f1": "F1", "cost": "cost"}
    return {_table_name(feature_set, goal): {label: values[key] for key, label in names.items() if key in values}}


def _table_name(feature_set: FeatureSet, goal: Goal) -> str:
    if feature_set.num_classes != 2:
        return "mean over classes"
    return class_list(np.array([goal.positive]), feature_set.class_names)


def _with_ranking(
    more: Mapping[str, Mapping[str, float]], head: Head, feature_set: FeatureSet, goal: Goal | None
) -> Mapping[str, Mapping[str, float]]:
    """The same; of two classes with the area under the curve of precision against recall."""
    if feature_set.num_classes != 2:
        return more
    goal = goal or Goal(positive=minority_class(feature_set.class_counts))
    name, scores = _table_name(feature_set, goal), score_differences(head, feature_set, goal.positive)
    return {**more, name: {**more[name], "PR-AUC": average_precision(scores, feature_set.labels == goal.positive)}}


def splits_seen(head: Head) -> list[str]:
    """The splits that a head was fitted to or chosen on, as far as it says so."""
    fitted, selected_on = head.info.get("fitted_to") or (), str(head.info.get("selected_on") or "")
    return [*fitted, *filter(None, [selected_on.removesuffix(" (oracle)")])]


def _seen(head: Head, split: str) -> str:
    """What was done to the head on this split that makes its figures there too good: "fitted to", "chosen on", ""."""
    if split and split in head.info.get("fitted_to", ()):
        return "fitted to"
    return "chosen on" if split and split in splits_seen(head) else ""


def _advice(head: Head, name: str, seen: str, split: str) -> str:
    """Where the honest figure is."""
    method, selected_on = head.info.get("method", "the method"), head.info.get("selected_on")
    if selected_on == split:
        instead = f"ltpost {method} reports cross-fitted figures of them"
    elif selected_on == f"{split} (oracle)":
        instead = f"choose {method} again without the oracle"
    else:
        instead = "use rows that it has not seen"
    return f"{name} was {seen} these rows, so its figures here are too good; {instead}"


def description(head: Head) -> str:
    """How a head was made, from its ``info``; "" if that is not known.

    Method, options that are words, the chosen value and the figure that chose it. The signature has the rest.
    """
    info = head.info
    if "method" not in info:
        return ""
    parts, params = [str(info["method"])], info.get("params", {})
    parts += [f"{key} {value}" for key, value in params.items() if isinstance(value, str)]
    if (chosen := info.get("parameter")) in params:
        parts.append(f"{chosen} {params[chosen]:.4g}")
    if info.get("select"):
        parts.append(f"select {info['select']}")
    return ", ".join(parts)


def evaluate_heads(
    heads: Mapping[str, Head],
    feature_set: FeatureSet,
    many_shot: int = MANY_SHOT,
    few_shot: int = FEW_SHOT,
    *,
    with_calibration: bool = False,
    test_priors: Sequence[str] = (),
    cost: Array | None = None,
    **shown: Any,
) -> Report:
    """Several heads on one split, beside the joint classifier where that is known.

    Args:
        heads: name to head.
        feature_set: N rows.
        many_shot: see :func:`~ltpost.priors.shot_groups`.
        few_shot: see there.
        with_calibration: give figures of the probabilities too, with the calibration that is saved with a head.
        test_priors: give the accuracy under these class priors too, see ``scores.test_priors``.
        cost: (C, C), what every answer (column) to rows of every class (row) costs; the mean is given too.
        **shown: what else the report shows: ``per_class``, ``against``, ``figure``.
    """
    groups = feature_set.shot_groups(many_shot, few_shot)
    named = dict(heads)
    if feature_set.head is not None or feature_set.has_logits:
        named = {"joint": feature_set.joint, **named}
    joint = "fitted to these rows" if feature_set.split == "train" else ""
    if not named:
        raise DataError(f"{feature_set.name}: has neither 'head/weight' nor 'logits'; name a head in heads=")
    goal = None if cost is None else Goal(positive=minority_class(feature_set.class_counts), cost=cost)
    priors, results = named_priors(test_priors, feature_set.class_counts), []
    for name, head in named.items():
        detail = joint if name == "joint" else description(head)
        result = evaluate(head, feature_set, groups, name=name, detail=detail, goal=goal)
        more = dict(result.more)
        if with_calibration:
            more["calibration"] = saved_calibration_figures(head, feature_set, groups)
        if priors:
            more["test priors"] = figures_under(priors, result.hits, result.totals)
        results.append(replace(result, more=more))
    return Report(results, **shown)
