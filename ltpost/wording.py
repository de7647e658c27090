"""What a result says of how it was made: its parameters, the text beside its name, its signature, its notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ltpost._version import __version__
from ltpost.heads import RescaledHead
from ltpost.method import TRANSDUCTIVE, Method
from ltpost.model_selection import Choice
from ltpost.report.results import Result
from ltpost.scores.curve import Curve
from ltpost.scores.exact import ExactCurve
from ltpost.tables import percent


def chosen_params(method: Method, options: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    """The options of a method and the values that were chosen, by name."""
    params = method.params(options, choice.family)
    if choice.best is not None:
        params.update({str(choice.family.parameter): choice.best.value, **choice.best.others})
    return params


def detail_of(method: Method, options: Mapping[str, Any], choice: Choice, params: Mapping[str, Any]) -> str:
    """What stands beside the name of a method: the chosen value, its first choice, and options that were given."""
    first = next((name for name, option in method.options.items() if option.choices), "")
    shown = [name for name in method.options if name in params and (name in options or name == first)]
    parts = [f"{name} {params[name]}" for name in shown]
    if choice.best is not None:
        values = {str(choice.family.parameter): choice.best.value, **choice.best.others}
        parts = [*(f"{name} {value:.4g}" for name, value in values.items()), *parts]
    parts += ["fits on val"] if "val" in method.needs else []
    parts += ["transductive"] if set(TRANSDUCTIVE) & set(method.needs) else []
    return ", ".join(parts)


def range_notes(choice: Choice, select: str) -> tuple[str, ...]:
    """Whether a better value lies outside of the grid."""
    best, parameter = choice.best, choice.family.parameter
    if best is None or choice.curve is None or choice.goal.keep or not np.isfinite(choice.ends).all():
        return ()
    curve = choice.curve.along(best)
    low, high = choice.ends
    if curve.is_tabulated:
        tried = [value for value in curve.grid() if low <= value <= high]
        if len(tried) < 3 or best.value not in (min(tried), max(tried)):
            return ()
        return (f"the best {parameter}, {best.value:g}, is at an end of the values tried; try some beyond it",)
    if choice.goal.of_answers:
        return ()  # of more than two classes, answers are known within the range alone
    return _beyond_the_grid(curve, best.score, (best.low, best.high), (low, high), select)


def choice_notes(choice: Choice, results: Sequence[Result], select: str) -> tuple[str, ...]:
    """Limits that are missed, values that change nothing, and better values outside of the grid."""
    return (*limit_notes(choice), *unchanged_notes(choice, results), *range_notes(choice, select))


def limit_notes(choice: Choice) -> tuple[str, ...]:
    """Whether limits are missed on the rows of the choice."""
    limits = ", ".join(map(str, choice.goal.keep))
    if not choice.missed:
        return ()
    by = f"misses by {100 * choice.missed:.2f} points"
    if choice.best is None:
        return (f"it does not keep {limits} on the rows of the choice, which it {by}",)
    parameter, (low, high) = choice.family.parameter, choice.ends
    where = f" from {low:g} to {high:g}" if np.isfinite([low, high]).all() else ""
    return (f"no {parameter}{where} keeps {limits} on the rows of the choice; the chosen one {by}",)


def unchanged_notes(choice: Choice, results: Sequence[Result]) -> tuple[str, ...]:
    """Whether no value of the hyperparameter changes an answer, or the head answers as the joint classifier does."""
    curve = None if choice.curve is None or choice.best is None else choice.curve.along(choice.best)
    low, high = (min(choice.grid), max(choice.grid)) if curve is not None else (0.0, 0.0)
    if isinstance(curve, ExactCurve) and not ((low < curve.ends) & (curve.ends < high)).any():
        scaled = isinstance(choice.head, RescaledHead) and choice.head.scale is not None and curve.num_classes == 2
        why = " (it scales the logits, and two of opposite signs keep their order)" if scaled else ""
        return (f"no {curve.parameter} from {low:g} to {high:g} changes an answer to the rows of the choice{why}",)
    by_name = {(result.split, result.name): result for result in results}
    for result in results:
        joint = by_name.get((result.split, "joint"))
        if joint is None or joint is result or joint.predicted is None or result.predicted is None:
            continue
        if np.array_equal(result.predicted, joint.predicted):
            return (f"it answers every row of {result.split} as the joint classifier does",)
    return ()


def _beyond_the_grid(
    curve: Curve, score: float, plateau: tuple[float, float], ends: tuple[float, float], select: str
) -> tuple[str, ...]:
    """A note where a value outside of the grid is better."""
    low, high = ends
    free = curve.best(select, low=min(low, 0.0))  # a negative tau is another method
    if free.score <= score + 1e-9 or low <= free.value <= high:
        return ()
    end = high if free.value > high else low
    rises = end in plateau
    where = f"the curve still rises at {curve.parameter} {end:g}, the end of the grid" if rises else "outside the grid"
    note = (
        f"{where}: over all values the best is {curve.parameter} {free.value:.3f}, with {select} "
        f"{percent(free.score)} % instead of {percent(score)} %; widen the grid to choose it"
    )
    return (note,)


def per_group_notes(per_group: Mapping[str, Mapping[str, float]], split: str) -> tuple[str, ...]:
    """A note of the mean over each group of what a head did differently from row to row."""
    sentences = [
        f"{figure} {', '.join(f'{group} {value:.3f}' for group, value in values.items())}"
        for figure, values in per_group.items()
    ]
    return (f"mean per group of {split}: {'; '.join(sentences)}",) if sentences else ()


def joined(first: str, second: str, between: str = ", ") -> str:
    """Both texts, or the one that is not empty."""
    return between.join(part for part in (first, second) if part)


def signature_of(parts: Mapping[str, Any]) -> str:
    """How a head was made, in one line; the version comes last, and parts that are None are left out.

    >>> signature_of({"method": "la", "tau": 0.5, "expert": None}).rpartition(":")[0]
    'method:la|tau:0.5|version'
    """
    known = {**parts, "version": __version__}
    return "|".join(f"{key}:{in_signature(value)}" for key, value in known.items() if value is not None)


def in_signature(value: Any) -> str:
    """A value of a parameter, as a signature has it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ",".join(map(in_signature, value))
    return str(value)
