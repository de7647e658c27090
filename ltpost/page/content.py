"""The numbers of the report: what a reader asks of a comparison, in plain lists and mappings for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ltpost import methods
from ltpost._version import __version__
from ltpost.calibration import Calibration, row_scores
from ltpost.comparison import pareto_front
from ltpost.data.features import FeatureSet
from ltpost.data.priors import GROUPS
from ltpost.diagnostics import DIAGNOSTICS, OF_FEATURES, Diagnosis, Subject, diagnosis_of
from ltpost.diagnostics.finding import number, plain
from ltpost.errors import DataError
from ltpost.experiment import Experiment
from ltpost.heads import Array, Head
from ltpost.outcome import Outcome
from ltpost.page.packed import drawn, packed
from ltpost.report import paired
from ltpost.report.results import NO_SHARES, Result, figure_headings
from ltpost.scores.changes import changes
from ltpost.scores.predict import predict
from ltpost.scores.reliability import reliability

STEPS = 2_000  # of the slider
_MOST_PAIRS = 40  # of confused classes
_MOST_SERIES = 20_000  # numbers of classes that every picture of the diagnostics is drawn for
_PROVENANCE = ("arch", "checkpoint", "checkpoint_sha256", "dataset", "dtype")


def content(experiment: Experiment, outcomes: Sequence[Outcome], title: str) -> dict[str, Any]:
    """Everything that the page shows.

    Args:
        experiment: the splits.
        outcomes: what methods gave there.
        title: of the page.
    """
    rows = experiment.report_set
    heads = {outcome.method: outcome.head for outcome in outcomes}
    results = list(experiment.joint_results)
    if results:
        heads = {"joint": experiment.joint, **heads}
    results += [one for outcome in outcomes for one in outcome.results if one.name == outcome.method]
    notes = list(dict.fromkeys(note for one in results for note in one.notes))
    splits = dict.fromkeys(one.split for one in results)
    if experiment.report_set is experiment.chosen_on:
        notes.append(
            f"Reliability, confusion and diagnostics are of heads that were chosen on these rows, {rows.split}."
        )
    shown: dict[str, Any] = plain(
        {
            "title": title,
            "version": __version__,
            "about": _about(experiment),
            "split": rows.split,
            "groups": None if experiment.groups is None else str(experiment.groups),
            "headings": figure_headings(results[0]),
            "labels": {name: methods.label_of(name) for name in ("joint", *heads)},
            "classes": _classes(experiment),
            "splits": [_split(name, results, experiment.figure) for name in splits],
            "curves": {outcome.method: _curve(outcome) for outcome in outcomes if outcome.curve is not None},
            "front": _front(experiment, outcomes),
            "heads": _heads(heads, experiment),
            "signatures": [
                {"method": outcome.method, "signature": outcome.signature, "notes": list(outcome.notes)}
                for outcome in outcomes
            ],
            "notes": [*notes, *experiment.notes],
        }
    )
    return shown


def _about(experiment: Experiment) -> list[list[str]]:
    """What the page is about: label and text."""
    rows = experiment.report_set
    chosen = "the reported rows themselves (oracle)" if experiment.oracle else experiment.chosen_on.split
    facts = {"features": str(experiment.folder.path), "reported on": rows.split, "chosen on": chosen,
             "chosen by": experiment.select, "groups": str(experiment.groups or "not known (no class_counts)"),
             **{key: str(rows.attrs[key]) for key in _PROVENANCE if key in rows.attrs}}  # fmt: skip
    return [[label, text] for label, text in facts.items()]


def _classes(experiment: Experiment) -> dict[str, Any]:
    """Names, training samples and groups (the number in ``GROUPS``) of the classes."""
    counts, groups = experiment.class_counts, experiment.groups
    names = experiment.report_set.class_names
    member = None
    if groups is not None:
        member = packed(np.argmax([getattr(groups, name) for name in GROUPS], axis=0))
    return {
        "num": experiment.report_set.num_classes,
        "names": None if names is None else list(names),
        "counts": None if counts is None else packed(counts),
        "group": member,
    }


def _split(split: str, results: Sequence[Result], figure: str) -> dict[str, Any]:
    """The results on a split, which rows of every class are right, and the difference of a figure to joint."""
    here = [one for one in results if one.split == split]
    comparisons = paired.compared(here, "joint", figure) if here[0].name == "joint" else {}
    return {
        "split": split,
        "invalid": here[0].num_invalid,
        "totals": packed(here[0].totals),
        "results": [
            {
                "method": one.name,
                "detail": one.detail,
                "figures": one.figures.as_dict(),
                "intervals": one.intervals,
                "hits": packed(one.hits),
                "paired": comparisons[one.name].cells if one.name in comparisons else None,
            }
            for one in here
        ],
        "paired": paired.headings("joint", figure, len(comparisons)) if comparisons else None,
        "note": paired.note(len(comparisons), "joint", figure) if comparisons else "",
        "more": [_more(table, here) for table in dict.fromkeys(table for one in here for table in one.more)],
    }


def _more(table: str, results: Sequence[Result]) -> dict[str, Any]:
    """Other figures that were asked for."""
    shown = {one.name: one.more[table] for one in results if table in one.more}
    columns = list(dict.fromkeys(column for row in shown.values() for column in row))
    return {
        "title": table,
        "columns": columns,
        "shares": [column not in NO_SHARES for column in columns],
        "rows": [[name, [row.get(column, np.nan) for column in columns]] for name, row in shown.items()],
    }


def _curve(outcome: Outcome) -> dict[str, Any]:
    """The figures at every step of the slider, and at the chosen value: changes of the hits of every class."""
    curve, best = outcome.curve, outcome.best
    assert curve is not None
    assert best is not None
    values = slider_values(outcome)
    found = changes(curve, values)
    per_class = np.bincount(found.of_class, minlength=curve.num_classes)
    first = np.append(True, np.diff(found.of_class) != 0)[: len(found.of_class)]
    gaps = np.where(first, found.position, np.diff(found.position, prepend=0))
    return {
        "parameter": outcome.parameter,
        "split": str(outcome.selected_on).removesuffix(" (oracle)"),
        "oracle": str(outcome.selected_on).endswith(" (oracle)"),
        "exact": not curve.is_tabulated,
        "values": packed(values),
        "chosen": int(np.searchsorted(values, best.value)),
        "beside": {name: f"{value:g}" for name, value in best.others.items()},
        "plateau": [best.low, best.high],
        "interval": best.interval,
        "totals": packed(np.bincount(curve.labels, minlength=curve.num_classes)),
        "changes": {"per_class": packed(per_class), "gaps": packed(gaps), "amounts": packed(found.amount)},
    }


def _front(experiment: Experiment, outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    """The heads that no other one beats in the first and in the last group, on the rows of the choice."""
    try:
        front = pareto_front(experiment, outcomes)
    except DataError:  # the groups are not known, or one of them has no rows
        return None
    points = [
        [getattr(one.point.figures, front.x), getattr(one.point.figures, front.y), one.method, one.setting]
        for one in front.points
    ]
    return {"split": front.split, "points": points}


def slider_values(outcome: Outcome) -> Array:
    """The values at which the slider stops, ascending, (K,): even steps and the chosen value, or those of a table."""
    low, high = min(outcome.grid), max(outcome.grid)
    assert outcome.curve is not None
    assert outcome.best is not None
    if outcome.curve.is_tabulated:
        tried = np.sort(outcome.curve.grid())
        return tried[(low <= tried) & (tried <= high)]
    return np.unique(np.append(np.linspace(low, high, STEPS + 1).round(10), outcome.best.value))


def _heads(heads: Mapping[str, Head], experiment: Experiment) -> dict[str, Any]:
    """What each head does on the reported rows: reliability, confused classes, diagnostics."""
    rows, shown = experiment.report_set, {}
    first, subject, why = next(iter(heads)), None, ""
    try:
        subject = Subject(rows, None if first == "joint" else heads[first], experiment.groups)
    except DataError as error:
        why = str(error)
    with_series = len(heads) * rows.num_classes <= _MOST_SERIES
    hidden = not experiment.progress or None  # None: hidden where there is no terminal
    for name, head in tqdm(heads.items(), desc="report", leave=False, disable=hidden):
        if subject is None:
            found, predicted = Diagnosis(name, {}, {"all": why} if why else {}), predict(head, rows, experiment.device)
        else:
            one = subject if name == first else subject.with_head(head)
            hidden_here = ("gains",) if one.is_joint else OF_FEATURES if one is not subject else ()
            keys = [key for key in DIAGNOSTICS if key not in hidden_here]
            found, predicted = diagnosis_of(one, keys, name), one.answers.predicted
        shown[name] = {
            "reliability": _reliability(head, rows),
            "pairs": confused_pairs(rows.labels, predicted, rows.num_classes),
            "diagnosis": _diagnosis(found, with_series),
        }
    return shown


def _reliability(head: Head, rows: FeatureSet) -> dict[str, Any]:
    """The bins of the confidence, with the calibration that the head carries."""
    calibration = Calibration.of_info(head.info)
    scores = row_scores(head, rows, calibration)
    bins = reliability(scores.confidence, scores.correct)
    return {
        "share": bins.share.round(4),
        "confidence": bins.confidence.round(4),
        "accuracy": bins.accuracy.round(4),
        "ece": bins.error,
        "nll": scores.nll.mean(),
        "fitted": "calibration" in head.info or "temperature" in head.info,
    }


def confused_pairs(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> list[list[int]]:
    """The pairs of a class and another one that most of its rows are taken for: [class, taken for, rows]."""
    wrong = labels != predicted
    pairs, rows = np.unique(labels[wrong].astype(np.int64) * num_classes + predicted[wrong], return_counts=True)
    most = np.argsort(-rows, kind="stable")[:_MOST_PAIRS]
    return [[int(pair) // num_classes, int(pair) % num_classes, int(count)] for pair, count in
            zip(pairs[most], rows[most], strict=True)]  # fmt: skip


def _diagnosis(found: Diagnosis, with_series: bool) -> dict[str, Any]:
    """The findings as tables of text, and their values per class to be drawn."""
    findings = {}
    for key, finding in found.findings.items():
        drawn_here = with_series or key == "norms"
        findings[key] = {
            "title": finding.title,
            "headings": list(finding.headings),
            "rows": [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in finding.rows],
            "series": {name: drawn(values) for name, values in finding.per_class.items()} if drawn_here else {},
        }
    return {"findings": findings, "left_out": found.left_out}
