"""Labels as numbers 0..C-1, and the names of the classes, from wherever they are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.data.load import load
from ltpost.errors import DataError
from ltpost.extract.data.source import as_labels
from ltpost.extract.messages import some, tell


def texts(values: Any) -> list[str]:
    """A column of texts or of bytes."""
    return [value.decode() if isinstance(value, bytes) else str(value) for value in np.asarray(values).tolist()]


def numbered(name: str, values: Any, names: Sequence[str] | None) -> tuple[NDArray[np.int64], list[str] | None]:
    """Labels (N,) of whole numbers or texts as numbers, and the class names.

    Args:
        name: of the source, for messages.
        values: whole numbers, or names of classes.
        names: C names in the order of the classifier, or None; then the names in the column are sorted.

    Raises:
        DataError: a label is missing, is no whole number, or has a name that is not among ``names``.
    """
    array = np.asarray(values)
    _require_all(name, array)
    if array.dtype.kind in "OSUT":
        words = texts(array)
        if names is None:
            names = sorted(set(words))
            tell(
                f"{name}: the {len(names)} classes are numbered by their sorted names ({some(list(names))}); where the "
                "classifier has them in another order, or one class has no row here, give --class-names FILE"
            )
        numbers = {text: number for number, text in enumerate(names)}
        unknown = next((row for row, word in enumerate(words) if word not in numbers), None)
        if unknown is not None:
            raise DataError(
                f"{name}: label '{words[unknown]}' of row {unknown} is none of the {len(names)} class names "
                f"({some(list(names))})"
            )
        return np.array([numbers[word] for word in words], np.int64), list(names)
    if array.dtype.kind == "f" and array.ndim == 1 and (array == np.round(array)).all():
        array = array.astype(np.int64)  # a table has turned whole numbers into floating-point ones
    array = array.astype(np.int64) if array.dtype == bool else array
    return as_labels(f"{name}: labels", array), None if names is None else list(names)


def _require_all(name: str, array: NDArray[Any]) -> None:
    missing = np.array([value is None or value != value for value in array.ravel()[: array.size]], bool)
    for row in np.flatnonzero(missing)[:1] if array.dtype.kind in "fO" else ():
        raise DataError(f"{name}: every row must have a label, but row {row} has none ({int(missing.sum())} in all)")


def names_beside(target: Path) -> list[str] | None:
    """The class names of another feature file in the folder of ``target``, which belongs to it."""
    for file in sorted(target.parent.glob("*.h5")) if target.parent.is_dir() else []:
        try:
            names = load(file).class_names if file != target else None
        except DataError:
            continue
        if names is not None:
            return names
    return None
