"""Several experts (RIDE, SADE, BalPoE, …, or networks of your own) as one feature set.

    z = 1/E Σ_e W_e x_e + b_e = [W_0 … W_{E-1}]/E · [x_0; …; x_{E-1}] + mean b_e

The mean of the experts' logits is linear in their features side by side, so that a file of several experts is an
ordinary one: every method runs on the mean, and on one expert through :meth:`ltpost.FeatureSet.expert`.
:func:`side_by_side` makes one feature set of several, without reading them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.data.rows import Rows
from ltpost.errors import DataError
from ltpost.heads import Array, JoinedHead

#: provenance that is the same for all experts, or is left out
_COMMON = ("arch", "transform", "dataset", "dtype", "amp", "views", "class_order")


class SideBySide:
    """Columns of several matrices with the same rows, one after the other; or the mean of the matrices. Unread.

    Args:
        parts: (N, D_e) each.
        mean: of matrices of the same shape, instead of their columns.
    """

    def __init__(self, parts: Sequence[Any], *, mean: bool = False):
        self.parts, self.mean = list(parts), mean
        width = parts[0].shape[1] if mean else sum(part.shape[1] for part in parts)
        self.shape: tuple[int, ...] = (len(parts[0]), width)
        self.dtype = np.dtype(np.float32) if mean else np.result_type(*(part.dtype for part in parts))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Array:
        blocks = [part[key] for part in self.parts]
        if self.mean:
            return np.asarray(np.mean([block.astype(np.float32) for block in blocks], axis=0, dtype=np.float32))
        return np.concatenate(blocks, axis=1)


def side_by_side(experts: Sequence[FeatureSet]) -> FeatureSet:
    """One feature set of several experts, from one of each. Nothing is copied; ``save`` writes it as one file.

    Args:
        experts: the same rows in the same order, each with features and a head, or each with logits.

    Raises:
        DataError: they do not hold the same rows, classes or counts, or one lacks what the others have.
    """
    first = experts[0]
    for other in experts[1:]:
        _same_rows(first, other)
    with_features = all(expert.num_features is not None for expert in experts)
    heads = [expert.head for expert in experts if expert.head is not None]
    with_heads = len(heads) == len(experts)
    with_logits = all(expert.has_logits for expert in experts)
    if not with_logits and not with_features:
        raise DataError(
            f"{' and '.join(expert.name for expert in experts)}: several experts must all hold 'features', or all hold "
            "'logits'; extract what is missing"
        )
    attrs: dict[str, Any] = {
        key: first.attrs[key]
        for key in _COMMON
        if key in first.attrs and all(expert.attrs.get(key) == first.attrs[key] for expert in experts)
    }
    widths = [expert.num_features or 0 for expert in experts]
    attrs["experts"] = len(experts)
    if with_features and len(set(widths)) > 1:
        del attrs["experts"]
        attrs["expert_widths"] = json.dumps(widths)
    if all("checkpoint" in expert.attrs for expert in experts):
        attrs["checkpoint"] = ", ".join(str(expert.attrs["checkpoint"]) for expert in experts)
    sums = [str(expert.attrs.get("checkpoint_sha256", "")) for expert in experts]
    if all(sums):
        attrs["checkpoint_sha256"] = hashlib.sha256("".join(sums).encode()).hexdigest()
    joined = JoinedHead.of(heads) if with_features and with_heads else None
    return FeatureSet(
        Rows(SideBySide([expert.features for expert in experts])) if with_features else None,
        first.labels,
        logits=Rows(SideBySide([expert.logits for expert in experts], mean=True)) if with_logits else None,
        head=joined,
        expert_bias=None if joined is None else joined.expert_bias,
        class_counts=next((expert.class_counts for expert in experts if expert.class_counts is not None), None),
        class_names=next((expert.class_names for expert in experts if expert.class_names), None),
        paths=first.paths,
        sample=first.sample,
        view=first.view,
        part=True,
        split=first.split,
        attrs=attrs,
        name=", ".join(expert.name for expert in experts),
        experts=experts,
    )


def _same_rows(first: FeatureSet, other: FeatureSet) -> None:
    """Raise DataError unless both hold the same rows in the same order, and the same classes."""
    both = f"{first.name} and {other.name}"

    def require(holds: bool, what: str) -> None:
        if not holds:
            raise DataError(
                f"{both} must hold the same rows in the same order to be experts of one ensemble, but {what}; extract "
                "both from the same data"
            )

    require(len(first) == len(other), f"have {len(first):,} and {len(other):,} readable rows")
    differ = np.flatnonzero(first.labels != other.labels)
    for row in differ[:1]:
        require(False, f"the label of row {row} is {first.labels[row]} and {other.labels[row]}")
    paths, others = first.paths, other.paths
    if paths is not None and others is not None and paths != others:
        row = next(row for row, (path, its) in enumerate(zip(paths, others, strict=True)) if path != its)
        require(False, f"row {row} is {paths[row]} and {others[row]}")
    for key in ("samples", "view"):
        mine, theirs = getattr(first, key), getattr(other, key)
        same = (mine is None) == (theirs is None) and (mine is None or np.array_equal(mine, theirs))
        require(same, f"'{'sample' if key == 'samples' else key}' differs")
    require(first.num_classes == other.num_classes, f"have {first.num_classes} and {other.num_classes} classes")
    for key in ("class_counts", "class_names"):
        mine, theirs = getattr(first, key), getattr(other, key)
        require(mine is None or theirs is None or np.array_equal(mine, theirs), f"'{key}' differs")
