"""Labels as numbers 0..C-1, and the names of the classes, from files and checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.extract.data.source import as_labels
from ltpost.extract.messages import reading, some, tell

#: where training code stores the names: lists, or a name to its number, or a number to its name
_IN_CHECKPOINTS = ("class_names", "classes", "class_to_idx", "idx_to_class", "id2label", "label2id")


def read_class_names(file: str | os.PathLike[str]) -> list[str]:
    """C class names from a text file (one a line), or JSON: a list, a name to its number, or a number to its name.

    Raises:
        DataError: it is none of these.
    """
    source = Path(file)
    with reading(source, "class names"):
        text = source.read_text(encoding="utf-8-sig")
        stored = json.loads(text) if source.suffix == ".json" else [line.strip() for line in text.splitlines()]
    names = in_order(stored)
    while names and not names[-1]:
        names.pop()
    twice = next((one for number, one in enumerate(names or []) if one in (names or [])[:number]), None)
    if not names or twice is not None:
        raise DataError(
            f"{source}: must hold one class name a line, each once, or as JSON a list or the number of every name, but "
            + (f"'{twice}' is there twice" if twice is not None else "holds none")
        )
    return names


def in_order(stored: Any) -> list[str] | None:
    """Class names from a list, from names to numbers 0..C-1, or from numbers to names; None from anything else."""
    if isinstance(stored, list | tuple) and stored and all(isinstance(one, str) for one in stored):
        return list(stored)
    if not isinstance(stored, Mapping) or not stored:
        return None
    pairs = [(key, value) if isinstance(value, str) else (value, key) for key, value in stored.items()]
    try:
        places = {int(number): str(name) for number, name in pairs}
    except (TypeError, ValueError):
        return None
    return [places[number] for number in range(len(places))] if set(places) == set(range(len(pairs))) else None


def names_in_checkpoint(container: Mapping[str, Any]) -> list[str] | None:
    """The class names that a checkpoint holds."""
    return next((names for key in _IN_CHECKPOINTS if (names := in_order(container.get(key))) is not None), None)


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
