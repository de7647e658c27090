"""Figures: their colours, axes, letters and files. What is drawn into them is in :mod:`ltpost.plots`.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; a group has the same colour everywhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ltpost.errors import UsageError
from ltpost.output import replacing

COLOURS = {"many": "#0072B2", "medium": "#56B4E9", "few": "#D55E00", "all": "#404040"}
SERIES = ("#404040", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")
MARKERS = "osD^vP"
ENDINGS = (".pdf", ".png", ".svg")


def axes_for(ax: Any, size: tuple[float, float], width: float | None) -> Any:
    """``ax``, or axes of a new figure of ``size`` in inches; to be saved, where a ``width`` is given instead.

    A figure of another width has letters of another size, and the same proportions.
    """
    if ax is not None:
        return ax
    if width is None:
        return _with_letters(_pyplot().subplots(figsize=size, layout="constrained")[1])
    return new_axes(width, width * size[1] / size[0])


def new_axes(width: float, height: float) -> Any:
    """Axes of a new figure (inches) that no window shows and no list of open figures holds; to be saved."""
    _pyplot()
    from matplotlib.figure import Figure

    return _with_letters(Figure(figsize=(width, height), layout="constrained").subplots())


def _with_letters(ax: Any) -> Any:
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_tick_params(labelsize=letters(ax))
        axis.label.set_size(letters(ax))
    return ax


def letters(ax: Any) -> float:
    """Points of the letters: smaller in a figure for one column of a paper."""
    return 7.5 if ax.figure.get_figwidth() < 4.5 else 9.0


def plain(ax: Any) -> Any:
    """Without the upper and right border."""
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def series(number: int) -> dict[str, Any]:
    """Colour, marker and line of one of many series; the first 36 differ."""
    again = number // len(SERIES)
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": MARKERS[(number + again) % len(MARKERS)],
        "linestyle": ("-", (0, (5, 2)), (0, (1, 1.2)))[again % 3],
    }


def save(ax: Any, path: str | os.PathLike[str]) -> Path:
    """Write the figure of axes, in one step; PDF, PNG or SVG by the ending of the path.

    Raises:
        UsageError: another ending.
        DataError: the file cannot be written.
    """
    path = check_ending(path)
    with replacing(path, keep_ending=True) as partial, _pyplot().rc_context({"pdf.fonttype": 42}):
        ax.figure.savefig(partial, dpi=200)
    return path


def check_ending(path: str | os.PathLike[str], argument: str = "plot", *more: str) -> Path:
    """The path of a picture.

    Args:
        path: of the file.
        argument: that named it.
        *more: endings of what is no picture but may be written, too.

    Raises:
        UsageError: its ending is not one of ``ENDINGS`` or ``more``.
    """
    path, (*first, last) = Path(path), (*more, *ENDINGS)
    if path.suffix.lower() not in (*first, last):
        raise UsageError(f"{argument}= must end in {', '.join(first)} or {last}, but is {path}")
    return path


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise UsageError('pictures need matplotlib; install it with: pip install "ltpost[demo]"') from None
    return plt
