"""Rows that two splits share, as they do when images of val or test are among those of another split.

What this module does not do: find images that are nearly alike. Two rows are one if they are equal as float16. Rows of
a few numbers, such as the logits of two classes, are soon equal by chance: they must be equal as they are stored, and
unlike all other rows of their split, and there must be more of them than chance explains, as it does where scores are
rounded.
"""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.data.rows import Rows
from ltpost.heads import Array

_ALL_ELEMENTS = 2**21  # of both splits: with less, all rows are compared
_SOME_ROWS = 256
_READ_ELEMENTS = 2**22
_FEW_COLUMNS = 8
_SHARE = 0.01  # of the rows tried; some data sets hold a few images twice


def same_rows_note(one: FeatureSet, other: FeatureSet) -> str | None:
    """A sentence where two splits are the same data or share rows; None where they do not."""
    begin = f"{one.name} and {other.name}"
    end = "figures on rows that were fitted to or chosen on are too good; extract splits that share no image"
    if _fingerprint(one) is not None and _fingerprint(one) == _fingerprint(other):
        return f"LEAK: {begin} were extracted from the same images (equal fingerprints of the data); {end}"
    shared, tried = shared_rows(one, other)
    if shared < max(2, _SHARE * tried):
        return None
    return f"LEAK: {begin} share rows: {shared:,} of {tried:,} rows that were compared are in both; {end}"


def shared_rows(one: FeatureSet, other: FeatureSet) -> tuple[int, int]:
    """How many of some rows of the smaller split are in the other one too, and how many were compared.

    All rows are compared where both are small. Else 256 at most are, with rows of the same label, of which about 16 MiB
    are read.
    """
    if len(one) > len(other):
        one, other = other, one
    pair = _columns(one, other)
    if pair is None or len(one) == 0:
        return 0, 0
    mine, theirs = pair
    if (len(mine) + len(theirs)) * mine.shape[1] <= _ALL_ELEMENTS:
        sampled, candidates = np.arange(len(mine)), np.arange(len(theirs))
    else:
        sampled, candidates = _some(one.labels, other.labels, max(_SOME_ROWS, _READ_ELEMENTS // mine.shape[1]))
    ours, others = (_keys(rows) for rows in (mine[sampled], theirs[candidates]))
    times, few = Counter(others), mine.shape[1] < _FEW_COLUMNS
    known = {key for key, number in times.items() if number == 1 or not few}
    known.discard(b"")
    shared = sum(key in known for key in ours)
    # of two equal rows of a split each would be alone without the other: so often a foreign row meets one by chance
    by_chance = 2 * sum(number == 2 for number in times.values()) / len(others) if few else 0.0
    return (shared if shared > 2 * by_chance * len(ours) else 0), len(ours)


def _columns(one: FeatureSet, other: FeatureSet) -> tuple[Rows, Rows] | None:
    """Features of both, else logits of both, of equal width."""
    for mine, theirs in ((one.stored_features, other.stored_features), (one.stored_logits, other.stored_logits)):
        if mine is not None and theirs is not None and mine.shape[1] == theirs.shape[1]:
            return mine, theirs
    return None


def _some(
    labels: NDArray[np.int64], others: NDArray[np.int64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of both splits to compare: spread over one, and those of the same labels in the other."""
    spread = np.unique(np.linspace(0, len(labels) - 1, _SOME_ROWS).astype(np.int64))
    totals = np.bincount(others, minlength=int(max(labels.max(), others.max())) + 1)
    rarest = sorted(set(labels[spread].tolist()), key=lambda label: int(totals[label]))
    read = np.cumsum([totals[label] for label in rarest])
    kept = np.array(rarest[: max(1, int(np.searchsorted(read, most, side="right")))])
    return spread[np.isin(labels[spread], kept)], np.flatnonzero(np.isin(others, kept))[:most]


def _keys(rows: Array) -> list[bytes]:
    """The bytes of every row as float16; empty for a row of equal values, which says nothing."""
    kind = np.float16 if rows.shape[1] >= _FEW_COLUMNS else np.float64
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(rows, dtype=kind)
    return [b"" if (row == row[0]).all() else row.tobytes() for row in values]


def _fingerprint(split: FeatureSet) -> str | None:
    """The sha256 of the images that a split was extracted from, where its file tells it and holds all of them."""
    if "drawn_from" in split.attrs:  # ltpost split: another part of the same images is no leak
        return None
    try:
        return str(json.loads(split.attrs["dataset"])["sha256"])
    except (KeyError, TypeError, ValueError):
        return None
