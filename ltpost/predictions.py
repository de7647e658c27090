"""Answers of a head to rows without labels: the most probable classes of every row."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, UsageError
from ltpost.heads import Array, Head
from ltpost.heads.arrays import probabilities
from ltpost.heads.blocks import score_blocks
from ltpost.output import replacing
from ltpost.tables import Table, percent, write_csv

ENDINGS = (".csv", ".json", ".parquet")
SHOWN = 50  # rows that a table shows


@dataclass(frozen=True)
class Predictions:
    """The k most probable classes of every row.

    Attributes:
        names: of N rows.
        classes: (N, k), the most probable first; -1 for a row that could not be read.
        probabilities: (N, k), fractions; NaN for a row that could not be read.
        class_names: C names, or None.
        errors: number of a row to why it could not be read.
    """

    names: Sequence[str]
    classes: NDArray[np.int64]
    probabilities: Array
    class_names: Sequence[str] | None
    errors: dict[int, str]

    def __len__(self) -> int:
        return len(self.names)

    def _name(self, number: int) -> str:
        return str(number) if self.class_names is None else self.class_names[number]

    def as_dict(self) -> list[dict[str, Any]]:
        """For JSON: every row with its classes, or with why it could not be read."""
        rows: list[dict[str, Any]] = []
        for k, name in enumerate(self.names):
            row: dict[str, Any] = {"path": name}
            if k in self.errors:
                rows.append({**row, "error": self.errors[k]})
                continue
            pairs = zip(self.classes[k].tolist(), self.probabilities[k].tolist(), strict=True)
            row["classes"] = [{"class": c, "name": self._name(c), "probability": p} for c, p in pairs]
            rows.append(row)
        return rows

    def records(self) -> list[dict[str, Any]]:
        """One flat record per row: ``class``, ``name``, ``probability``, then ``class_2`` and so on."""
        records = []
        for k, name in enumerate(self.names):
            record: dict[str, Any] = {"path": name}
            for place in range(self.classes.shape[1]):
                end, known = ("" if place == 0 else f"_{place + 1}"), k not in self.errors
                number = int(self.classes[k, place])
                record[f"class{end}"] = number if known else None
                record[f"name{end}"] = self._name(number) if known else None
                record[f"probability{end}"] = float(self.probabilities[k, place]) if known else None
            records.append({**record, **({"error": self.errors.get(k)} if self.errors else {})})
        return records

    def to_frame(self) -> Any:
        """A pandas DataFrame of :meth:`records`."""
        import pandas as pd

        return pd.DataFrame(self.records())

    def table(self) -> Table:
        """The first rows, each with its most probable class and those after it."""
        places = self.classes.shape[1]
        rows = []
        for k in range(min(len(self), SHOWN)):
            if k in self.errors:
                rows.append([self.names[k], "unreadable", "–", ""])
                continue
            cells = [
                f"{self._name(c)} {percent(p)}" for c, p in zip(self.classes[k], self.probabilities[k], strict=True)
            ]
            rows.append([self.names[k], self._name(self.classes[k, 0]), percent(self.probabilities[k, 0]),
                         ", ".join(cells[1:])])  # fmt: skip
        more = len(self) - len(rows)
        notes = [f"and {more:,} more; write all of them with --out FILE"] if more else []
        return Table("", ["row", "class", "%", "then" if places > 1 else ""], rows, left=2, notes=notes)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a .csv, .json or .parquet file, in one step.

        Raises:
            UsageError: another ending; pyarrow is not installed, which Parquet needs.
        """
        target = Path(path)
        check_ending(target)
        if target.suffix == ".csv":
            return write_csv(self.records(), target)
        with replacing(target, "out=") as partial:
            if target.suffix == ".json":
                partial.write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                return target
            try:
                self.to_frame().to_parquet(partial, index=False)
            except ImportError:
                raise UsageError(f"{target}: Parquet needs pyarrow; install it with: pip install pyarrow") from None
        return target


def check_ending(path: Path) -> None:
    """Raise UsageError unless predictions can be written to a file of this name."""
    if path.suffix not in ENDINGS:
        raise UsageError(f"out= must end in {', '.join(ENDINGS)}, but is {path}")


def predict_rows(head: Head, rows: FeatureSet, *, top: int = 5) -> Predictions:
    """The most probable classes of the rows of a feature set; their labels are not looked at.

    Args:
        head: any head.
        rows: N rows.
        top: k, how many classes.

    Raises:
        DataError: the rows do not hold what the head reads, or have another number of classes.
        UsageError: ``top`` is less than 1.
    """
    if head.num_classes != rows.num_classes and rows.num_features is None:
        raise DataError(
            f"{rows.name}: has C = {rows.num_classes} classes, but the head has {head.num_classes}; it was made for "
            "other features"
        )
    blocks = (scores for _, scores in score_blocks(head, rows))
    names = rows.paths or [str(number) for number in rows.samples]
    return most_probable(blocks, head, names, top=top, class_names=rows.class_names)


def most_probable(
    blocks: Iterable[Array],
    head: Head,
    names: Sequence[str],
    *,
    top: int = 5,
    class_names: Sequence[str] | None = None,
    errors: dict[int, str] | None = None,
) -> Predictions:
    """The most probable classes, from blocks of logits.

    Args:
        blocks: logits (n, C) of the rows that could be read, in their order.
        head: that gave them; its temperature or calibration applies.
        names: of all N rows.
        top: k, how many classes; at most C.
        class_names: C names, or None.
        errors: number of a row to why it could not be read.

    Raises:
        UsageError: ``top`` is less than 1.
    """
    if top < 1:
        raise UsageError(f"top= must be at least 1, but is {top}")
    top, errors = min(top, head.num_classes), dict(errors or {})
    classes, chances = [np.empty((0, top), np.int64)], [np.empty((0, top))]
    for scores in blocks:
        # a calibration with shifts may order classes otherwise; the head's own order is what it answers
        order = np.argsort(-np.asarray(scores, dtype=np.float64), axis=1, kind="stable")[:, :top]
        classes.append(order)
        chances.append(np.take_along_axis(probabilities(scores, head.info), order, axis=1))
    every = np.full((len(names), top), -1, dtype=np.int64)
    share = np.full((len(names), top), np.nan)
    readable = np.setdiff1d(np.arange(len(names)), list(errors))
    every[readable], share[readable] = np.concatenate(classes), np.concatenate(chances)
    names_of = None if class_names is None or len(class_names) != head.num_classes else list(class_names)
    return Predictions(list(names), every, share, names_of, errors)
