"""Pictures: accuracy against a hyperparameter, the groups of every method, weight norms against class counts.

Every function draws into ``ax``, or into a new figure, and returns the axes. Colours are those of Okabe and Ito, which
colour-blind readers can tell apart; a group has the same colour everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError, UsageError
from ltpost.tables import HEADINGS

Array = NDArray[Any]

COLOURS = {"many": "#0072B2", "medium": "#56B4E9", "few": "#D55E00", "all": "#404040"}
SERIES = ("#404040", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")
MARKERS = "osD^vP"
_WIDE_RANGE = 50  # values that span more than this factor are drawn on a logarithmic axis


def plot_curve(
    parameter: str,
    values: Array,
    figures: Mapping[str, Array],
    *,
    best: float,
    plateau: tuple[float, float],
    score: float,
    marked: bool,
    ax: Any = None,
) -> Any:
    """Accuracy of every group against a hyperparameter, with the best plateau of the mean over classes.

    Args:
        parameter: name of the hyperparameter.
        values: (K,) ascending.
        figures: name of a figure to its fractions (K,); those of ``COLOURS`` are drawn.
        best: the best value.
        plateau: the first and the last value that are as good.
        score: the mean over classes there.
        marked: draw a marker at each value, as the figures are known there only.
        ax: matplotlib axes; default a new figure.

    Raises:
        UsageError: matplotlib is not installed.
    """
    ax = _axes(ax, (6.4, 4.0))
    ends: dict[str, float] = {}
    for name, colour in COLOURS.items():
        accuracy = figures[name]
        if np.isnan(accuracy).all():
            continue
        width = 2.4 if name == "all" else 1.6
        ax.plot(values, accuracy, color=colour, linewidth=width, marker="o" if marked else "", markersize=4)
        ends[name] = float(accuracy[-1])
    _label_ends(ax, float(values[-1]), ends)
    ax.axvspan(*plateau, color="#404040", alpha=0.15, linewidth=0)
    ax.axvline(best, color="#404040", linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set_title(f"best {parameter} {best:.3g}: {100 * score:.1f} %", loc="left", fontsize=10)
    if values[0] > 0 and values[-1] / values[0] > _WIDE_RANGE:
        ax.set_xscale("log")
    ax.set_xlabel(parameter)
    _percent_axis(ax)
    return _plain(ax)


def _label_ends(ax: Any, x: float, ends: Mapping[str, float]) -> None:
    """The name of every line at its right end, apart from one another."""
    bottom, top = ax.get_ylim()
    gap, lowest = 0.06 * (top - bottom), -np.inf
    for name in sorted(ends, key=lambda name: ends[name]):
        lowest = max(ends[name], lowest + gap)
        ax.annotate(
            HEADINGS[name],
            (x, lowest),
            xytext=(6, 0),
            textcoords="offset points",
            color=COLOURS[name],
            va="center",
            annotation_clip=False,
        )


def plot_groups(
    names: Sequence[str],
    figures: Mapping[str, Array],
    intervals: Mapping[str, Array],
    *,
    title: str = "",
    ax: Any = None,
) -> Any:
    """Bars of many/medium/few/all for every method, with 95 % intervals.

    Args:
        names: of M methods.
        figures: name of a figure to its fractions (M,); those of ``COLOURS`` are drawn.
        intervals: name of a figure to the ends of its interval, (M, 2).
        title: of the picture.
        ax: matplotlib axes; default a new figure.

    Raises:
        UsageError: matplotlib is not installed.
    """
    ax = _axes(ax, (max(4.0, 1.6 + 1.35 * len(names)), 3.8))
    width = 0.205
    for position, (name, colour) in enumerate(COLOURS.items()):
        where = np.arange(len(names)) + (position - 1.5) * width
        height, ends = figures[name], intervals[name].T
        reach = np.clip([height - ends[0], ends[1] - height], 0, None)
        ax.bar(where, np.nan_to_num(height), 0.92 * width, color=colour, label=HEADINGS[name])
        ax.errorbar(where, height, reach, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
        for x, value, top in zip(where, height, ends[1], strict=True):
            _bar_label(ax, x, value, top, light=name != "medium")
    ax.set_xticks(range(len(names)), list(names))
    ax.tick_params(axis="x", length=0)
    highest = max(float(np.nanmax(ends)) for ends in intervals.values() if not np.isnan(ends).all())
    ax.set_ylim(0, min(1.02, highest + 0.05))
    ax.set_title(title, loc="left", fontsize=10)
    ax.legend(ncols=len(COLOURS), frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, fontsize=9)
    _percent_axis(ax)
    return _plain(ax)


def _bar_label(ax: Any, x: float, value: float, top: float, *, light: bool) -> None:
    """The number at the foot of its bar, or above one that is too low for it; "–" where there is no bar."""
    style = {"ha": "center", "va": "bottom", "fontsize": 7.5}
    if np.isnan(value):
        ax.text(x, 0.01, "–", **style)
    elif value < 0.08:
        ax.text(x, top + 0.01, f"{100 * value:.1f}", **style)
    else:
        ax.text(x, 0.012, f"{100 * value:.1f}", color="white" if light else "black", **style)


class HasNorms(Protocol):
    """A head with weight norms, such as :class:`ltpost.LinearHead`."""

    def norms(self) -> Array:
        """‖w_c‖₂ of every class, (C,)."""


def plot_norms(heads: Mapping[str, HasNorms], class_counts: Array, ax: Any = None) -> Any:
    """Weight norm against training samples, one point per class, both axes logarithmic.

    Args:
        heads: name to head, usually the joint classifier and rebalanced ones. Each is divided by the geometric mean of
            its norms, which changes no prediction without a bias and makes the slopes comparable.
        class_counts: (C,); classes without a sample are left out.
        ax: matplotlib axes; default a new figure.

    Raises:
        DataError: a head has another number of classes.
        UsageError: matplotlib is not installed.
    """
    ax = _axes(ax, (5.6, 4.0))
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

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
        colour = SERIES[number % len(SERIES)]
        ax.plot(ends, np.exp(height) * ends**slope, color=colour, linewidth=1, alpha=0.6)
        marker = MARKERS[number % len(MARKERS)]
        label = f"{name}: slope {slope:+.2f}"
        ax.plot(counts[drawn], relative, marker, color=colour, label=label, markersize=5, alpha=0.85, markeredgewidth=0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("training samples of the class")
    ax.set_ylabel("weight norm / geometric mean")
    for axis, ratio in ((ax.xaxis, np.inf), (ax.yaxis, np.divide(*ax.get_ylim()[::-1]))):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if ratio > 5 else MaxNLocator(7, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    ax.grid(alpha=0.3, linewidth=0.6)
    ax.legend(frameon=False, fontsize=9)
    return _plain(ax)


def new_axes(width: float, height: float) -> Any:
    """Axes of a new figure (inches) that no window shows and no list of open figures holds; to be saved."""
    _pyplot()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots()


def _axes(ax: Any, size: tuple[float, float]) -> Any:
    """``ax``, or the axes of a new figure of ``size`` inches."""
    return _pyplot().subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise UsageError('pictures need matplotlib; install it with: pip install "ltpost[demo]"') from None
    return plt


def _percent_axis(ax: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.grid(axis="y", alpha=0.3, linewidth=0.6)
    ax.set_axisbelow(True)


def _plain(ax: Any) -> Any:
    """Without the upper and right border."""
    ax.spines[["top", "right"]].set_visible(False)
    return ax
