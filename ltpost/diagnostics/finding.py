"""What a diagnostic finds: a small table, figures for programs, values per class, and a picture of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ltpost.figures import letters, new_axes
from ltpost.heads import Array
from ltpost.tables import Table


@dataclass(frozen=True)
class Finding:
    """The result of one diagnostic.

    Attributes:
        key: name of the diagnostic.
        title: what it shows, and the variant of its definition.
        headings: of the table.
        rows: of the table; numbers are printed with four digits.
        values: figures by name: numbers, lists and mappings.
        per_class: values of every class by name, (C,) each; NaN where a class has none.
        picture: draws it into matplotlib axes, or into a new figure, and returns the axes.
    """

    key: str
    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    values: Mapping[str, Any]
    picture: Callable[[Any], Any]
    per_class: Mapping[str, Array] = field(default_factory=dict)

    def plot(self, ax: Any = None, *, width: float | None = None) -> Any:
        """Draw it; returns the matplotlib axes.

        Args:
            ax: matplotlib axes; default a new figure.
            width: of a new figure in inches, to be saved.

        Raises:
            UsageError: matplotlib is not installed.
        """
        ax = self.picture(ax if ax is not None or width is None else new_axes(width, 0.7 * width))
        ax.set_title(self.key.replace("_", " "), loc="left", fontsize=letters(ax))
        return ax

    def as_dict(self) -> dict[str, Any]:
        """For JSON: NaN becomes null."""
        return {"title": self.title, **plain(dict(self.values)), "per_class": plain(dict(self.per_class))}

    def table(self) -> Table:
        """The table, for printing."""
        cells = [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in self.rows]
        return Table(f"{self.key}: {self.title}", self.headings, cells, left=1)

    def records(self) -> list[dict[str, Any]]:
        """One flat record per row of the table, for CSV."""
        return [{"diagnostic": self.key, **dict(zip(self.headings, row, strict=True))} for row in self.rows]

    def __repr__(self) -> str:
        return f"Finding({self.key}: {', '.join(self.values)})"

    def _repr_html_(self) -> str:
        return self.table().html()

    def __str__(self) -> str:
        return self.table().text()


def number(value: float) -> str:
    """Four digits, "–" for NaN.

    >>> number(0.123456), number(12345.6), number(-0.00001)
    ('0.1235', '12,346', '-1e-05')
    """
    if np.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value + 0.0:.4g}"


def plain(value: Any) -> Any:
    """Numbers, lists and mappings that JSON can hold; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def correlation(x: Array, y: Array) -> tuple[float, float]:
    """Slope of the line through points, and R²; NaN where there is none."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 2 or np.ptp(x) == 0:
        return np.nan, np.nan
    slope = np.cov(x, y)[0, 1] / x.var(ddof=1)
    spread = ((y - y.mean()) ** 2).sum()
    residual = ((y - y.mean() - slope * (x - x.mean())) ** 2).sum()
    return float(slope), float(1 - residual / spread) if spread > 0 else np.nan
