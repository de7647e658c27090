"""What the ladder found: its rungs, the best head, the best linear head, and their figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltpost.heads import Head
from ltpost.ladder.candidates import Candidate
from ltpost.ladder.climb import Correct
from ltpost.report.results import Report, Result, Style
from ltpost.scores.paired import Difference
from ltpost.tables import Table, percent, render

_NAME = 26  # letters of a name in the table


@dataclass(frozen=True)
class Step:
    """One rung, as it was tried.

    Attributes:
        name: of the rung.
        candidates: those that could be made.
        best: the best of them on val, or None where none could be made.
        score: its figure, a fraction, each row judged by the head of its fold.
        gain: how much better it is than what was kept before, or None for the first.
        kept: whether that is beyond noise.
    """

    name: str
    candidates: tuple[Candidate, ...]
    best: Candidate | None
    score: float | None
    gain: Difference | None
    kept: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON; fractions."""
        return {
            "rung": self.name,
            "tried": [candidate.label for candidate in self.candidates],
            "best": None if self.best is None else self.best.label,
            "val": self.score,
            "gain": None if self.gain is None else self.gain.value,
            "interval90": None if self.gain is None else list(self.gain.interval),
            "kept": self.kept,
        }


@dataclass
class Winner:
    """What is kept in the end.

    Attributes:
        candidate: it.
        correct: (N,) which rows of val are right, each by what would have been kept without it.
        expected: the figure of ``correct``: what to expect on unseen rows, a fraction.
        gain: over the joint classifier, on ``correct``; None where that is not known.
        in_sample_gain: the same, of the head itself on the rows that it was chosen on: too good.
        head: the head; of a transductive one, the head for the reported rows.
    """

    candidate: Candidate
    correct: Correct
    expected: float
    gain: Difference | None
    in_sample_gain: float | None

    def __post_init__(self) -> None:
        self.head: Head = self.candidate.head

    @property
    def kept_share(self) -> float | None:
        """The share of the in-sample gain that is expected to hold on unseen rows."""
        if self.gain is None or self.in_sample_gain is None or self.in_sample_gain <= 0:
            return None
        return self.gain.value / self.in_sample_gain

    def as_dict(self) -> dict[str, Any]:
        """For JSON; fractions."""
        return {
            "head": self.candidate.label,
            "linear": self.candidate.is_linear,
            "fits_on_val": self.candidate.fits_on_val,
            "transductive": self.candidate.transductive,
            "mean_of_views": self.candidate.both_views,
            "expected": self.expected,
            "expected_gain": None if self.gain is None else self.gain.value,
            "interval90": None if self.gain is None else list(self.gain.interval),
            "in_sample_gain": self.in_sample_gain,
            "kept_share": self.kept_share,
            "signature": self.head.info.get("signature"),
        }

    def __str__(self) -> str:
        text = f"{self.candidate.label}\n  expected on unseen rows: {percent(self.expected)} %"
        if self.gain is not None and self.in_sample_gain is not None:
            text += f", {_points(self.gain)} over joint (90 %, cross-fitted)"
            share = "" if self.kept_share is None else f": {100 * self.kept_share:.0f} % of that is expected to hold"
            text += f"\n  on the rows of the choice itself it gains {_signed(self.in_sample_gain)}{share}"
        return text


@dataclass(frozen=True)
class Ladder:
    """The rungs, and what is kept.

    Attributes:
        steps: the rungs in order.
        overall: the best head; None where nothing is better than the joint classifier, or with ``only="linear"``.
        linear: the best linear layer, which ``ltpost export`` writes.
        results: figures on test, and cross-fitted on val.
        notes: what a reader has to know.
        seconds: it took.
        num_rows: of val.
        select: the figure.
    """

    steps: Sequence[Step]
    overall: Winner | None
    linear: Winner | None
    results: Sequence[Result]
    notes: tuple[str, ...]
    seconds: float
    num_rows: int
    select: str

    @property
    def report(self) -> Report:
        """The results as a table."""
        return Report(self.results)

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints: fractions in 0..1."""
        return {
            "select": self.select,
            "val_rows": self.num_rows,
            "rungs": [step.as_dict() for step in self.steps],
            "best": None if self.overall is None else self.overall.as_dict(),
            "best_linear": None if self.linear is None else self.linear.as_dict(),
            "results": self.report.as_dict(),
            "notes": list(self.notes),
            "seconds": self.seconds,
        }

    @property
    def heads(self) -> dict[str, Head]:
        """``best`` and ``best-linear``, those of them that there are."""
        named = {"best": self.overall, "best-linear": self.linear}
        return {name: winner.head for name, winner in named.items() if winner is not None}

    def save(self, folder: str | os.PathLike[str]) -> dict[str, Path]:
        """Write ``best.safetensors`` and ``best-linear.safetensors``, those of them that there are.

        Raises:
            DataError: a file cannot be written.
        """
        return {name: head.save(Path(folder) / f"{name}.safetensors") for name, head in self.heads.items()}

    def kept_before(self, rung: str) -> Candidate | None:
        """What is kept before a rung is tried; None where that is the joint classifier."""
        current = None
        for step in self.steps:
            if step.name == rung:
                break
            current = step.best if step.kept else current
        return current

    def ladder_table(self) -> Table:
        """The rungs."""
        rows = []
        for step in self.steps:
            score = "–" if step.score is None else percent(step.score)
            gain = "" if step.gain is None else _points(step.gain)
            name = "nothing to try" if step.best is None else step.best.name
            label = name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
            rows.append([step.name, label, score, gain, "kept" if step.kept else "–"])
        title = f"ladder on val, {self.num_rows:,} rows, each judged by a head that was chosen on other folds"
        return Table(title, ["rung", "best of it", self.select, "gain, 90 % interval", ""], rows, left=2)

    def blocks(self, style: Style = Style()) -> list[Table | str]:  # noqa: B008 - frozen
        """Everything a reader needs: the rungs, both heads, the figures, what to know about them."""
        blocks: list[Table | str] = [self.ladder_table()]
        if self.overall is not None:
            blocks.append(f"best: {self.overall}")
        elif self.linear is not None and any(step.best and not step.best.is_linear for step in self.steps):
            blocks.append("best: the joint classifier, nothing is better by more than noise")
        if self.linear is not None:
            blocks.append(f"best linear layer, for ltpost export: {self.linear}")
        if self.results:
            blocks += self.report.blocks(style)
        return [*blocks, *(f"note: {note}" for note in self.notes)]

    def summary(self) -> str:
        """:meth:`blocks` as text, as wide as it is."""
        return render(self.blocks(), width=None)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()

    def __repr__(self) -> str:
        best, linear = (None if one is None else one.candidate.name for one in (self.overall, self.linear))
        return f"Ladder(best: {best}, best linear: {linear}; {len(self.steps)} rungs)"

    def __str__(self) -> str:
        return self.summary()


def _signed(value: float) -> str:
    text = percent(value)
    return text if text.startswith("-") else f"+{text}"


def _points(difference: Difference) -> str:
    low, high = difference.interval
    return f"{_signed(difference.value)} ({_signed(low)} to {_signed(high)})"
