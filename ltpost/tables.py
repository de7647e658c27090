"""Tables of text, and how a figure is written in them: percent with two decimals, "–" where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

#: figure to its heading, in the order of the field
HEADINGS = {"many": "Many", "medium": "Medium", "few": "Few", "all": "All", "top1": "Top-1"}


def percent(value: float) -> str:
    """A fraction as percent with two decimals, "–" for NaN.

    Sums in different orders may differ in the last digit of a float, so it is rounded twice.

    >>> percent(0.71987), percent(0.1 + 0.2) == percent(0.3), percent(-1e-9)
    ('71.99', True, '0.00')
    """
    return "–" if np.isnan(value) else f"{round(round(100 * value, 9), 2) + 0.0:.2f}"


def curve_table(parameter: str, values: Sequence[float], rows: Sequence[Any]) -> str:
    """Figures against a hyperparameter, as text."""
    places = max(len(f"{value:g}".partition(".")[2]) for value in values)
    exact = any("e" in f"{value:g}" for value in values)
    cells = [
        [f"{value:g}" if exact else f"{value:.{places}f}", *(percent(getattr(row, name)) for name in HEADINGS)]
        for value, row in zip(values, rows, strict=True)
    ]
    return text_table([parameter, *HEADINGS.values()], cells)


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Columns aligned right, the first ``left`` of them left."""
    widths = [max(len(row[k]) for row in [headings, *rows]) for k in range(len(headings))]
    keep = [k for k, width in enumerate(widths) if width]
    lines = [
        "  ".join(row[k].ljust(widths[k]) if k < left else row[k].rjust(widths[k]) for k in keep)
        for row in [headings, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)
