"""A feature set: the cached features, logits and labels of one split, and what is known of its classes.

What this module does not do: read or write files (``load``, ``save``), read rows (``matrices``), pick out one of
several experts (``with_experts``), or state the rules of the format (``checks``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.data import checks, views
from ltpost.data.expert_columns import widths_of
from ltpost.data.layers import Layer
from ltpost.data.priors import FEW_SHOT, MANY_SHOT, ShotGroups, shot_groups
from ltpost.data.rows import Rows, decoded
from ltpost.data.save import save_split
from ltpost.data.with_experts import WithExperts
from ltpost.errors import DataError
from ltpost.heads import Array, JoinedHead, JointHead, LinearHead
from ltpost.heads.blocks import score_blocks

MOST_CLASSES = 10**8  # of which counts still fit into memory

#: the name of a feature set that came from no file
UNNAMED = "features"


class FeatureSet(WithExperts):
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
        sample, view: (N,) integers. Where there are several augmented views, the sample that a row shows, and its view.
        valid: (N,), 0 where an input could not be read.
        expert_bias: (E, C), the bias of each of several experts; see :meth:`expert`.
        experts: the feature sets of several experts that this one combines; see ``data.experts.side_by_side``.
        layers: name to (N, D_l) pooled features of an earlier layer, or to a :class:`~ltpost.data.layers.Layer`.
        part: the rows are a part of the split, so that ``class_counts`` need not count them.
        split: its name ("train", "val", "test", …).
        attrs: provenance.
        name: its name in messages.

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
        class_names: Sequence[str | bytes] | None = None,
        paths: Any = None,
        sample: Any = None,
        view: Any = None,
        valid: Any = None,
        expert_bias: Any = None,
        experts: Sequence[FeatureSet] = (),
        layers: Mapping[str, Any] | None = None,
        part: bool = False,
        split: str = "",
        attrs: Mapping[str, Any] | None = None,
        name: str = UNNAMED,
    ):
        self.name, self.split, self.attrs = name, split, dict(attrs or {})
        self.logits_are_finite = False
        self.head = head
        self.class_names = None if class_names is None else [_as_text(one) for one in class_names]
        if head is not None:
            checks.head_is_finite(name, head)
        #: rows that show augmented views of these, in a file of their own; see :meth:`two_views`
        self.view_rows: FeatureSet | None = None
        self._experts: dict[int, FeatureSet] = dict(enumerate(experts))
        self.expert_bias: Array | None = None if expert_bias is None else np.asarray(expert_bias, dtype=np.float32)
        checks.require(
            name, features is not None or logits is not None, "'features' (N, D) or 'logits' (N, C) is required"
        )
        checks.require(name, labels is not None, "'labels' (N,) is required")
        columns = {"labels": labels, "sample": sample, "view": view, "valid": valid, "class_counts": class_counts}
        integers = {key: None if value is None else checks.integers(name, key, value) for key, value in columns.items()}
        matrices = {key: checks.matrix(name, key, value) for key, value in (("features", features), ("logits", logits))}
        all_labels, counts = integers["labels"], integers.pop("class_counts")
        assert all_labels is not None
        checks.equal_lengths(name, len(all_labels), {**matrices, **integers, "paths": paths})
        num_classes = checks.one_number_of_classes(
            name,
            {
                "head/weight": None if head is None else head.num_classes,
                "logits": None if matrices["logits"] is None else matrices["logits"].shape[1],
                "class_counts": None if counts is None else len(counts),
                "class_names": None if class_names is None else len(class_names),
            },
        )
        self._knows_classes = num_classes is not None
        self.num_classes: int = int(all_labels.max(initial=0)) + 1 if num_classes is None else num_classes
        self.class_counts: NDArray[np.int64] | None = counts
        checks.require(name, self.num_classes <= MOST_CLASSES, f"there are {self.num_classes:,} classes by the labels")
        checks.labels_in_range(name, all_labels, self.num_classes)
        if counts is not None:
            whole = split == "train" and not part
            counted = _count_samples(all_labels, integers["sample"], self.num_classes) if whole else None
            checks.counts_are_possible(name, counts, counted)

        keep = None if integers["valid"] is None or integers["valid"].all() else np.flatnonzero(integers["valid"])
        self.num_invalid = 0 if keep is None else len(all_labels) - len(keep)
        self._features = self._kept(matrices["features"], keep)
        self._logits = self._kept(matrices["logits"], keep)
        self.layers = {
            key: Layer.checked(name, key, value, len(all_labels), keep) for key, value in (layers or {}).items()
        }
        self.labels: NDArray[np.int64] = all_labels if keep is None else all_labels[keep]
        self.sample = integers["sample"] if keep is None or integers["sample"] is None else integers["sample"][keep]
        self.view = integers["view"] if keep is None or integers["view"] is None else integers["view"][keep]
        self._numbers = keep  # in the file, of the rows that are left
        self._paths = paths if keep is None or paths is None else np.asarray(paths[:])[keep]
        self.num_experts = int(self.attrs.get("experts", 1))
        self.expert_widths = widths_of(self.attrs, self.num_features, name)
        self.num_experts = max(self.num_experts, len(self.expert_widths))
        if not experts:
            checks.experts_fit(
                name,
                self.num_experts,
                self.expert_widths,
                self.num_features,
                self.num_classes,
                None if head is None else head.bias,
                self.expert_bias,
            )
        if self.expert_widths and head is not None and not isinstance(head, JoinedHead):
            self.head = JoinedHead(head.weight, head.bias, self.expert_widths, self.expert_bias)
        self._check_head()

    # -- what is inside ----------------------------------------------------------------------------------------------

    @property
    def logits(self) -> Any:
        """(N, C) of the joint classifier: the stored ones unread, or computed anew at every call."""
        if self._logits is not None:
            return self._plain(self._logits)
        return np.concatenate([scores for _, scores in score_blocks(self.joint, self)])

    @property
    def paths(self) -> list[str] | None:
        """Where each row came from, relative to the data root."""
        if self._paths is None:
            return None
        return [decoded(path) for path in self._paths[:]]

    @property
    def joint(self) -> LinearHead | JointHead:
        """The joint classifier. Where only its logits are known: a head that reads them."""
        if self.head is not None:
            return self.head
        if self._logits is None:
            raise DataError(
                f"{self.name}: needs 'head/weight' (C, D) or 'logits' (N, C), but has neither; see ltpost extract"
            )
        return JointHead(self.num_classes)

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
        shapes = {key: f"{value.shape} {value.dtype}" for key, value in arrays.items() if value is not None}
        shapes.update({f"layers/{key}": f"{layer.shape} {layer.dtype}" for key, layer in self.layers.items()})
        if self.class_names is not None:
            shapes["class_names"] = f"({len(self.class_names)},) text"
        if self._paths is not None:
            shapes["paths"] = f"({len(self._paths)},) text"
        return shapes

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
        for key in self.layers.keys() & other.layers.keys():
            widths = [layer.shape[1] for layer in (self.layers[key], other.layers[key])]
            agree(widths[0] == widths[1], f"the columns of 'layers/{key}' ({widths[0]} and {widths[1]})")
            for what in ("module", "pooling"):
                texts = [layer.attrs.get(what) for layer in (self.layers[key], other.layers[key])]
                agree(
                    None in texts or texts[0] == texts[1], f"the {what} of 'layers/{key}' ({texts[0]} and {texts[1]})"
                )
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
        checks.labels_in_range(self.name, self.labels, self.num_classes)
        if self.head is None:
            self.head = other.head
            self._check_head()

    @property
    def samples(self) -> NDArray[np.int64]:
        """Which sample each row shows, (N,): ``sample``, or the number of the row in its file."""
        if self.sample is not None:
            return self.sample
        return np.arange(len(self)) if self._numbers is None else self._numbers

    @property
    def has_views(self) -> bool:
        """Whether there are several views of each row: in a file of their own, or among the rows."""
        return self.view_rows is not None or (self.view is not None and len(np.unique(self.view)) > 1)

    def two_views(self) -> tuple[FeatureSet, NDArray[np.int64]]:
        """Rows that show augmented views, and which two of them show each of these rows, (N, 2).

        They come from the file ``<split>-views.h5`` beside ``<split>.h5``, whose rows are then the plain ("centre")
        views; without that file, from the rows themselves, all views of an image getting the same two.

        Raises:
            DataError: there are no views, or fewer than two of some row.
        """
        rows = self if self.view_rows is None else self.view_rows
        return rows, views.two_of_each(self, rows)

    def subset(self, rows: NDArray[np.int64]) -> FeatureSet:
        """The rows of ``rows`` (indices), still unread."""
        part = copy(self)
        part.num_invalid = 0
        part.labels = self.labels[rows]
        part._numbers = None if self.sample is not None else self.samples[rows]
        part._experts = {number: expert.subset(rows) for number, expert in self._experts.items()}
        part._features = None if self._features is None else self._features.subset(rows)
        part._logits = None if self._logits is None else self._logits.subset(rows)
        part.layers = {key: layer.subset(rows) for key, layer in self.layers.items()}
        part.sample = None if self.sample is None else self.sample[rows]
        part.view = None if self.view is None else self.view[rows]
        part._paths = None if self._paths is None else np.asarray(self._paths[:])[rows]
        return part

    # -- writing -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a feature file; an existing one is replaced only when the new one is complete."""
        target = Path(path)
        columns = {"sample": self.sample, "view": self.view, "paths": self.paths}
        save_split(
            target,
            self,
            {key: values for key, values in columns.items() if values is not None},
            head=self.head,
            expert_bias=self.expert_bias,
            class_counts=self.class_counts,
            class_names=self.class_names,
            attrs={**self.attrs, "split": self.split or target.stem},
        )
        return target

    # -- details ------------------------------------------------------------------------------------------------------

    def _check_head(self) -> None:
        if self.head is not None and self._features is not None:
            checks.head_gives_logits(self.name, self.head, self._features, self._logits)

    @staticmethod
    def _kept(rows: Rows | None, keep: NDArray[np.int64] | None) -> Rows | None:
        return rows if rows is None or keep is None else rows.subset(keep)

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(f"<tr><td>{key}</td><td>{escape(value)}</td></tr>" for key, value in self.stored().items())
        return f"<table><caption>{escape(repr(self).partition(';')[0])})</caption>{rows}</table>"

    def __repr__(self) -> str:
        parts = [f"N={len(self)}", f"C={self.num_classes}"]
        if self.num_features is not None:
            parts.insert(1, f"D={self.num_features}")
        return f"FeatureSet({self.split or self.name}: {', '.join(parts)}; {', '.join(self.stored())})"


def _count_samples(labels: NDArray[np.int64], sample: NDArray[np.int64] | None, num_classes: int) -> NDArray[np.int64]:
    if sample is not None:
        labels = labels[np.unique(sample, return_index=True)[1]]
    return np.bincount(labels, minlength=num_classes)


def _as_text(name: str | bytes) -> str:
    """A name; pickles of CIFAR and arrays of numpy have bytes."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
