"""Accuracy against one parameter, for all rows of a split: what an exact and a tabulated curve have in common.

What this module does not do: know the figures (``exact``: as step functions; ``tabulated``: at some values).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost import plots
from ltpost.data.priors import ShotGroups
from ltpost.heads import Array
from ltpost.scores.goal import Goal
from ltpost.scores.metrics import FIGURES, Figures
from ltpost.tables import HEADINGS


@dataclass(frozen=True)
class Best:
    """The best value of a parameter, in the middle of the near-best ones, ``low`` ≤ t ≤ ``high``.

    ``figures`` are those of the curve there, ``score`` is the selected one of them (less than 0 for a cost).
    ``interval`` is the 95 % bootstrap interval of the value, where one was asked for. ``others`` are the values of the
    other parameters, where several were chosen together. ``missed`` is by how much limits are missed, summed.
    """

    value: float
    low: float
    high: float
    score: float
    figures: Figures
    interval: tuple[float, float] | None = None
    others: Mapping[str, float] = field(default_factory=dict)
    missed: float = 0.0

    def __repr__(self) -> str:
        return f"Best({self.value:.6g}, near-best from {self.low:.4g} to {self.high:.4g}: {self.score:.4f})"

    @property
    def tau(self) -> float:
        """The value, by the name that it usually has."""
        return self.value


class Curve:
    """Accuracy against one parameter, for all rows of a split; the base of the exact and of the tabulated curve.

    Args:
        parameter: its name ("tau", "strength").
        labels: (N,).
        groups: many/medium/few-shot classes, or None.
        num_classes: C.
        sample: (N,), which sample a row shows where several rows are views of one; they are resampled together.
    """

    def __init__(
        self,
        parameter: str,
        labels: NDArray[np.int64],
        groups: ShotGroups | None,
        num_classes: int,
        sample: NDArray[np.int64] | None = None,
    ):
        self.parameter, self.labels, self.groups, self.num_classes = parameter, labels, groups, num_classes
        self.sample = sample

    #: whether figures are known at some values only
    is_tabulated = False

    def at(self, values: Iterable[float]) -> list[Figures]:
        """The figures at each of ``values``."""
        raise NotImplementedError

    def correct(self, value: float) -> NDArray[np.bool_]:
        """(N,), which rows are right at ``value``."""
        raise NotImplementedError

    def best(
        self, select: str | Goal = "all", low: float = -np.inf, high: float = np.inf, multiplicity: Array | None = None
    ) -> Best:
        """The middle of all near-best values within ``low`` ≤ t ≤ ``high``.

        Near-best are values whose figure is below the highest one by at most half a standard error of it: the rows
        cannot tell them apart, and the highest of them is mostly where noise is highest. Measured on CIFAR-100-LT over
        random splits with 5, 20 and 60 val rows per class, the middle gains .0 to .2 points of test accuracy over the
        middle of the highest plateau, for ``tnorm``, ``la``, ``mla``, ``mix`` and ``layers`` alike, and loses none. A
        whole standard error loses where a curve falls faster on one side (``mix``). Tabulated curves have few values,
        figures of answers no such error, and limits are kept exactly: there the best plateau is taken.

        Args:
            select: the figure to maximise, one of ``goal.GOALS``, or a goal.
            low: lower end of the range.
            high: upper end of the range.
            multiplicity: (N,), how often each row counts; default once. Other figures than the one selected by are
                then NaN.
        """
        raise NotImplementedError

    def predicted(self, value: float) -> NDArray[np.int64] | None:
        """(N,), the answer to each row at ``value``; None where it is not known."""
        return None

    def predicted_at(self, best: Best) -> NDArray[np.int64] | None:
        """(N,), the answer to each row at a value that :meth:`best` found; None where it is not known."""
        return self.along(best).predicted(best.value)

    def along(self, best: Best) -> Curve:
        """The curve of one parameter that ``best`` lies on: this one, unless several were chosen together."""
        return self

    def correct_at(self, best: Best) -> NDArray[np.bool_]:
        """(N,), which rows are right at a value that :meth:`best` found."""
        return self.along(best).correct(best.value)

    def bootstrap_best(
        self, select: str | Goal = "all", low: float = -np.inf, high: float = np.inf, *, num: int = 200, seed: int = 0
    ) -> tuple[float, float]:
        """95 % percentile interval of the best value, samples resampled within each class (``scores.bootstrap``).

        Resamples choose from a range that is wider by half on both sides, and the interval is then cut to the range:
        where the best value lies at an end of the range or beyond, the interval reaches that end. It always holds the
        value that is best without resampling.
        """
        margin = (high - low) / 2 if np.isfinite(low) and np.isfinite(high) else 0.0
        values = [best.value for best in self._best_of_resamples(select, low - margin, high + margin, num, seed)]
        least, greatest = np.quantile(values, 0.025, method="lower"), np.quantile(values, 0.975, method="higher")
        chosen = self.best(select, low, high).value
        return float(min(np.clip(least, low, high), chosen)), float(max(np.clip(greatest, low, high), chosen))

    def _best_of_resamples(self, select: str | Goal, low: float, high: float, num: int, seed: int) -> Iterator[Best]:
        """The best value of each resample."""
        raise NotImplementedError

    def grid(self) -> Array:
        """Values at which a table or a plot of the curve makes sense."""
        raise NotImplementedError

    def to_frame(self, values: Iterable[float] | None = None) -> Any:
        """A pandas DataFrame of the figures, one row per value (default: :meth:`grid`)."""
        import pandas as pd

        points = np.asarray(self.grid() if values is None else list(values), dtype=np.float64)
        rows = [vars(row) for row in self.at(points)]
        return pd.DataFrame(rows, columns=list(FIGURES), index=pd.Index(points, name=self.parameter))

    def plot(
        self,
        ax: Any = None,
        *,
        method: str = "",
        split: str = "",
        select: str = "all",
        best: Best | None = None,
        grid: Iterable[float] | None = None,
        width: float | None = None,
    ) -> Any:
        """Draw the curve of every figure; returns the matplotlib axes.

        Args:
            ax: matplotlib axes; default a new figure.
            method: whose curve it is, for the axis.
            split: where it was measured, for the axis.
            select: the figure whose best value is marked.
            best: that value, where it is known already.
            grid: values from the least to the greatest of which it is drawn; default :meth:`grid`.
            width: of a new figure in inches, to be saved.
        """
        marked = np.sort(self.grid() if grid is None else np.asarray(list(grid), dtype=np.float64))
        if self.is_tabulated:
            marked = np.sort([value for value in self.grid() if marked[0] <= value <= marked[-1]])
        values = marked if self.is_tabulated else np.linspace(marked[0], marked[-1], 801)
        rows = self.at(values)
        best = best or self.best(select, float(marked[0]), float(marked[-1]))
        headings = HEADINGS if self.groups is None else {**self.groups.headings, "all": HEADINGS["all"]}
        chosen = headings.get(select, HEADINGS.get(select, select))
        return plots.plot_curve(
            self.parameter,
            values,
            {name: np.array([getattr(row, name) for row in rows]) for name in FIGURES},
            best=best.value,
            plateau=(best.low, best.high),
            reached=f"cost {-best.score:.3g}" if select == "cost" else f"{chosen} {100 * best.score:.1f} %",
            marked=self.is_tabulated,
            headings=headings,
            method=method,
            split=split,
            ax=ax,
            width=width,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.parameter}: {len(self.labels):,} rows of {self.num_classes:,} classes)"

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(float_format=lambda value: f"{100 * value:.2f}", na_rep="–"))
