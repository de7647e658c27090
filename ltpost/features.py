"""Feature files: the cached features, logits and labels of one split (HDF5, see FORMAT.md).

:func:`load` checks a file against the format and returns a :class:`FeatureSet`; nothing big is read before it is
used. :func:`start_file` and :func:`finish_file` are the two halves of every write: data first goes to
``<name>.partial``, which takes the final name in one step when it is complete.

What this module does not do: decide anything about classes (``priors``), score a head (``evaluate``), run a backbone
(``ltpost.extract``).
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ltpost._version import __version__
from ltpost.errors import DataError
from ltpost.head import Array, Head, LinearHead
from ltpost.priors import FEW_SHOT, MANY_SHOT, ShotGroups, shot_groups

FORMAT = "ltpost-features"
FORMAT_VERSION = 1
BLOCK_ELEMENTS = 2**22  # of the widest of features and logits: 16 MiB as float32
_STORED_ELEMENTS = 2**18  # of stored logits at a time: 1 MiB stays in the cache while it is rescaled
_SPOT_CHECK_ROWS = 64


class Rows:
    """Rows of a matrix that stays where it is until indexed.

    ``source`` is an array (often a memory map) or a chunked HDF5 dataset, ``index`` the rows of it that count and
    ``columns`` the columns. A slice or an integer array gives a numpy array; ``np.asarray(rows)`` reads everything.
    """

    def __init__(self, source: Array | _Dataset, index: NDArray[np.int64] | None = None, columns: slice | None = None):
        self.source, self.index, self.columns = source, index, columns
        width = source.shape[1:] if columns is None else (columns.stop - columns.start,)
        self.shape: tuple[int, ...] = (len(source) if index is None else len(index), *width)
        self.dtype: np.dtype[Any] = source.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Array:
        result: Array = self.source[key if self.index is None else self.index[key]]
        return result if self.columns is None else result[:, self.columns]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[:], dtype=dtype)

    def take(self, rows: slice | NDArray[np.int64], out: Array) -> Array:
        """The rows of ``rows`` in ``out``, without a copy between where that can be."""
        index = rows if self.index is None else self.index[rows]
        plain = self.columns is None and self.source.dtype == out.dtype
        if plain and isinstance(self.source, np.ndarray) and isinstance(index, np.ndarray):
            return np.take(self.source, index, axis=0, out=out, mode="clip")
        out[...] = self[rows]
        return out

    def subset(self, rows: NDArray[np.int64]) -> Rows:
        """The rows of ``rows``, still unread."""
        return Rows(self.source, rows if self.index is None else self.index[rows], self.columns)


class _Dataset:
    """A chunked or compressed HDF5 dataset, opened anew in every process that reads it."""

    def __init__(self, path: Path, dataset: h5py.Dataset):
        self.path, self.name = path, str(dataset.name)
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self._opened: tuple[int, h5py.Dataset] | None = None

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> Array:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (
                os.getpid(),
                h5py.File(self.path, "r", locking="best-effort")[self.name],
            )
        dataset = self._opened[1]
        if isinstance(key, slice):
            return np.asarray(dataset[key])
        distinct, inverse = np.unique(np.asarray(key), return_inverse=True)  # h5py wants increasing indices
        return np.asarray(dataset[distinct])[inverse]


class FeatureSet:
    """One split: features (N, D), labels (N,), logits (N, C), the joint classifier and the class counts.

    Built by :func:`load` from a file, or from arrays. Rows with ``valid == 0`` are left out of everything
    and counted in ``num_invalid``.

    Args:
        features: (N, D) float32 or float16, or None where there are only logits.
        labels: (N,) integers, 0 <= label < C.
        logits: (N, C) floating point, or None: then they are computed from ``features`` and ``head``.
        head: the joint classifier, or None.
        class_counts: (C,) training samples per class, or None.
        class_names: C names, or None.
        paths: N strings, or None.
        sample, view: (N,) integers, of several augmented views which sample a row shows, and which view of it.
        valid: (N,), 0 where an input could not be read.
        expert_bias: (E, C), the bias of each of several experts; see :meth:`expert`.
        part: some of the rows of the split only, so that ``class_counts`` need not be theirs.
        split: its name ("train", "val", "test", …).
        attrs: provenance.
        name: what to call it in messages.

    Raises:
        DataError: naming the file, the dataset, the requirement and the value found.
    """

    def __init__(
        self,
        features: Any = None,
        labels: Any = None,
        *,
        logits: Any = None,
        head: LinearHead | None = None,
        class_counts: Any = None,
        class_names: list[str] | None = None,
        paths: Any = None,
        sample: Any = None,
        view: Any = None,
        valid: Any = None,
        expert_bias: Any = None,
        part: bool = False,
        split: str = "",
        attrs: Mapping[str, Any] | None = None,
        name: str = "features",
    ):
        self.name, self.split, self.attrs = name, split, dict(attrs or {})
        self._knows_classes = True
        #: that all stored logits were seen to be finite, so that nobody needs to look again
        self.logits_are_finite = False
        self.head, self.class_names = head, class_names
        self.num_experts = int(self.attrs.get("experts", 1))
        self.expert_bias: Array | None = None if expert_bias is None else np.asarray(expert_bias, dtype=np.float32)
        self._check(
            features is not None or logits is not None,
            "'features' (N, D) or 'logits' (N, C) is required",
        )
        self._check(labels is not None, "'labels' (N,) is required")
        columns = {
            "labels": labels,
            "sample": sample,
            "view": view,
            "valid": valid,
            "class_counts": class_counts,
        }
        integers = {key: None if value is None else self._integers(key, value) for key, value in columns.items()}
        matrices = {key: self._matrix(key, value) for key, value in (("features", features), ("logits", logits))}

        all_labels = integers["labels"]
        assert all_labels is not None
        num_rows = len(all_labels)
        for key, value in {**matrices, **integers, "paths": paths}.items():
            if value is not None and key != "class_counts":
                self._check(
                    len(value) == num_rows,
                    f"'{key}' must have {num_rows} rows like 'labels', but has {len(value)}",
                )
        self.class_counts = integers["class_counts"]
        self.num_classes = self._num_classes(matrices["logits"], all_labels)

        keep = None if integers["valid"] is None or integers["valid"].all() else np.flatnonzero(integers["valid"])
        self.num_invalid = 0 if keep is None else num_rows - len(keep)
        self._features = self._kept(matrices["features"], keep)
        self._logits = self._kept(matrices["logits"], keep)
        self.labels: NDArray[np.int64] = all_labels if keep is None else all_labels[keep]
        self.sample = integers["sample"] if keep is None or integers["sample"] is None else integers["sample"][keep]
        self.view = integers["view"] if keep is None or integers["view"] is None else integers["view"][keep]
        self._paths = paths if keep is None or paths is None else np.asarray(paths[:])[keep]
        self._check_labels(all_labels)
        self._check_counts(all_labels, integers["sample"], whole=not part)
        self._check_head()
        self._check_experts()

    # -- what is inside ----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """N, rows that could not be read left out."""
        return len(self.labels)

    @property
    def num_features(self) -> int | None:
        """D, or None where only logits are stored."""
        return None if self._features is None else self._features.shape[1]

    @property
    def features(self) -> Any:
        """(N, D), as stored: a memory map, or :class:`Rows` where that cannot be."""
        if self._features is None:
            raise DataError(f"{self.name}: holds no 'features', only logits; extract them with ltpost extract")
        return self._plain(self._features)

    @property
    def logits(self) -> Any:
        """(N, C) of the joint classifier: the stored ones unread, or computed as a whole (then cached by nobody)."""
        if self._logits is not None:
            return self._plain(self._logits)
        return np.concatenate([scores for _, scores in self.score_blocks()])

    @property
    def has_logits(self) -> bool:
        """Whether logits are stored (they can otherwise be computed from features and head)."""
        return self._logits is not None

    @property
    def paths(self) -> list[str] | None:
        """Where each row came from, relative to the data root."""
        if self._paths is None:
            return None
        return [path.decode() if isinstance(path, bytes) else str(path) for path in self._paths[:]]

    @property
    def joint(self) -> LinearHead:
        """The joint classifier. Where only logits are known of it: the identity on those logits."""
        if self.head is not None:
            return self.head
        if self._logits is None:
            raise DataError(
                f"{self.name}: needs 'head/weight' (C, D) or 'logits' (N, C), but has neither; see ltpost extract"
            )
        return LinearHead.identity(self.num_classes)

    def stored(self) -> dict[str, str]:
        """Name of everything that is known, to its shape and type."""
        arrays = {
            "features": self._features,
            "labels": self.labels,
            "logits": self._logits,
            "head/weight": None if self.head is None else self.head.weight,
            "head/bias": None if self.head is None else self.head.bias,
            "head/expert_bias": self.expert_bias,
            "class_counts": self.class_counts,
            "sample": self.sample,
            "view": self.view,
        }
        found = {key: f"{value.shape} {value.dtype}" for key, value in arrays.items() if value is not None}
        if self.class_names is not None:
            found["class_names"] = f"({len(self.class_names)},) text"
        if self._paths is not None:
            found["paths"] = f"({len(self._paths)},) text"
        return found

    def require_head(self, why: str) -> LinearHead:
        """The joint classifier's weights, or an error that says what needs them."""
        if self.head is None:
            raise DataError(f"{self.name}: has no 'head/weight' (C, D), which {why}; ltpost extract stores it")
        return self.head

    def require_counts(self, why: str) -> NDArray[np.int64]:
        """The training class counts, or an error that says what needs them."""
        if self.class_counts is None:
            raise DataError(
                f"{self.name}: has no 'class_counts' (C,), which {why} needs; ltpost extract counts them in the "
                "training split, or reads them from --class-counts FILE"
            )
        return self.class_counts

    def shot_groups(self, many_shot: int = MANY_SHOT, few_shot: int = FEW_SHOT) -> ShotGroups | None:
        """The many/medium/few-shot classes, or None where the training counts are not known."""
        return None if self.class_counts is None else shot_groups(self.class_counts, many_shot, few_shot)

    def count_samples(self) -> NDArray[np.int64]:
        """Distinct samples per label, (C,): the class counts, if this is the training split."""
        return _count_samples(self.labels, self.sample, self.num_classes)

    def adopt(self, other: FeatureSet) -> None:
        """Take from ``other``, a file of the same extraction, the head, counts and names that are not known here.

        Raises:
            DataError: what both know does not agree.
        """

        def agree(same: bool, what: str) -> None:
            if not same:
                raise DataError(
                    f"{self.name} and {other.name} disagree on {what}; files of one folder must come from one "
                    "checkpoint and one training split"
                )

        sizes = (self.num_features, other.num_features)
        agree(None in sizes or sizes[0] == sizes[1], "D, the columns of 'features' ({} and {})".format(*sizes))
        for key in ("class_counts", "class_names"):
            mine, theirs = getattr(self, key), getattr(other, key)
            agree(mine is None or theirs is None or np.array_equal(mine, theirs), f"'{key}'")
        agree(self.head is None or other.head is None or self.head.same_as(other.head), "the joint classifier 'head'")
        if self._knows_classes and other._knows_classes:
            agree(self.num_classes == other.num_classes, f"C ({self.num_classes} and {other.num_classes})")
        elif other._knows_classes:
            self.num_classes, self._knows_classes = other.num_classes, True
        self.class_counts = other.class_counts if self.class_counts is None else self.class_counts
        self.class_names = self.class_names or other.class_names
        self._check_labels(self.labels)
        if self.head is None:
            self.head = other.head
            self._check_head()

    def expert(self, number: int) -> FeatureSet:
        """One of several experts, as a feature set of its own.

        A file of E experts holds their features side by side, D/E columns each, and as the joint classifier the mean
        of theirs, which is linear in all columns: W = [W_0 … W_{E-1}] / E, b = mean of b_e. So every method runs on
        the mean as it stands, and on one expert with this.

        Raises:
            DataError: there is no such expert.
        """
        self._check(0 <= number < self.num_experts, f"holds experts 0 to {self.num_experts - 1}, but not {number}")
        assert self._features is not None
        width = self._features.shape[1] // self.num_experts
        columns = slice(number * width, (number + 1) * width)
        part = object.__new__(FeatureSet)
        part.__dict__.update(self.__dict__)
        part.name, part.num_experts, part.expert_bias = f"{self.name}, expert {number}", 1, None
        part.attrs = {**self.attrs, "experts": 1, "expert": number}
        part._features, part._logits = Rows(self._features.source, self._features.index, columns), None
        if self.head is not None:
            bias = None if self.expert_bias is None else self.expert_bias[number]
            part.head = LinearHead(self.head.weight[:, columns] * self.num_experts, bias)
        return part

    def subset(self, rows: NDArray[np.int64]) -> FeatureSet:
        """The rows of ``rows`` (indices), still unread."""
        part = object.__new__(FeatureSet)
        part.__dict__.update(self.__dict__)
        part.num_invalid = 0
        part.labels = self.labels[rows]
        part._features = None if self._features is None else self._features.subset(rows)
        part._logits = None if self._logits is None else self._logits.subset(rows)
        part.sample = None if self.sample is None else self.sample[rows]
        part.view = None if self.view is None else self.view[rows]
        part._paths = None if self._paths is None else np.asarray(self._paths[:])[rows]
        return part

    # -- reading in blocks -------------------------------------------------------------------------------------------

    def block_rows(self) -> int:
        """How many rows make a block of about 16 MiB."""
        return max(16, BLOCK_ELEMENTS // max(self.num_classes, self.num_features or 1))

    def feature_blocks(
        self, rows: NDArray[np.int64] | None = None, size: int | None = None
    ) -> Iterator[tuple[slice, Array]]:
        """Blocks ``(slice, features)`` of the rows ``rows`` (default all), checked to be finite, as stored."""
        features = self.features
        for part, key in _parts(len(self) if rows is None else len(rows), size or self.block_rows(), rows):
            block = features[key]
            self._check_finite("features", block, key)
            yield part, block

    def score_blocks(
        self,
        head: Head | None = None,
        rows: NDArray[np.int64] | None = None,
        size: int | None = None,
    ) -> Iterator[tuple[slice, Array]]:
        """Blocks ``(slice, logits of head)``, float32, of the rows ``rows`` (default all).

        ``head`` defaults to the joint classifier. Stored logits are used for it and for every head that rescales
        it; other heads, and files without logits, cost a matrix product. The arrays may be views of the file.
        """
        head = self.joint if head is None else head
        stored = self.answers_for(head)
        size = size or (max(1, _STORED_ELEMENTS // self.num_classes) if stored else self.block_rows())
        read = self.score_reader(head)
        for part, key in _parts(len(self) if rows is None else len(rows), size, rows):
            yield part, read(key)
        if stored and rows is None:
            self.logits_are_finite = True

    def score_reader(self, head: Head | None = None) -> Callable[..., Array]:
        """A function that gives the logits of ``head``, (n, C) float32, see :meth:`score_blocks`.

        It takes a slice or an array of row numbers and, optionally, an array (n, C) float32 that it may compute in. It
        may be called from several threads.
        """
        head = self.joint if head is None else head
        features, logits = self._features, self._logits
        if not self.answers_for(head):
            if features is None:
                raise DataError(f"{self.name}: holds no 'features', only logits; extract them with ltpost extract")

            def multiply(key: slice | NDArray[np.int64], out: Array | None = None) -> Array:
                block = features[key]
                scores = head.logits(block)
                if not _adds_up(scores):  # what is not finite in the features is not in the scores either
                    self._check_finite("features", block, key)
                return scores

            return multiply
        scale = head.scale if isinstance(head, LinearHead) else None
        offset = head.offset if isinstance(head, LinearHead) else None
        assert logits is not None

        def read(key: slice | NDArray[np.int64], out: Array | None = None) -> Array:
            scores = logits[key] if out is None or isinstance(key, slice) else logits.take(key, out)
            if not self.logits_are_finite:
                self._check_finite("logits", scores, key)
            scores = scores.astype(np.float32, copy=False)
            if scale is not None:
                scores = out = np.multiply(scores, scale, out=out)
            if offset is not None:
                scores = np.add(scores, offset, out=out)
            return scores

        return read

    def answers_for(self, head: Head) -> bool:
        """Whether the logits of ``head`` follow from the stored ones, class by class."""
        if self._logits is None or not isinstance(head, LinearHead):
            return False
        if head.joint is not None:
            return head.joint.joint is None and self.answers_for(head.joint)
        if head.input == "logits":
            return head.num_classes == self.num_classes
        return self.head is not None and head.same_as(self.head)

    # -- writing -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a feature file; an existing one is replaced only when the new one is complete."""
        target = Path(path)
        datasets: dict[str, tuple[tuple[int, ...], Any]] = {}
        if self._features is not None:
            datasets["features"] = (self._features.shape, self._features.dtype)
        if self._logits is not None:
            datasets["logits"] = (self._logits.shape, np.float32)
        for key in ("sample", "view"):
            if getattr(self, key) is not None:
                datasets[key] = ((len(self),), np.int64)
        paths = self.paths
        if paths is not None:
            datasets["paths"] = ((len(self),), h5py.string_dtype())
        partial = start_file(
            target,
            self.labels,
            datasets,
            head=self.head,
            expert_bias=self.expert_bias,
            class_counts=self.class_counts,
            class_names=self.class_names,
            attrs={**self.attrs, "split": self.split or target.stem},
        )
        with h5py.File(partial, "r+") as file:
            for key, rows in (("features", self._features), ("logits", self._logits)):
                if rows is not None:
                    for part, index in _parts(len(self), self.block_rows(), None):
                        file[key][part] = rows[index].astype(datasets[key][1], copy=False)
            for key in ("sample", "view"):
                if key in datasets:
                    file[key][:] = getattr(self, key)
            if paths is not None:
                file["paths"][:] = paths
        finish_file(partial, target)
        return target

    # -- checks ------------------------------------------------------------------------------------------------------

    def _check(self, holds: bool | np.bool_, requirement: str) -> None:
        if not holds:
            raise DataError(f"{self.name}: {requirement}")

    def _integers(self, key: str, value: Any) -> NDArray[np.int64]:
        array = np.asarray(value)
        length = "C" if key == "class_counts" else "N"
        self._check(array.ndim == 1, f"'{key}' must have shape ({length},), but has {array.shape}")
        self._check(
            array.dtype.kind in "iu" or array.dtype == bool,
            f"'{key}' must hold integers, but holds {array.dtype}",
        )
        return array.astype(np.int64, copy=False)

    def _matrix(self, key: str, value: Any) -> Rows | None:
        if value is None:
            return None
        rows = value if isinstance(value, Rows) else Rows(value if isinstance(value, _Dataset) else np.asarray(value))
        columns = "D" if key == "features" else "C"
        self._check(len(rows.shape) == 2, f"'{key}' must have shape (N, {columns}), but has {rows.shape}")
        self._check(rows.dtype.kind == "f", f"'{key}' must be floating point, but is {rows.dtype}")
        return rows

    def _num_classes(self, logits: Rows | None, labels: NDArray[np.int64]) -> int:
        said = {
            "head/weight": None if self.head is None else self.head.num_classes,
            "logits": None if logits is None else logits.shape[1],
            "class_counts": None if self.class_counts is None else len(self.class_counts),
            "class_names": None if self.class_names is None else len(self.class_names),
        }
        found = {key: value for key, value in said.items() if value is not None}
        self._knows_classes = bool(found)
        if not found:
            return int(labels.max(initial=0)) + 1
        if len(set(found.values())) > 1:
            listed = ", ".join(f"'{key}' {value}" for key, value in found.items())
            self._check(False, f"the number of classes C must be one, but differs: {listed}")
        return next(iter(found.values()))

    def _check_labels(self, labels: NDArray[np.int64]) -> None:
        bad = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        if len(bad):
            row = int(bad[0])
            self._check(
                False,
                f"'labels' must be 0 <= label < C = {self.num_classes}, but row {row} is {labels[row]}"
                f"{f' (and {len(bad) - 1} more)' if len(bad) > 1 else ''}",
            )

    def _check_counts(self, labels: NDArray[np.int64], sample: NDArray[np.int64] | None, whole: bool) -> None:
        if self.class_counts is None:
            return
        for c in np.flatnonzero(self.class_counts < 0)[:1]:
            self._check(False, f"'class_counts' must not be negative, but class {c} has {self.class_counts[c]}")
        if self.split == "train" and whole:
            counted = _count_samples(labels, sample, self.num_classes)
            for c in np.flatnonzero(counted != self.class_counts)[:1]:
                self._check(
                    False,
                    f"'class_counts' of the train split must count its samples, but class {c} has {counted[c]} and the "
                    f"count is {self.class_counts[c]}",
                )

    def _check_head(self) -> None:
        """Shapes, and on some rows that features @ weight.T + bias reproduces the logits."""
        if self.head is None or self._features is None:
            return
        num_features = self._features.shape[1]
        self._check(
            self.head.num_features == num_features,
            f"'head/weight' must have D = {num_features} columns like 'features', but has {self.head.num_features}",
        )
        if self._logits is None or len(self) == 0:
            return
        rows = np.unique(np.linspace(0, len(self) - 1, _SPOT_CHECK_ROWS).astype(np.int64))
        stored, features = self._logits[rows], self._features[rows]
        self._check_finite("features", features, rows)
        self._check_finite("logits", stored, rows)
        difference = np.abs(self.head.logits(features) - stored).max(axis=1)
        allowed = 0.03 * np.maximum(1.0, np.abs(stored).max(axis=1))  # bfloat16 logits are within 1 %
        bad = np.flatnonzero(difference > allowed)
        self._check(
            len(bad) == 0,
            "features @ head/weight.T + head/bias must reproduce 'logits', but "
            + (f"row {rows[bad[0]]} differs by {difference[bad[0]]:.3g}" if len(bad) else "")
            + "; the head belongs to another checkpoint or layer",
        )

    def _check_experts(self) -> None:
        """The columns part evenly, and the mean of the experts' biases is the bias."""
        if self.num_experts == 1 and self.expert_bias is None:
            return
        columns, experts = self.num_features or 0, self.num_experts
        self._check(
            experts > 0 and columns > 0 and columns % experts == 0,
            f"'features' must have equally many columns for each of {experts} experts, but has {columns} in all",
        )
        if self.expert_bias is None:
            return
        shape = np.shape(self.expert_bias)
        self._check(
            shape == (experts, self.num_classes),
            f"'head/expert_bias' must have shape (E, C) = ({experts}, {self.num_classes}), but has {shape}",
        )
        bias = None if self.head is None else self.head.bias
        self._check(
            bias is not None and np.allclose(np.mean(self.expert_bias, axis=0), bias, rtol=1e-3, atol=1e-4),
            "'head/bias' must be the mean of 'head/expert_bias' over the experts",
        )

    def _check_finite(self, key: str, block: Array, rows: slice | NDArray[np.int64]) -> None:
        if _adds_up(block) or np.isfinite(block).all():
            return
        row = int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
        number = (rows.start or 0) + row if isinstance(rows, slice) else int(rows[row])
        what = "NaN" if np.isnan(block[row]).any() else "infinity"
        self._check(
            False,
            f"'{key}' must be finite, but row {number} holds {what}; mark such rows in 'valid' or extract them again",
        )

    @staticmethod
    def _kept(rows: Rows | None, keep: NDArray[np.int64] | None) -> Rows | None:
        return rows if rows is None or keep is None else rows.subset(keep)

    @staticmethod
    def _plain(rows: Rows) -> Any:
        if rows.index is None and isinstance(rows.source, np.ndarray):
            return rows.source if rows.columns is None else rows.source[:, rows.columns]
        return rows

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(f"<tr><td>{key}</td><td>{escape(value)}</td></tr>" for key, value in self.stored().items())
        return f"<table><caption>{escape(repr(self).partition(';')[0])})</caption>{rows}</table>"

    def __repr__(self) -> str:
        parts = [f"N={len(self)}", f"C={self.num_classes}"]
        if self.num_features is not None:
            parts.insert(1, f"D={self.num_features}")
        return f"FeatureSet({self.split or self.name}: {', '.join(parts)}; {', '.join(self.stored())})"


def _adds_up(block: Array) -> bool:
    """Whether the sum is finite: quick to see, and then every number is."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(block.sum(dtype=np.float32)))


def _count_samples(labels: NDArray[np.int64], sample: NDArray[np.int64] | None, num_classes: int) -> NDArray[np.int64]:
    if sample is not None:
        labels = labels[np.unique(sample, return_index=True)[1]]
    return np.bincount(labels, minlength=num_classes)


def _parts(total: int, size: int, rows: NDArray[np.int64] | None) -> Iterator[tuple[slice, slice | NDArray[np.int64]]]:
    """Pairs (position in the result, key into the stored rows)."""
    for start in range(0, total, size):
        part = slice(start, min(start + size, total))
        yield part, part if rows is None else rows[part]


# -- files ----------------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str], part: bool = False) -> FeatureSet:
    """Open a feature file. Big datasets stay on disk (memory-mapped) until they are used.

    A file written by hand with h5py (``features``, ``labels``, and where known ``head/weight``, ``head/bias``,
    ``class_counts``) will do; the full list is in FORMAT.md.

    Args:
        path: the file.
        part: it holds some of the rows of its split only, so that ``class_counts`` need not be theirs.

    Raises:
        DataError: the file breaks a rule of the format; the message says which, and what was found.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: no such feature file{_near(source)}")
    try:
        file = h5py.File(source, "r", locking="best-effort")
    except BlockingIOError:
        raise DataError(f"{source}: another process is writing this file; wait until it has finished") from None
    except OSError as error:
        reason = "is truncated" if "truncated" in str(error) else "is not an HDF5 file"
        raise DataError(f"{source}: {reason}; write it again with ltpost extract") from None
    with file:
        return _read(source, file, part)


def _near(source: Path) -> str:
    """What to do about a file that is not there."""
    if partial_name(source).is_file():
        return f", only an unfinished {partial_name(source).name}; run the same ltpost extract command again"
    others = sorted(other.name for other in source.parent.glob("*.h5")) if source.parent.is_dir() else []
    if others:
        return f"; {source.parent} has {', '.join(others)}"
    return "; write one with ltpost extract, or name the folder with --features"


def _read(source: Path, file: h5py.File, part: bool) -> FeatureSet:
    attrs = {key: _scalar(value) for key, value in file.attrs.items()}
    if attrs.get("format", FORMAT) != FORMAT:
        raise DataError(f"{source}: attribute 'format' must be '{FORMAT}', but is '{attrs['format']}'")
    version = attrs.get("format_version", FORMAT_VERSION)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise DataError(
            f"{source}: has format_version {version}, and this ltpost {__version__} reads up to {FORMAT_VERSION}; "
            "upgrade with pip install -U ltpost"
        )
    if attrs.get("state", "complete") != "complete":
        raise DataError(
            f"{source}: attribute 'state' is '{attrs['state']}', the extraction did not finish; run it again"
        )
    for key in ("features", "logits", "labels", "head/weight", "head/bias", "class_counts"):
        if key in file and not isinstance(file[key], h5py.Dataset):
            raise DataError(f"{source}: '{key}' must be a dataset, but is a group")
    weight, bias = _array(file, "head/weight"), _array(file, "head/bias")
    if bias is not None and weight is None:
        raise DataError(f"{source}: has 'head/bias' but no 'head/weight' (C, D)")
    head = None
    if weight is not None:
        for key, value in (("head/weight", weight), ("head/bias", bias)):
            if value is not None and value.dtype.kind != "f":
                raise DataError(f"{source}: '{key}' must be floating point, but is {value.dtype}")
            if value is not None and not np.isfinite(value).all():
                raise DataError(f"{source}: '{key}' must be finite, but holds NaN or infinity")
        try:
            head = LinearHead(weight, bias)
        except DataError as error:
            raise DataError(f"{source}: {error}") from None
    names = _array(file, "class_names")
    return FeatureSet(
        _stored(source, file, "features"),
        _array(file, "labels"),
        logits=_stored(source, file, "logits"),
        head=head,
        class_counts=_array(file, "class_counts"),
        class_names=None if names is None else [_text(name) for name in names],
        paths=_stored(source, file, "paths"),
        sample=_array(file, "sample"),
        view=_array(file, "view"),
        valid=_array(file, "valid"),
        expert_bias=_array(file, "head/expert_bias"),
        split=str(attrs.get("split", source.stem)),
        part=part or "shard" in attrs,
        attrs=attrs,
        name=str(source),
    )


def _array(file: h5py.File, key: str) -> Array | None:
    return np.asarray(file[key][()]) if key in file else None


def _stored(source: Path, file: h5py.File, key: str) -> Any:
    """A memory map of a contiguous dataset, else something that reads it when indexed."""
    if key not in file:
        return None
    dataset = file[key]
    if dataset.ndim == 0 or dataset.dtype.hasobject or dataset.id.get_offset() is None:
        return np.empty(dataset.shape, dataset.dtype) if dataset.size == 0 else _Dataset(source, dataset)
    return np.memmap(source, dataset.dtype, "r", offset=dataset.id.get_offset(), shape=dataset.shape)


def _scalar(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def partial_name(path: Path) -> Path:
    """Where the rows of an unfinished ``path`` are."""
    return path.with_name(f"{path.name}.partial")


def start_file(
    path: Path,
    labels: NDArray[np.int64],
    datasets: Mapping[str, tuple[tuple[int, ...], Any]],
    *,
    head: LinearHead | None = None,
    expert_bias: Array | None = None,
    class_counts: Any = None,
    class_names: list[str] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Path:
    """Create ``<path>.partial`` with everything that is known before the first row, and room for the rest.

    Args:
        path: the final name.
        labels: (N,).
        datasets: name to (shape, dtype) of what is to be filled in; contiguous, uncompressed.
        head: the joint classifier.
        expert_bias: (E, C), of several experts; see :meth:`FeatureSet.expert`.
        class_counts: (C,).
        class_names: C names.
        attrs: provenance; ``format``, ``format_version``, ``state``, ``ltpost_version`` and ``created`` are set here.

    Returns:
        The path of the partial file, closed; open it with ``h5py.File(partial, "r+")``.
    """
    partial = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(partial, "w") as file:
            file.attrs.update(
                {
                    "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                    "ltpost_version": __version__,
                    **(attrs or {}),
                    "format": FORMAT,
                    "format_version": FORMAT_VERSION,
                    "state": "partial",
                }
            )
            file.create_dataset("labels", data=np.asarray(labels, dtype=np.int64))
            for key, (shape, dtype) in datasets.items():
                file.create_dataset(
                    key, shape=shape, dtype=dtype, dcpl=None if np.dtype(dtype).hasobject else _allocated_now()
                )
            if head is not None:
                file.create_dataset("head/weight", data=head.weight)
                if head.bias is not None:
                    file.create_dataset("head/bias", data=head.bias)
            if expert_bias is not None:
                file.create_dataset("head/expert_bias", data=np.asarray(expert_bias, dtype=np.float32))
            if class_counts is not None:
                file.create_dataset("class_counts", data=np.asarray(class_counts, dtype=np.int64))
            if class_names is not None:
                file.create_dataset("class_names", data=class_names, dtype=h5py.string_dtype())
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place with --out"
        ) from None
    return partial


def _allocated_now() -> h5py.h5p.PropDCID:
    """Contiguous, with its place in the file from the start, filled by nobody but its writer."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return properties


def finish_file(partial: Path, path: Path) -> None:
    """Mark a partial file complete and give it its final name in one step, on disk before anything says so."""
    with h5py.File(partial, "r+", locking=False) as file:
        file.attrs["state"] = "complete"
        file.flush()
        os.fsync(file.id.get_vfd_handle())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
