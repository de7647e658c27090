"""A folder of feature files, one per split: ``features/train.h5``, ``val.h5``, ``test.h5``.

The training split may be in parts, one for each of several processes (``features/train-*.h5``, see ``distributed``).

The files of one folder belong together: their class counts, class names and joint classifier must agree, and what one
of them lacks is taken from another. Counts come from the training split alone.

Augmented views of the rows of a split are in a file beside it, ``features/test-views.h5``. Several folders, one per
network, are the experts of one ensemble: their features side by side (see ``experts``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ltpost.data import distributed
from ltpost.data.experts import side_by_side
from ltpost.data.features import FeatureSet
from ltpost.data.load import load, names_in
from ltpost.data.overlap import same_rows_note
from ltpost.errors import DataError, UsageError

#: the file of a split's augmented views is named like the split, with this after it
VIEWS = "-views"

_SHOWN = 200  # letters of a value in a message
#: attribute of a file that must be the same in all files of a folder, to what it is
SAME = {
    "checkpoint_sha256": "the checkpoint",
    "model_sha256": "the model",
    "weights": "the weights of the checkpoint",
    "transform": "how images were prepared",
    "class_order": "how classes were numbered",
}
#: attribute that may differ, to what it is
MAY_DIFFER = {
    "dtype": "the type that features are stored in",
    "amp": "the precision that features were computed in",
    "views": "how often and in what variants images were shown",
}


def require_same_extraction(one: FeatureSet, other: FeatureSet) -> None:
    """Refuse files of one folder whose features do not compare.

    Raises:
        DataError: they come from other checkpoints, or their images were prepared in another way.
    """
    for key, what in SAME.items():
        mine, theirs = one.attrs.get(key), other.attrs.get(key)
        if mine is not None and theirs is not None and mine != theirs:
            raise DataError(
                f"{one.name} and {other.name} disagree on {what}: '{key}' is {_short(mine)} and {_short(theirs)}; "
                "extract both in the same way"
            )


def settings_that_differ(one: FeatureSet, other: FeatureSet) -> list[str]:
    """A sentence for each setting that differs and may; views of the training split are meant to."""
    notes = []
    for key, what in MAY_DIFFER.items():
        mine, theirs = one.attrs.get(key), other.attrs.get(key)
        views = key == "views"
        if mine == theirs or (views and "train" in (one.split, other.split)) or (None in (mine, theirs) and not views):
            continue
        notes.append(f"{one.name} and {other.name} differ in {what}: '{key}' is {_short(mine)} and {_short(theirs)}")
    return notes


def notes_on_pairs(splits: Sequence[FeatureSet]) -> list[str]:
    """A sentence for each setting that differs between two splits, and for rows that they share."""
    notes: list[str] = []
    for one, other in combinations(splits, 2):
        notes += settings_that_differ(one, other)
        note = same_rows_note(one, other)
        notes += [] if note is None else [note]
    return notes


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class FeatureFolder:
    """The splits of one extraction.

    Args:
        path: the folder; splits are its ``<split>.h5``. Or a pattern of the parts of the training split, such as
            ``features/train-*.h5`` or ``features/train.shards/*.h5``; val and test are then in ``features``. Or the
            folders of several networks with commas between, ``a,b``: each is one expert.
        expert: which of several experts; default the mean of all (see :meth:`FeatureSet.expert`).

    Raises:
        DataError: there is no such folder, or no feature file in it.
    """

    def __init__(self, path: str | os.PathLike[str] = "features", expert: int | None = None):
        self.path, self.expert = Path(path), expert
        self.parts: list[Path] = []
        self._loaded: dict[str, FeatureSet] = {}
        self._shown: dict[str, FeatureSet] = {}
        #: of several networks, the folder of each
        self.folders: list[FeatureFolder] = []
        names = [name.strip() for name in str(path).split(",") if name.strip()]
        if len(names) > 1 and not self.path.exists():
            if set("*?[") & set(str(path)):
                raise UsageError(f"features={path} must name folders, not patterns, where it names several")
            self.folders = [FeatureFolder(name) for name in names]
            if not self.splits():
                listed = "; ".join(f"{folder.path} has {', '.join(folder.splits())}" for folder in self.folders)
                raise DataError(f"{path}: the folders must have a split in common, but {listed}")
            return
        if set("*?[") & set(str(path)):
            self.parts = sorted(self.path.parent.glob(self.path.name))
            self.path = self.path.parent.parent if self.path.parent.suffix == ".shards" else self.path.parent
            if not self.parts:
                raise DataError(f"{path}: matches no file; folder= takes a folder, or a pattern of train's parts")
        if self.path.is_file():
            raise DataError(f"{self.path}: is a file; name the folder that it is in with folder=")
        if not self.path.is_dir():
            raise DataError(
                f"{self.path}: no such folder of feature files; run ltpost extract, or name one with folder="
            )
        if not self.splits():
            raise DataError(f"{self.path}: holds no <split>.h5; run ltpost extract, or name another one with folder=")

    def __repr__(self) -> str:
        return f"FeatureFolder({self.path}: {', '.join(self.splits())})"

    def splits(self) -> list[str]:
        """The splits that have a file; of several folders, in each. Files of views are not among them."""
        return [name for name in self._files() if not name.endswith(VIEWS)]

    def _files(self) -> list[str]:
        """The names of the files, without their ending."""
        if self.folders:
            return sorted(set.intersection(*(set(folder._files()) for folder in self.folders)))
        whole = {file.stem for file in self.path.glob("*.h5") if file not in self.parts}
        return sorted(whole | ({"train"} if self.parts else set()))

    def __contains__(self, split: str) -> bool:
        return split in self.splits()

    def _load(self, split: str) -> FeatureSet:
        if split == "train" and self.parts:
            return load(distributed.own_part(self.parts), part=True)
        return load(self.path / f"{split}.h5")

    def __getitem__(self, split: str) -> FeatureSet:
        """A split, with the head, counts and names that the other files may know.

        Raises:
            DataError: no such file, or it contradicts another one.
        """
        if split not in self._shown:
            feature_set = self._complete(split)
            if split + VIEWS in self._files():
                feature_set.view_rows = self._complete(split + VIEWS)
            self._shown[split] = feature_set if self.expert is None else feature_set.expert(self.expert)
        return self._shown[split]

    def _complete(self, split: str) -> FeatureSet:
        """A file, all experts of it, with what the other files know."""
        if split not in self._loaded and self.folders:
            self._loaded[split] = side_by_side([folder._complete(split) for folder in self.folders])
        elif split not in self._loaded:
            feature_set = self._loaded[split] = self._load(split)
            for other in sorted(self.splits(), key=lambda name: name != "train"):
                if other in self._loaded or feature_set.class_counts is None or feature_set.head is None:
                    self._adopt(feature_set, other)
                elif feature_set.class_names is None:
                    names = names_in(self.path / f"{other}.h5")
                    feature_set.class_names = names if len(names or ()) == feature_set.num_classes else None
        return self._loaded[split]

    def notes(self, splits: Sequence[str], beside: Iterable[str] = ()) -> tuple[str, ...]:
        """What a reader of figures on these splits has to know: rows that they share, and settings that differ.

        The training split and those of ``beside`` are looked at too where there are any.
        """
        names = [*dict.fromkeys(splits)]
        for split in names:
            self[split]
        notes = [note for split in names for note in self._loaded[split].notes]
        for split in dict.fromkeys(["train", *beside]):
            if split not in self or split in names or (split == "train" and self.parts):
                continue
            try:
                self[split]
                names.append(split)
            except DataError as error:  # which only methods that read it must refuse
                notes.append(f"the split {split} was not compared with the others: {error}")
        return tuple(dict.fromkeys([*notes, *notes_on_pairs([self._loaded[split] for split in names])]))

    def reported(self, split: str | None = None) -> FeatureSet:
        """The split of this name; default test, or val where there is no test."""
        return self[("val" if "test" not in self and "val" in self else "test") if split is None else split]

    def _adopt(self, feature_set: FeatureSet, other: str) -> None:
        """Let a feature set take what it lacks from the file ``other``, and check that both agree."""
        source = self._loaded[other] if other in self._loaded else self._load(other)
        feature_set.adopt(source)
        require_same_extraction(feature_set, source)
        if feature_set.class_counts is None and other == "train":
            counts = source.count_samples()
            feature_set.class_counts = distributed.sum_array(counts) if self.parts else counts
