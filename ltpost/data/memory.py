"""Splits in memory, in place of a folder of feature files."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from ltpost.data.features import UNNAMED, FeatureSet
from ltpost.data.folder import notes_on_pairs
from ltpost.errors import DataError


class FeatureSets:
    """Feature sets by the name of their split; like a :class:`~ltpost.FeatureFolder`, but in memory.

    The sets belong together: their class counts, class names and joint classifier must agree, and what one of them
    lacks is taken from another. Class counts come from the training split where nobody gave them.

    Args:
        sets: "train", "val", "test" or other names to feature sets; they are not changed.

    Raises:
        DataError: there is none, or two of them disagree.
    """

    path = Path("the given feature sets")
    expert: int | None = None
    parts: tuple[str, ...] = ()

    def __init__(self, sets: Mapping[str, FeatureSet]):
        if not sets:
            raise DataError("give at least one of train=, val= and test=")
        self._sets = {name: _named(one, name) for name, one in sets.items()}
        train = self._sets.get("train")
        if train is not None and train.class_counts is None:
            train.class_counts = train.count_samples()
        for one in self._sets.values():
            for other in sorted(self._sets, key=lambda name: name != "train"):
                if self._sets[other] is not one:
                    one.adopt(self._sets[other])

    def notes(self, splits: Sequence[str]) -> tuple[str, ...]:
        """What a reader of figures on these splits has to know: rows that they share, with train too."""
        names = [*dict.fromkeys([*splits, *(name for name in self._sets if name == "train")])]
        own = [note for name in names for note in self._sets[name].notes]
        return tuple(dict.fromkeys([*own, *notes_on_pairs([self._sets[name] for name in names])]))

    def __repr__(self) -> str:
        return f"FeatureSets({', '.join(self.splits())})"

    def splits(self) -> list[str]:
        """The names of the splits."""
        return sorted(self._sets)

    def __contains__(self, split: str) -> bool:
        return split in self._sets

    def __getitem__(self, split: str) -> FeatureSet:
        return self._sets[split]


def _named(feature_set: FeatureSet, split: str) -> FeatureSet:
    """A copy that goes by the name of its file, or else of its split."""
    copied = copy.copy(feature_set)
    copied.split = feature_set.split or split
    copied.name = split if feature_set.name == UNNAMED else feature_set.name
    return copied
