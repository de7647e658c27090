"""Where an extraction writes, how it runs, and which part of the rows it does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError, UsageError
from ltpost.extract.data.class_names import read_class_names
from ltpost.extract.data.class_order import given_counts
from ltpost.extract.data.source import check_split
from ltpost.extract.run.sanity import check_expected
from ltpost.extract.run.shards import Shard, launched, parse_shard

DTYPES = ("float32", "float16")
#: logits of the train split are stored up to this size; beyond, the file would be mostly logits that nobody reads
TRAIN_LOGITS_BYTES = 2**30


@dataclass(frozen=True)
class Settings:
    """Arguments of :func:`~ltpost.extract.extract_features` that have nothing to do with the form of the data.

    Raises:
        UsageError: one of them cannot be used.
    """

    split: str
    out: Path
    class_counts: Any = None
    class_names: Any = None
    device: str = "auto"
    amp: str = "off"
    compile: bool = False
    dtype: str = "float32"
    logits: bool | None = None
    layers: str | None = None
    layers_dtype: str = "float16"
    max_bad: int | None = None
    expect_top1: float | None = None
    shard: str | tuple[int, int] | None = None
    restart: bool = False
    #: whether a finished file of the same extraction is left alone, for a run of several files that is repeated
    skip_finished: bool = False

    def __post_init__(self) -> None:
        for option, value in (("dtype", self.dtype), ("layers_dtype", self.layers_dtype)):
            if value not in DTYPES:
                raise UsageError(f"{option}= must be float32 or float16, but is '{value}'")
        if self.max_bad is not None and self.max_bad < 0:
            raise UsageError(f"max_bad= must be at least 0, but is {self.max_bad}")
        check_expected(self.expect_top1)
        check_split(self.split)
        self.part  # noqa: B018 - refused before anything is opened

    @property
    def names_a_file(self) -> bool:
        """Whether ``out`` is the file itself, not its folder."""
        return self.out.suffix in (".h5", ".hdf5")

    @property
    def target(self) -> Path:
        """The feature file."""
        return self.out if self.names_a_file else self.out / f"{self.split}.h5"

    @property
    def part(self) -> Shard | None:
        """The rows of this process; None for all."""
        if self.shard is None:
            return launched()
        part = parse_shard(self.shard) if isinstance(self.shard, str) else Shard(*self.shard)
        return None if part.count == 1 else part

    def stores_logits(self, rows: int, num_classes: int) -> bool:
        """Whether logits are stored, where they can be computed from the features too."""
        if self.logits is not None:
            return self.logits
        return self.split != "train" or rows * num_classes * 4 <= TRAIN_LOGITS_BYTES

    def given_names(self, num_classes: int | None = None) -> list[str] | None:
        """C names of ``class_names``, a list or a file.

        Raises:
            DataError: they are not one for each class, where the number of classes is known.
        """
        if self.class_names is None:
            return None
        from_file = isinstance(self.class_names, str | os.PathLike)
        names = read_class_names(self.class_names) if from_file else [str(name) for name in self.class_names]
        if num_classes is not None and len(names) != num_classes:
            where = self.class_names if from_file else "class_names="
            raise DataError(f"{where}: has {len(names)} names, but the classifier has {num_classes} classes")
        return names

    def given_counts(self, num_classes: int) -> NDArray[np.int64] | None:
        """(C,) of ``class_counts``; None where they are not given."""
        return None if self.class_counts is None else given_counts(self.class_counts, num_classes)
