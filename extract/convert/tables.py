"""Tables with one row per row: .csv and .parquet, with a column of lists or one column for each number.

``f_0 … f_511`` are features, ``logit_0 …`` or ``logit_cat …`` logits, ``p_0 …`` or ``prob_cat …`` probabilities.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError, UsageError
from ltpost.extract.messages import need, reading, some

#: what the numbered columns of a matrix begin with
PREFIXES = {
    "features": ("f", "feature", "feat", "features", "x"),
    "logits": ("logit", "logits", "z", "score"),
    "probabilities": ("p", "prob", "proba", "probability"),
}
#: which of these may go before the name of a class; others begin the names of columns of any kind
BEFORE_NAMES = ("logit", "logits", "prob", "proba", "probability")


def pandas_for(path: Path) -> Any:
    """Pandas, which can read and write ``path``.

    Raises:
        UsageError: it is Parquet, and pyarrow is not installed.
    """
    import pandas as pd

    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise need("pyarrow", "Parquet", "parquet") from None
    return pd


def read_table(path: Path, column: str | None = None, label_column: str | None = None) -> dict[str, Any]:
    """The columns as arrays; the columns of a matrix as one array, with the names of its classes as ``class_names``.

    Args:
        path: .csv or .parquet.
        column: that of the scores, or several with commas between, in the order of the classes; found where None.
        label_column: that of the labels; found where None.

    Raises:
        UsageError: there is no such column.
        DataError: it cannot be read, or a matrix lacks columns or numbers.
    """
    pandas = pandas_for(path)
    with reading(path, "a table"):
        table = pandas.read_csv(path) if path.suffix == ".csv" else pandas.read_parquet(path)
    arrays: dict[str, Any] = {str(key): table[key].to_numpy() for key in table.columns}
    for key, values in arrays.items():
        if len(values) and isinstance(values[0], np.ndarray | list):
            try:
                arrays[key] = np.stack(values.tolist())
            except ValueError:
                raise DataError(f"{path}: the lists of a column must be equally long, but are not") from None
    scores = [name.strip() for name in column.split(",")] if column is not None else []
    for argument, name in [*(("column", name) for name in scores), ("label_column", label_column)]:
        if name is not None and name not in arrays:
            raise UsageError(f"{argument}= names '{name}', but {path} has the columns {', '.join(table.columns)}")
    if label_column is not None:
        arrays["labels"] = arrays.pop(label_column)
    if scores:
        stacked = arrays[scores[0]] if len(scores) == 1 else _stacked(path, arrays, scores)
        names = {"class_names": np.array(scores, object)} if len(scores) > 1 else {}
        return {"logits": stacked} | {key: arrays[key] for key in arrays if key not in scores} | names
    for matrix, prefixes in PREFIXES.items():
        found = _numbered_columns(path, list(arrays), prefixes)
        if found is None or matrix in arrays:
            continue
        names, columns = found
        arrays = {matrix: _stacked(path, arrays, columns)} | {k: v for k, v in arrays.items() if k not in columns}
        if names is not None and matrix != "features":
            arrays["class_names"] = np.array(names, object)
    return arrays


def _numbered_columns(
    path: Path, columns: Sequence[str], prefixes: Sequence[str]
) -> tuple[list[str] | None, list[str]] | None:
    """The names after the prefix (None where they are numbers) and the columns, in order; None without any."""
    numbers = _after(columns, prefixes, "[_.]([0-9]{1,9})")
    if not numbers:  # f0, f1, …; but a column f1 alone is something else
        plain = _after(columns, prefixes, "([0-9]{1,9})")
        numbers = plain if "0" in plain else {}
    if not numbers:
        named = _after(columns, [prefix for prefix in prefixes if prefix in BEFORE_NAMES], "[_.](.+)")
        return (list(named), list(named.values())) if len(named) > 1 else None
    ordered = sorted(numbers, key=int)
    missing = next((number for number, key in enumerate(ordered) if int(key) != number), None)
    if missing is not None:
        example = re.sub(r"[0-9]+$", str(missing), numbers[ordered[0]])
        raise DataError(f"{path}: the columns of a matrix must be numbered from 0 on, but '{example}' is missing")
    return None, [numbers[key] for key in ordered]


def _after(columns: Sequence[str], prefixes: Sequence[str], rest: str) -> dict[str, str]:
    """What follows one of the prefixes, to the column; ``rest`` is its pattern."""
    begin = "|".join(prefixes)
    matches = {column: re.fullmatch(f"(?:{begin}){rest}", column, re.DOTALL) for column in columns if begin}
    return {match[1]: column for column, match in matches.items() if match is not None}


def _stacked(path: Path, arrays: dict[str, Any], columns: Sequence[str]) -> NDArray[np.float32]:
    bad = [column for column in columns if arrays[column].dtype.kind not in "fiub"]
    if bad:
        raise DataError(f"{path}: column '{bad[0]}' must hold numbers, but holds {arrays[bad[0]].dtype} ({some(bad)})")
    matrix = np.stack([arrays[column] for column in columns], axis=1)
    for row, column in np.argwhere(~np.isfinite(matrix.astype(np.float64)))[:1]:
        raise DataError(f"{path}: column '{columns[column]}' must be finite, but row {row} holds {matrix[row, column]}")
    return matrix
