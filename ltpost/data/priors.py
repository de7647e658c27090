"""What the training class counts say: the class prior π and the many/medium/few-shot groups.

Counts always come from the training split; those of a balanced val or test split say nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError, LtpostError, UsageError
from ltpost.heads import Array

GROUPS = ("many", "medium", "few")
MANY_SHOT = 100
FEW_SHOT = 20


@dataclass(frozen=True)
class ShotGroups:
    """The classes of each group, by training samples n_c (Liu et al., CVPR 2019; Kang et al., ICLR 2020, Section 5.1).

    many: n_c > ``many_shot``; few: n_c < ``few_shot``; medium: the rest, both thresholds included. Where ``binary``,
    they are the majority and the minority class, and there is no medium.

    >>> shot_groups(np.array([500, 100, 20, 19])).few
    array([False, False, False,  True])
    """

    many: NDArray[np.bool_]
    medium: NDArray[np.bool_]
    few: NDArray[np.bool_]
    many_shot: int = MANY_SHOT
    few_shot: int = FEW_SHOT
    binary: bool = False

    @property
    def headings(self) -> dict[str, str]:
        """Name of every group that there can be, to what tables call it."""
        if self.binary:
            return {"many": "Majority", "few": "Minority"}
        return {name: name.capitalize() for name in GROUPS}

    @property
    def thresholds(self) -> str:
        """How the groups were made, for signatures."""
        return "majority/minority" if self.binary else f">{self.many_shot}/<{self.few_shot}"

    def __repr__(self) -> str:
        sizes = ", ".join(f"{int(getattr(self, name).sum())} {name}" for name in GROUPS)
        return f"ShotGroups({sizes}; {self})"

    def __str__(self) -> str:
        if self.binary:
            return "the majority and the minority class"
        return f"many > {self.many_shot}, few < {self.few_shot} training samples"


def shot_groups(class_counts: Array, many_shot: int = MANY_SHOT, few_shot: int = FEW_SHOT) -> ShotGroups:
    """Groups of the classes by their training counts (C,).

    Of two classes, the one with more training samples is "many" and the other "few", unless thresholds are given.

    Raises:
        UsageError: ``few_shot`` is above ``many_shot`` + 1 (a class would be in two groups), or one is negative.
    """
    if few_shot < 0 or many_shot < 0 or few_shot > many_shot + 1:
        raise UsageError(f"few_shot= must be from 0 to many_shot= + 1, but is {few_shot} with many_shot= {many_shot}")
    if len(class_counts) == 2 and (many_shot, few_shot) == (MANY_SHOT, FEW_SHOT):
        minority = np.arange(2) == minority_class(class_counts)
        return ShotGroups(~minority, np.zeros(2, dtype=bool), minority, binary=True)
    many, few = class_counts > many_shot, class_counts < few_shot
    return ShotGroups(many, ~many & ~few, few, many_shot, few_shot)


def minority_class(class_counts: Array | None) -> int:
    """Of two classes the one with fewer training samples; class 1 where they are not known, or equal.

    >>> minority_class(np.array([5, 995])), minority_class(None)
    (0, 1)
    """
    return 0 if class_counts is not None and len(class_counts) == 2 and class_counts[0] < class_counts[1] else 1


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


def log_target_prior(target_prior: str, class_counts: Array) -> Array:
    """The log prior of the rows that the classifier is for, (C,) float64.

    Args:
        target_prior: ``uniform``, ``train``, a profile (see :func:`profile`), C numbers parted by commas, or a text
            file of C numbers parted by commas, blanks or lines. Numbers need not sum to 1.
        class_counts: (C,) training samples per class.

    Raises:
        UsageError: none of these.
        DataError: the file does not hold C positive numbers.

    >>> log_target_prior("0.9, 0.1", np.array([5, 5])).round(3)
    array([-0.105, -2.303])
    """
    classes = len(class_counts)
    if target_prior == "uniform":
        return np.full(classes, -np.log(classes))
    if target_prior == "train":
        return log_prior(class_counts)
    if PROFILE.fullmatch(target_prior):
        return np.log(profile(target_prior, class_counts))
    if "," in target_prior and not Path(target_prior).exists():
        return _log_of_numbers("target_prior=", target_prior.split(","), classes, UsageError)
    path = Path(target_prior)
    if not path.is_file():
        raise UsageError(
            "target_prior= must be uniform, train, forward-50 or backward-50 (or another factor), numbers such as "
            f"0.9,0.1 or a file of {classes} numbers, but is {target_prior!r}"
        )
    try:
        words = re.split(r"[\s,]+", path.read_text().strip())
    except UnicodeDecodeError:
        raise DataError(f"{path}: must be a text file of {classes} numbers, but is none") from None
    return _log_of_numbers(str(path), words, classes, DataError)


def _log_of_numbers(where: str, words: list[str], classes: int, error: type[LtpostError]) -> Array:
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        raise error(f"{where} must hold {classes} numbers, but holds {','.join(words)[:40]!r}") from None
    if len(values) != classes:
        raise error(f"{where} must hold {classes} numbers, one for each class, but holds {len(values)}")
    if not (np.isfinite(values) & (values > 0)).all():
        odd = int(np.argmin(np.isfinite(values) & (values > 0)))
        raise error(f"{where} must hold positive numbers, but that of class {odd} is {values[odd]:g}")
    result: Array = np.log(values) - np.log(values.sum())
    return result


#: a long-tailed class prior: the order of the classes, and the imbalance factor
PROFILE = re.compile(r"(forward|backward)-(\d+(?:\.\d+)?)")


def profile(name: str, class_counts: Array) -> Array:
    """A long-tailed class prior, (C,), of the usual evaluation under other test distributions.

    p_c ∝ F^(-r_c / (C - 1)), with the rank r_c = 0 of the class with most training samples (``forward-F``) or with
    fewest (``backward-F``). The most and the least likely class differ by the factor F.

    Source: Hong et al., "Disentangling Label Distribution …" (LADE), CVPR 2021, section 4.1; SADE, NeurIPS 2022.

    NOTE[DIFF]: their code goes by class numbers, which are sorted by count in its data; ties keep this order.

    >>> profile("backward-4", np.array([30, 10, 20])).round(3)
    array([0.143, 0.571, 0.286])
    """
    match = PROFILE.fullmatch(name)
    if match is None or not float(match[2]) >= 1:
        raise UsageError(f"a profile must be forward-F or backward-F with a factor F of 1 or more, but is {name!r}")
    classes = len(class_counts)
    rank = np.empty(classes)
    rank[np.argsort(-np.asarray(class_counts), kind="stable")] = np.arange(classes)
    if match[1] == "backward":
        rank = classes - 1 - rank
    prior = float(match[2]) ** (-rank / max(1, classes - 1))
    result: Array = prior / prior.sum()
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
