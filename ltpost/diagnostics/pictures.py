"""The pictures of diagnostics. They take numbers, draw into ``ax`` or a new figure, and return the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ltpost.data.priors import GROUPS
from ltpost.figures import COLOURS, letters, new_axes, plain, series
from ltpost.heads import Array
from ltpost.tables import HEADINGS


def against_counts(counts: Array, values: Mapping[str, Array], label: str, *, ax: Any = None) -> Any:
    """One point per class and series against its training samples, on a logarithmic axis.

    Args:
        counts: (C,); classes without a sample are left out.
        values: name of a series to its values, (C,).
        label: of the vertical axis.
        ax: matplotlib axes; default a new figure.
    """
    ax = new_axes(5.6, 4.0) if ax is None else ax
    known = counts > 0
    for number, (name, of_class) in enumerate(values.items()):
        style = {**series(number), "linestyle": ""}
        ax.plot(counts[known], of_class[known], markersize=4, alpha=0.8, label=name, **style)
    ax.set_xscale("log")
    ax.set_xlabel("training samples of the class")
    ax.set_ylabel(label)
    if len(values) > 1:
        ax.legend(frameon=False, fontsize=letters(ax))
    return _tidy(ax)


def by_group(values: Mapping[str, Mapping[str, float]], label: str, *, ax: Any = None) -> Any:
    """Bars of groups, side by side for every figure.

    Args:
        values: name of a figure to its value by group.
        label: of the vertical axis.
        ax: matplotlib axes; default a new figure.
    """
    ax = new_axes(max(4.0, 1.5 + 1.3 * len(values)), 3.8) if ax is None else ax
    width = 0.26
    for position, group in enumerate(GROUPS):
        heights = [figure.get(group, np.nan) for figure in values.values()]
        where = np.arange(len(values)) + (position - 1) * width
        ax.bar(where, np.nan_to_num(heights), 0.92 * width, color=COLOURS[group], label=HEADINGS[group])
    ax.set_xticks(range(len(values)), list(values))
    ax.set_ylabel(label)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.legend(frameon=False, fontsize=letters(ax))
    return _tidy(ax)


def group_matrix(rows: Sequence[str], columns: Sequence[str], values: Array, labels: tuple[str, str], ax: Any) -> Any:
    """A matrix of groups, its numbers written into it.

    Args:
        rows: their names.
        columns: their names.
        values: (rows, columns).
        labels: of the vertical and of the horizontal axis.
        ax: matplotlib axes; None for a new figure.
    """
    ax = new_axes(4.2, 3.6) if ax is None else ax
    ax.imshow(values, cmap="Blues", vmin=min(0.0, float(np.nanmin(values))), vmax=float(np.nanmax(values)) * 1.4 or 1.0)
    for row in range(len(rows)):
        for column in range(len(columns)):
            ax.text(column, row, f"{values[row, column]:.3f}", ha="center", va="center", fontsize=letters(ax))
    ax.set_xticks(range(len(columns)), list(columns))
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylabel(labels[0])
    ax.set_xlabel(labels[1])
    return ax


def _tidy(ax: Any) -> Any:
    ax.grid(axis="y", alpha=0.3, linewidth=0.6)
    ax.set_axisbelow(True)
    return plain(ax)
