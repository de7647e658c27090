"""What a result says of how it was made: its parameters, the text beside its name, its signature, its notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ltpost.method import TRANSDUCTIVE, Method
from ltpost.model_selection import Choice
from ltpost.scores.curve import Curve
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
    if best is None or choice.curve is None:
        return ()
    curve = choice.curve.along(best)
    low, high = min(choice.grid), max(choice.grid)
    if curve.is_tabulated:
        tried = [value for value in curve.grid() if low <= value <= high]
        if len(tried) < 3 or best.value not in (min(tried), max(tried)):
            return ()
        return (f"the best {parameter}, {best.value:g}, is at an end of the values tried; try some beyond it",)
    return _beyond_the_grid(curve, best.score, (best.low, best.high), (low, high), select)


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


def in_signature(value: Any) -> str:
    """A value of a parameter, as a signature has it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ",".join(map(in_signature, value))
    return str(value)
