"""What the training class counts say: the class prior π and the many/medium/few-shot groups.

Counts always come from the training split; those of a balanced val or test split say nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError, UsageError
from ltpost.heads import Array

GROUPS = ("many", "medium", "few")
MANY_SHOT = 100
FEW_SHOT = 20


@dataclass(frozen=True)
class ShotGroups:
    """The classes of each group, by training samples n_c (Liu et al., CVPR 2019; Kang et al., ICLR 2020, Section 5.1).

    many: n_c > ``many_shot``; few: n_c < ``few_shot``; medium: the rest, both thresholds included.

    >>> shot_groups(np.array([500, 100, 20, 19])).few
    array([False, False, False,  True])
    """

    many: NDArray[np.bool_]
    medium: NDArray[np.bool_]
    few: NDArray[np.bool_]
    many_shot: int = MANY_SHOT
    few_shot: int = FEW_SHOT

    def __str__(self) -> str:
        return f"many > {self.many_shot}, few < {self.few_shot} training samples"


def shot_groups(class_counts: Array, many_shot: int = MANY_SHOT, few_shot: int = FEW_SHOT) -> ShotGroups:
    """Groups of the classes by their training counts (C,).

    Raises:
        UsageError: ``few_shot`` is above ``many_shot`` + 1 (a class would be in two groups), or one is negative.
    """
    if few_shot < 0 or many_shot < 0 or few_shot > many_shot + 1:
        raise UsageError(f"few_shot= must be from 0 to many_shot= + 1, but is {few_shot} with many_shot= {many_shot}")
    many, few = class_counts > many_shot, class_counts < few_shot
    return ShotGroups(many, ~many & ~few, few, many_shot, few_shot)


def log_prior(class_counts: Array) -> Array:
    """Log prior, log π_c = log(n_c / n), (C,) float64.

    Raises:
        DataError: a class has no training sample, so that log π is -∞; the message says which.
    """
    missing = np.flatnonzero(class_counts <= 0)
    if len(missing):
        raise DataError(
            f"class_counts must be positive for a class prior, but {class_list(missing)} "
            "has none; merge or remove such classes, or use tau-normalization, which needs no counts"
        )
    counts = np.asarray(class_counts, dtype=np.float64)
    result: Array = np.log(counts) - np.log(counts.sum())
    return result


def class_list(classes: Array, class_names: list[str] | None = None, most: int = 3) -> str:
    """A few classes by number and name: ``class 3 (cat)``, ``classes 3, 5, 7 and 4 more``."""
    shown = [f"{c}{f' ({class_names[c]})' if class_names else ''}" for c in classes[:most]]
    more = f" and {len(classes) - most} more" if len(classes) > most else ""
    return f"{'class' if len(classes) == 1 else 'classes'} {', '.join(shown)}{more}"


def with_class_names(message: str, class_names: list[str] | None) -> str:
    """A message with the names of the classes that :func:`class_list` listed by number alone.

    >>> with_class_names("classes 0, 2 and 4 more have none", ["ant", "bee", "cat"])
    'classes 0 (ant), 2 (cat) and 4 more have none'
    """
    if class_names is None:
        return message

    def named(listed: re.Match[str]) -> str:
        return re.sub(r"\d+", lambda number: class_list(np.array([int(number[0])]), class_names)[6:], listed[0])

    return re.sub(r"\bclass(es)? \d+(, \d+)*\b(?! \()", named, message)
