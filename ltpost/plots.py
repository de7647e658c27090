"""Pictures: accuracy against a hyperparameter, groups of every method, one against the other, norms against counts.

Every function draws into ``ax``, or into a new figure, and returns the axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.figures import COLOURS, MARKERS, axes_for, letters, new_axes, plain, save, series
from ltpost.tables import HEADINGS

Array = NDArray[Any]

__all__ = ["new_axes", "plot_curve", "plot_front", "plot_groups", "plot_norms", "save"]

#: parameter to its sign on axes
SYMBOLS = {"tau": "τ", "beta": "β", "gamma": "γ", "alpha": "α", "kappa": "κ", "rho": "ρ"}
_BAR, _LETTER, _BESIDE, _WIDEST = 0.135, 0.075, 0.6, 9.0  # inches: a bar, a letter, what is beside the axes, a figure
_LOW_BAR = 0.14  # a bar too low for its number
_NAMED = 8  # methods of a front that have a colour each
_WIDE_RANGE = 50  # values that span more than this factor are drawn on a logarithmic axis


def plot_curve(
    parameter: str,
    values: Array,
    figures: Mapping[str, Array],
    *,
    best: float,
    plateau: tuple[float, float],
    reached: str,
    marked: bool,
    headings: Mapping[str, str] = HEADINGS,
    method: str = "",
    split: str = "",
    ax: Any = None,
    width: float | None = None,
) -> Any:
    """Accuracy of every group against a hyperparameter, with the near-best values of the figure that it was chosen by.

    Args:
        parameter: name of the hyperparameter.
        values: (K,) ascending.
        figures: name of a figure to its fractions (K,); those of ``COLOURS`` are drawn.
        best: the best value.
        plateau: the first and the last near-best value.
        reached: the figure that was chosen by, and what it is there, as text.
        marked: draw a marker at each value, as the figures are known there only.
        headings: figure to its name in the picture.
        method: whose hyperparameter it is, for the axis.
        split: where the accuracy was measured, for the axis.
        ax: matplotlib axes; default a new figure.
        width: of a new figure in inches, to be saved.

    Raises:
        UsageError: matplotlib is not installed.
    """
    ax = axes_for(ax, (6.4, 4.0), width)
    symbol = SYMBOLS.get(parameter, parameter)
    ends: dict[str, float] = {}
    for name, colour in COLOURS.items():
        if name not in headings or np.isnan(figures[name]).all():
            continue
        thick = 2.0 if name == "all" else 1.3
        ax.plot(values, figures[name], color=colour, linewidth=thick, marker="o" if marked else "", markersize=3.5)
        ends[name] = float(figures[name][-1])
    ax.axvspan(*plateau, color="#404040", alpha=0.15, linewidth=0)
    ax.axvline(best, color="#404040", linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set_title(f"best {symbol} {best:.3g}: {reached}", loc="left", fontsize=letters(ax))
    if values[0] > 0 and values[-1] / values[0] > _WIDE_RANGE:
        ax.set_xscale("log")
        _log_ticks(ax.xaxis)
    ax.set_xlim(values[0], values[-1])
    ax.set_xlabel(f"{symbol} of {method}" if method else symbol)
    ax.set_ylabel(f"accuracy on {split}" if split else "accuracy")
    _share_axis(ax.yaxis)
    _label_ends(ax, float(values[-1]), {headings[name]: end for name, end in ends.items()}, ends)
    return plain(ax)


def _label_ends(ax: Any, x: float, labels: Mapping[str, float], names: Iterable[str]) -> None:
    """The name of every line at its right end, apart from one another."""
    bottom, top = ax.get_ylim()
    size = letters(ax)
    inches = ax.get_window_extent().height / ax.figure.dpi
    gap, lowest = 1.3 * size / 72 / inches * (top - bottom), -np.inf
    colours = dict(zip(labels, (COLOURS[name] for name in names), strict=True))
    for label in sorted(labels, key=lambda label: labels[label]):
        lowest = max(labels[label], lowest + gap)
        style = {"color": colours[label], "va": "center", "fontsize": size, "annotation_clip": False}
        ax.annotate(label, (x, lowest), xytext=(5, 0), textcoords="offset points", **style)


def plot_groups(
    names: Sequence[str],
    figures: Mapping[str, Array],
    intervals: Mapping[str, Array],
    *,
    headings: Mapping[str, str] = HEADINGS,
    split: str = "",
    ax: Any = None,
    width: float | None = None,
) -> Any:
    """Many, medium, few and all of every method, with 95 % intervals: bars, or dots where bars would be too narrow.

    Args:
        names: of M methods.
        figures: name of a figure to its fractions (M,); those of ``COLOURS`` are drawn.
        intervals: name of a figure to the ends of its interval, (M, 2).
        headings: figure to its name in the picture; only these are drawn.
        split: where the accuracy was measured, for the axis.
        ax: matplotlib axes; default a new figure.
        width: of a new figure in inches, to be saved.

    Raises:
        UsageError: matplotlib is not installed.
    """
    shown = [name for name in COLOURS if name in headings]
    bars_need = len(names) * (len(shown) + 1) * _BAR + _BESIDE
    longest = max(map(len, names)) * _LETTER * len(names) + _BESIDE  # names stand side by side under bars
    inches = width or (ax.figure.get_figwidth() if ax is not None else max(4.0, min(bars_need, _WIDEST)))
    as_bars = max(bars_need, longest) <= inches
    height = 0.5 if as_bars else (0.95 + 0.2 * len(names)) / inches
    ax = axes_for(ax, (inches, inches * height), width)
    (_bars if as_bars else _dots)(ax, names, shown, figures, intervals)
    label = f"accuracy on {split}" if split else "accuracy"
    (ax.set_ylabel if as_bars else ax.set_xlabel)(label)
    _share_axis(ax.yaxis if as_bars else ax.xaxis)
    handles = [_patch(COLOURS[name], headings[name]) for name in shown]
    style = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2, "columnspacing": 1.0}
    ax.legend(handles=handles, ncols=len(shown), frameon=False, handlelength=0.9, handletextpad=0.4,
              fontsize=letters(ax), **style)  # fmt: skip
    return plain(ax)


def _bars(
    ax: Any, names: Sequence[str], shown: Sequence[str], figures: Mapping[str, Array], intervals: Mapping[str, Array]
) -> None:
    wide = 1 / (len(shown) + 0.9)
    for position, name in enumerate(shown):
        where = np.arange(len(names)) + (position - (len(shown) - 1) / 2) * wide
        height, ends = figures[name], intervals[name].T
        reach = np.clip([height - ends[0], ends[1] - height], 0, None)
        ax.bar(where, np.nan_to_num(height), 0.92 * wide, color=COLOURS[name])
        ax.errorbar(where, height, reach, fmt="none", ecolor="black", elinewidth=0.7, capsize=1.5)
        for x, value, top in zip(where, height, ends[1], strict=True):
            _bar_label(ax, x, value, top, light=name != "medium")
    ax.set_xticks(range(len(names)), list(names))
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.55, len(names) - 0.45)
    highest = max(
        (float(np.nanmax(intervals[name])) for name in shown if not np.isnan(intervals[name]).all()), default=1
    )
    ax.set_ylim(0, min(1.02, highest + 0.05))


def _bar_label(ax: Any, x: float, value: float, top: float, *, light: bool) -> None:
    """The number at the foot of its bar, upright, or above one that is too low for it; "–" where there is no bar."""
    style = {"ha": "center", "va": "bottom", "fontsize": letters(ax) - 1.5, "rotation": 90}
    if np.isnan(value):
        ax.text(x, 0.01, "–", **{**style, "rotation": 0})
    elif value < _LOW_BAR:
        ax.text(x, top + 0.015, f"{100 * value:.1f}", **style)
    else:
        ax.text(x, 0.015, f"{100 * value:.1f}", color="white" if light else "black", **style)


def _dots(
    ax: Any, names: Sequence[str], shown: Sequence[str], figures: Mapping[str, Array], intervals: Mapping[str, Array]
) -> None:
    """One row for every method, from the top down."""
    rows = np.arange(len(names))
    for position, name in enumerate(shown):
        at = rows + (position - (len(shown) - 1) / 2) * 0.12
        ax.hlines(at, *intervals[name].T, color=COLOURS[name], linewidth=1.0, alpha=0.6)
        ax.plot(figures[name], at, MARKERS[position], color=COLOURS[name], markersize=3.6, markeredgewidth=0)
    ax.set_yticks(rows, list(names))
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", alpha=0.15, linewidth=6)


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def plot_front(
    methods: Mapping[str, tuple[Array, Array]],
    front: tuple[Array, Array],
    *,
    labels: tuple[str, str],
    split: str = "",
    ax: Any = None,
    width: float | None = None,
) -> Any:
    """What each of several methods can reach in two figures, and what no point of any of them beats.

    More than ``_NAMED`` methods are not told apart by colours: the first one (the joint classifier) and those on the
    front have one, the others are grey.

    Args:
        methods: name to the fractions of its points in both figures, by falling first one.
        front: the same of the points that no other beats.
        labels: what the figures are called.
        split: where they were measured, for the axes.
        ax: matplotlib axes; default a new figure.
        width: of a new figure in inches, to be saved.

    Raises:
        UsageError: matplotlib is not installed.
    """
    ax = axes_for(ax, (5.6, 4.4), width)
    on_front = set(zip(*(values.tolist() for values in front), strict=True))
    reach = {
        name for name, points in methods.items() if on_front & set(zip(*(v.tolist() for v in points), strict=True))
    }
    named = [name for name in methods if name in reach or len(methods) <= _NAMED]
    for name, (x, y) in methods.items():
        style = {**series(named.index(name)), "label": name} if name in named else {"color": "#b8b8b8", "marker": "."}
        style |= {"drawstyle": "steps-post", "marker": ""} if len(x) > 1 else {"linestyle": ""}
        ax.plot(x, y, linewidth=1.3 if name in named else 0.8, markersize=5, zorder=2 + (name in named), **style)
    ax.plot(*front, color="black", linewidth=4, alpha=0.15, drawstyle="steps-post", label="front of all", zorder=4)
    if len(named) < len(methods):
        ax.plot([], [], ".-", color="#b8b8b8", linewidth=0.8, label=f"{len(methods) - len(named)} others")
    for axis, label in ((ax.xaxis, labels[0]), (ax.yaxis, labels[1])):
        axis.set_label_text(f"{label}, accuracy on {split}" if split else f"{label}, accuracy")
        _share_axis(axis)
    ax.legend(frameon=False, fontsize=letters(ax), handlelength=1.6, loc="lower left", borderaxespad=0.2)
    return plain(ax)


class HasNorms(Protocol):
    """A head with weight norms, such as :class:`ltpost.LinearHead`."""

    def norms(self) -> Array:
        """‖w_c‖₂ of every class, (C,)."""


def plot_norms(
    heads: Mapping[str, HasNorms], class_counts: Array, ax: Any = None, *, width: float | None = None
) -> Any:
    """Weight norm against training samples, one point per class, both axes logarithmic.

    Args:
        heads: name to head, usually the joint classifier and rebalanced ones. Each is divided by the geometric mean of
            its norms, which changes no prediction without a bias and makes the slopes comparable.
        class_counts: (C,); classes without a sample are left out.
        ax: matplotlib axes; default a new figure.
        width: of a new figure in inches, to be saved.

    Raises:
        DataError: a head has another number of classes.
        UsageError: matplotlib is not installed.
    """
    ax = axes_for(ax, (5.6, 4.0), width)
    counts = np.asarray(class_counts, dtype=np.float64)
    known = counts > 0
    for number, (name, head) in enumerate(heads.items()):
        norms = head.norms()
        if len(norms) != len(counts):
            raise DataError(f"head '{name}' has {len(norms)} classes, but class_counts has {len(counts)}")
        drawn = known & (norms > 0)
        relative = norms[drawn] / np.exp(np.log(norms[drawn]).mean())
        slope, height = np.polyfit(np.log(counts[drawn]), np.log(relative), 1)
        ends = np.array([counts[drawn].min(), counts[drawn].max()])
        style = series(number)
        ax.plot(ends, np.exp(height) * ends**slope, color=style["color"], linewidth=1, alpha=0.6)
        style |= {"linestyle": "", "label": f"{name}: slope {slope:+.2f}"}
        ax.plot(counts[drawn], relative, markersize=5, alpha=0.85, markeredgewidth=0, **style)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("training samples of the class")
    ax.set_ylabel("weight norm / geometric mean")
    _log_ticks(ax.xaxis)
    _log_ticks(ax.yaxis)
    ax.grid(alpha=0.3, linewidth=0.6)
    ax.legend(frameon=False, fontsize=letters(ax))
    return plain(ax)


def _log_ticks(axis: Any) -> None:
    """Few round numbers on a logarithmic axis, written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high / low < 1e3 else (1,)
    axis.set_major_locator(LogLocator(subs=subs) if high / low > 5 else MaxNLocator(7, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _share_axis(axis: Any) -> None:
    """An axis of fractions, as percent."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 6):g} %"))
    axis.grid(alpha=0.3, linewidth=0.6)
    axis.axes.set_axisbelow(True)
