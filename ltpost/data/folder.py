"""A folder of feature files, one per split: ``features/train.h5``, ``val.h5``, ``test.h5``.

The training split may be in parts, one for each of several processes (``features/train-*.h5``, see ``distributed``).

The files of one folder belong together: their class counts, class names and joint classifier must agree, and what one
of them lacks is taken from another. Counts come from the training split alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from ltpost.data import distributed
from ltpost.data.features import FeatureSet
from ltpost.data.load import load
from ltpost.errors import DataError


class FeatureFolder:
    """The splits of one extraction.

    Args:
        path: the folder; splits are its ``<split>.h5``. Or a pattern of the parts of the training split, such as
            ``features/train-*.h5`` or ``features/train.shards/*.h5``; val and test are then in ``features``.
        expert: which of several experts; default the mean of all (see :meth:`FeatureSet.expert`).

    Raises:
        DataError: there is no such folder, or no feature file in it.
    """

    def __init__(self, path: str | os.PathLike[str] = "features", expert: int | None = None):
        self.path, self.expert = Path(path), expert
        self.parts: list[Path] = []
        if set("*?[") & set(str(path)):
            self.parts = sorted(self.path.parent.glob(self.path.name))
            self.path = self.path.parent.parent if self.path.parent.suffix == ".shards" else self.path.parent
            if not self.parts:
                raise DataError(f"{path}: matches no file; --features takes a folder, or a pattern of train's parts")
        if not self.path.is_dir():
            raise DataError(
                f"{self.path}: no such folder of feature files; run ltpost extract, or name one with --features"
            )
        if not self.splits():
            raise DataError(
                f"{self.path}: holds no <split>.h5; run ltpost extract, or name another folder with --features"
            )
        self._loaded: dict[str, FeatureSet] = {}
        self._shown: dict[str, FeatureSet] = {}

    def splits(self) -> list[str]:
        """The splits that have a file."""
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
        if split not in self._loaded:
            found = self._loaded[split] = self._load(split)
            for other in sorted(self.splits(), key=lambda name: name != "train"):
                if other in self._loaded or found.class_counts is None or found.head is None:
                    self._adopt(found, other)
            if self.expert is not None:
                self._shown[split] = found.expert(self.expert)
        return self._shown.get(split, self._loaded[split])

    def reported(self, split: str | None = None) -> FeatureSet:
        """The split of this name; default test, or val where there is no test."""
        return self[split or ("val" if "test" not in self and "val" in self else "test")]

    def _adopt(self, found: FeatureSet, other: str) -> None:
        """Let ``found`` take from the file ``other`` what it lacks, and check that both agree."""
        source = self._loaded[other] if other in self._loaded else self._load(other)
        found.adopt(source)
        if found.class_counts is None and other == "train":
            counts = source.count_samples()
            found.class_counts = distributed.sum_array(counts) if self.parts else counts
