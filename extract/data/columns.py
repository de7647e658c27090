"""Rows of a table with a column of texts or of sounds: .csv, .parquet, or a data set that ``datasets`` saved."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError, UsageError
from ltpost.extract.data.class_names import numbered
from ltpost.extract.data.datasets import dataset_in, load_dataset_folder
from ltpost.extract.data.lists import list_in
from ltpost.extract.data.source import check_split, train_beside
from ltpost.extract.messages import need, reading

#: what columns of each kind are usually called, the likeliest first
USUAL = {
    "text": ("text", "sentence", "content", "review", "question", "utterance", "document", "title"),
    "audio": ("audio", "path", "file", "filename", "speech"),
}
LABELS = ("label", "labels", "target", "class", "category", "intent", "y")
TABLES = (".csv", ".parquet")


@dataclass
class ColumnRows:
    """Samples ``(value, …, label)`` of one split, by number; a data set for a DataLoader.

    Args:
        name: where they come from.
        values: for each column that is read its N values: texts, or sounds as a path, bytes, or a mapping of either.
        labels: (N,).
        class_names: C names, or None.
        train_labels: of the train split beside, or None where there is none.
        fingerprint: sha256 of what identifies the rows and their order.
        root: the folder that paths start from.
    """

    name: str
    values: Sequence[Any]
    labels: NDArray[np.int64]
    class_names: list[str] | None
    train_labels: NDArray[np.int64] | None
    fingerprint: str
    root: Path

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        return (*(column[row] for column in self.values), int(self.labels[row]))


def open_columns(
    data: str | os.PathLike[str],
    split: str,
    kind: str,
    *,
    list_file: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] | None = None,
) -> ColumnRows:
    """The rows of one split.

    Args:
        data: a folder with ``<split>.csv``, ``<split>.parquet`` or a data set ``<split>/`` saved by datasets.
        split: its name.
        kind: "text" or "audio".
        list_file: the table itself.
        root: the folder that the paths of sounds start from; default ``data``.
        column: that holds the texts or sounds, or two with a comma between for pairs of texts; found where None.
        label_column: found where None.
        class_names: that texts among the labels are numbered by.

    Raises:
        UsageError: there is no such split, or a column cannot be told.
        DataError: the file cannot be read, or labels are missing.
    """
    check_split(split)
    folder = Path(data)
    table_file = list_in(folder, split, TABLES) if list_file is None else Path(list_file)
    place = dataset_in(folder, split) if list_file is None else None
    if place is None and table_file is None:
        entries = (
            ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        )
        raise UsageError(
            f"{folder}: holds no table of split '{split}' ({split}.csv, {split}.parquet, or {split}/ saved by "
            f"datasets); there is {entries or 'nothing'}; see split=, list_file="
        )
    file = place or table_file
    assert file is not None
    table = _opened(file)
    columns = _columns(file, table, kind, column, label_column)
    label = columns.pop()
    train = (dataset_in(folder, "train") if place else train_beside(file, split)) if split != "train" else file
    others = table[label] if train == file else _labels_of(train, label) if train is not None else None
    names = class_names or table.class_names(label)
    if names is None and others is not None and others.dtype.kind in "OSU":
        names = sorted({str(text) for text in others})  # of train, which has every class
    with reading(file, "a table with labels"):
        labels, names = numbered(str(file), table[label], names)
        train_labels = None if others is None else numbered(str(train), others, names)[0]
    values = [table[one] for one in columns]
    return ColumnRows(
        f"{file}, column {' and '.join(columns)}",
        values,
        labels,
        names,
        train_labels,
        table.fingerprint(columns, labels),
        Path(root) if root is not None else folder,
    )


def open_values(file: Path, kind: str, column: str | None = None) -> list[Sequence[Any]]:
    """The texts or sounds of a table without labels; arguments as for :func:`open_columns`.

    Raises:
        UsageError: a column cannot be told.
        DataError: the file cannot be read, or has no rows.
    """
    table = _opened(file)
    values = [table[one] for one in _value_columns(file, table, kind, column, None)]
    if len(values[0]) == 0:
        raise DataError(f"{file}: has no rows")
    return values


class _Frame:
    """A table of pandas."""

    def __init__(self, file: Path):
        import pandas as pd

        with reading(file, "a table"):
            try:
                self.frame: Any = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
            except ImportError:
                raise need("pyarrow", f"{file}: reading Parquet", "parquet") from None
        self.kinds = {
            str(name): "text" if self.frame[name].dtype.kind in "OSUT" else str(self.frame[name].dtype)
            for name in self.frame.columns
        }

    def __getitem__(self, column: str) -> NDArray[Any]:
        values = self.frame[column]
        return np.asarray(values.to_numpy(dtype=object) if self.kinds[column] == "text" else values.to_numpy())

    def class_names(self, _: str) -> list[str] | None:
        return None

    def fingerprint(self, columns: Sequence[str], labels: NDArray[np.int64]) -> str:
        digest = hashlib.sha256(labels.tobytes())
        for column in columns:
            for value in self[column]:
                digest.update(repr(value).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


class _DataSet:
    """A data set of the package datasets."""

    def __init__(self, folder: Path):
        self.rows = load_dataset_folder(folder)
        kinds = {name: type(feature).__name__ for name, feature in self.rows.features.items()}
        for name, kind in kinds.items():
            if kind == "Audio":  # decoded here, as files are
                self.rows = self.rows.cast_column(name, type(self.rows.features[name])(decode=False))
        texts = {name for name, feature in self.rows.features.items() if getattr(feature, "dtype", "") == "string"}
        self.kinds = {
            name: "audio" if kind == "Audio" else "text" if name in texts else kind for name, kind in kinds.items()
        }

    def __getitem__(self, column: str) -> Any:
        values = self.rows[column]
        of_numbers = self.kinds[column] not in ("text", "audio")
        return np.asarray(values[:]) if of_numbers else values

    def class_names(self, column: str) -> list[str] | None:
        return getattr(self.rows.features[column], "names", None)

    def fingerprint(self, columns: Sequence[str], labels: NDArray[np.int64]) -> str:
        return hashlib.sha256(f"{self.rows._fingerprint} {columns}".encode() + labels.tobytes()).hexdigest()


def _opened(file: Path) -> _Frame | _DataSet:
    if not file.is_dir() and file.suffix not in TABLES:
        raise UsageError(f"list_file= must be a .csv or .parquet table, but is {file}")
    return _DataSet(file) if file.is_dir() else _Frame(file)


def _labels_of(file: Path, column: str) -> NDArray[Any]:
    table = _opened(file)
    if column not in table.kinds:
        raise DataError(
            f"{file}: must have a column '{column}' like the other splits, but has {', '.join(table.kinds)}"
        )
    return np.asarray(table[column])


def _columns(
    file: Path, table: _Frame | _DataSet, kind: str, column: str | None, label_column: str | None
) -> list[str]:
    """The columns that are read, and that of the labels."""
    label = label_column or next((name for name in LABELS if name in table.kinds), None)
    wanted = _value_columns(file, table, kind, column, label)
    if label is None:
        raise UsageError(
            f"{file}: which column holds the labels cannot be told; name it with label_column=; there is "
            f"{_listed(table)}"
        )
    _check_is_there(file, table, label)
    return [*wanted, label]


def _value_columns(file: Path, table: _Frame | _DataSet, kind: str, column: str | None, label: str | None) -> list[str]:
    """The columns that hold the texts or sounds."""
    wanted = [name.strip() for name in column.split(",")] if column is not None else []
    if not wanted:
        likely = [name for name, found in table.kinds.items() if found in ("text", kind) and name != label]
        usual = [name for name in USUAL[kind] if name in likely]
        exact = [name for name in likely if table.kinds[name] == kind == "audio"]
        wanted = (exact or usual or (likely if len(likely) == 1 else []))[:1]
    if not wanted:
        raise UsageError(
            f"{file}: which column holds the {kind} cannot be told; name it with column=; there is {_listed(table)}"
        )
    for name in wanted:
        _check_is_there(file, table, name)
    return wanted


def _check_is_there(file: Path, table: _Frame | _DataSet, name: str) -> None:
    if name not in table.kinds:
        raise UsageError(f"{file}: has no column '{name}', only {_listed(table)}")


def _listed(table: _Frame | _DataSet) -> str:
    return ", ".join(f"{name} ({found})" for name, found in table.kinds.items())
