"""Methods against one of them on the same rows: the difference of a figure, its interval, and p corrected by Holm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltpost.errors import UsageError
from ltpost.report.judgement import Judgement
from ltpost.scores.metrics import FIGURES
from ltpost.scores.paired import Difference, holm, paired_difference
from ltpost.tables import HEADINGS, signed

BEST = "best"


@dataclass(frozen=True)
class Comparison:
    """One method against another on the same rows.

    Attributes:
        against: the name of the other.
        difference: the figure less that of the other, its 95 % interval, and p.
        p_holm: p, corrected for all comparisons of the table.
    """

    against: str
    difference: Difference
    p_holm: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON: fractions."""
        low, high = self.difference.interval
        return {"against": self.against, "difference": self.difference.value, "interval95": [low, high],
                "p": self.difference.p, "p_holm": self.p_holm}  # fmt: skip

    def record(self) -> dict[str, Any]:
        """For CSV."""
        low, high = self.difference.interval
        return {"against": self.against, "difference": self.difference.value, "difference_low": low,
                "difference_high": high, "p": self.difference.p, "p_holm": self.p_holm}  # fmt: skip

    @property
    def cells(self) -> list[str]:
        """Two cells of a table: the difference with its interval, in points; and the corrected p."""
        low, high = (signed(end, 1) for end in self.difference.interval)
        return [f"{signed(self.difference.value)} ({low} to {high})", p_text(self.p_holm)]


def compared(results: Sequence[Judgement], against: str, figure: str = "all") -> dict[str, Comparison]:
    """Every method of one split against one of them, by name; that one itself is left out.

    Args:
        results: of one split, on the same rows.
        against: the name of a method among them, or "best": the one whose figure is the largest on these rows.
        figure: one of ``metrics.FIGURES``.

    Raises:
        UsageError: there is no such method or figure, or the figure is not defined here.
    """
    if figure not in FIGURES:
        raise UsageError(f"figure= must be one of {', '.join(FIGURES)}, but is {figure!r}")
    known = {result.name: result for result in results if result.correct is not None and result.rows is not None}
    values = {name: getattr(result.figures, figure) for name, result in known.items()}
    if not known or np.isnan(list(values.values())).all():
        raise UsageError(f"figure= {figure} is not defined on {results[0].split}, so methods cannot be compared by it")
    if against != BEST and against not in known:
        raise UsageError(f"against= must be {BEST} or one of {', '.join(known)}, but is {against!r}")
    other = known[max(values, key=lambda name: values[name]) if against == BEST else against]
    rows, differences = other.rows, {}
    assert rows is not None
    for name, result in known.items():
        if result is not other and result.correct is not None and other.correct is not None:
            differences[name] = paired_difference(
                other.correct,
                result.correct,
                rows.labels,
                rows.groups,
                num_classes=rows.num_classes,
                sample=rows.sample,
            )[figure]
    corrected = holm([difference.p for difference in differences.values()])
    pairs = zip(differences.items(), corrected, strict=True)
    return {name: Comparison(other.name, difference, p) for (name, difference), p in pairs}


def headings(against: str, figure: str, comparisons: int) -> list[str]:
    """Of the two columns."""
    return [f"{HEADINGS[figure]} - {against}", "p (Holm)" if comparisons > 1 else "p"]


def note(comparisons: int, against: str, figure: str) -> str:
    """What the two columns are."""
    chosen = f"{against} is the best on these very rows; " if against == BEST else ""
    corrected = f", corrected by Holm for {comparisons} comparisons" if comparisons > 1 else ""
    return (
        f"{chosen}difference of {HEADINGS[figure]} in points with its 95 % interval, on the same rows; p of McNemar's "
        f"exact test (rows weighted as in {HEADINGS[figure]}){corrected}"
    )


def p_text(p: float) -> str:
    """A p value as tables have it.

    >>> p_text(0.0004), p_text(0.0312), p_text(1.0)
    ('<.001', '.031', '1.000')
    """
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
