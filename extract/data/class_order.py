"""The numbering of classes: by their names, or by how many training samples they have.

Labels only mean something in the numbering that the network was trained with. Folders are numbered by their sorted
names; in lists and arrays the labels are numbers already, and the names are those of the file, or the numbers as text.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError, UsageError
from ltpost.extract.data.source import Source, check_labels, read_class_counts

#: "10" before "2", as torchvision's ImageFolder sorts; "2" before "10", as timm sorts; the most frequent class first
CLASS_ORDERS = ("string", "natural", "frequency")


def check_class_order(class_order: str | None) -> None:
    """Raise UsageError unless it is one of ``CLASS_ORDERS`` or None."""
    if class_order is not None and class_order not in CLASS_ORDERS:
        raise UsageError(f"class_order= must be string, natural or frequency, but is '{class_order}'")


def sort_key(class_order: str | None) -> Callable[[str], Any] | None:
    """The key by which names are sorted; None sorts them as text."""
    return natural if class_order == "natural" else None


def natural(name: str) -> list[tuple[int, int, str]]:
    """The sort key that timm uses for class folders: numbers count by value, so '2' comes before '10'."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def class_counts_of(source: Source, given: Any, num_classes: int) -> NDArray[np.int64] | None:
    """(C,) training samples per class; None where they are not given and there is no train split.

    Args:
        source: whose train split is counted.
        given: (C,) counts, or a file of them; None counts.
        num_classes: C.

    Raises:
        DataError: there is not one count for each class, or the file holds something else.
    """
    return source.class_counts(num_classes) if given is None else given_counts(given, num_classes)


def given_counts(given: Any, num_classes: int) -> NDArray[np.int64]:
    """(C,) training samples per class from a sequence or a file.

    Raises:
        DataError: there is not one count for each class, or the file holds something else.
    """
    name = "class_counts"
    if isinstance(given, str | os.PathLike):
        name, given = str(given), read_class_counts(given)
    counts = np.asarray(given, dtype=np.int64)
    if counts.shape != (num_classes,):
        raise DataError(f"{name}: must have one count for each of {num_classes} classes, but has {len(counts)}")
    return counts


def class_numbers(
    class_order: str | None, names: Sequence[str] | None, counts: NDArray[np.int64] | None, num_classes: int
) -> NDArray[np.int64]:
    """The new number of every class, (C,).

    Args:
        class_order: one of ``CLASS_ORDERS``; None leaves the numbers as they are.
        names: C names; without them the numbers are the names.
        counts: (C,) training samples per class.
        num_classes: C.

    Raises:
        UsageError: the order is by frequency, and the counts are not known.
    """
    check_class_order(class_order)
    if class_order is None:
        return np.arange(num_classes)
    if class_order == "frequency":
        if counts is None:
            raise UsageError(
                "class_order=frequency needs the training samples per class, and there is no train split; give "
                "class_counts="
            )
        order = np.argsort(-counts, kind="stable")
    else:
        texts = list(names) if names is not None else [str(number) for number in range(num_classes)]
        key = sort_key(class_order) or (lambda text: text)
        order = np.array(sorted(range(num_classes), key=lambda number: key(texts[number])), np.int64)
    numbers = np.empty(num_classes, np.int64)
    numbers[order] = np.arange(num_classes)
    return numbers


def in_class_order(
    source: Source, class_order: str | None, counts: NDArray[np.int64] | None, num_classes: int
) -> tuple[Source, NDArray[np.int64] | None]:
    """The rows with their classes numbered in another order, and the class counts in that order.

    Raises:
        DataError: a label is not in 0..C-1.
        UsageError: see :func:`class_numbers`.
    """
    check_labels(source.name, source.labels, num_classes)
    numbers = class_numbers(class_order, source.class_names, counts, num_classes)
    if (numbers == np.arange(num_classes)).all():
        return source if class_order is None else replace(source, class_order=class_order), counts
    order = np.argsort(numbers)
    if source.train_labels is not None:
        check_labels(source.train_name, source.train_labels, num_classes)
    renumbered = replace(
        source,
        labels=numbers[source.labels],
        fingerprint=hashlib.sha256(source.fingerprint.encode() + numbers.tobytes()).hexdigest(),
        class_names=None if source.class_names is None else [source.class_names[number] for number in order],
        train_labels=None if source.train_labels is None else numbers[source.train_labels],
        class_order=class_order,
    )
    return renumbered, None if counts is None else counts[order]
