"""What is diagnosed: a head on the rows of a split. Passes over the rows are made once, and only when needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ltpost.data.class_sums import class_sums
from ltpost.data.features import FeatureSet
from ltpost.data.priors import GROUPS, ShotGroups
from ltpost.errors import DataError
from ltpost.heads import Array, Head
from ltpost.heads.blocks import score_blocks
from ltpost.heads.protocol import Layer


@dataclass(frozen=True)
class Answers:
    """What a head says of every row.

    Attributes:
        predicted: (N,) class of the greatest score.
        margin: (N,) score of the true class less the greatest of the others; above 0 where the row is right.
        prior: (C,) mean of the softmax.
    """

    predicted: NDArray[np.int64]
    margin: Array
    prior: Array


class Subject:
    """A head on a split.

    Args:
        feature_set: labelled rows.
        head: the classifier; default the joint one.
        groups: many/medium/few-shot classes; default from its ``class_counts``.

    Raises:
        DataError: no rows, another number of classes, or no class counts.
    """

    def __init__(self, feature_set: FeatureSet, head: Head | None = None, groups: ShotGroups | None = None):
        self.rows = feature_set
        known = feature_set.head is not None or feature_set.has_logits
        #: the joint classifier, or None where it is not known
        self.joint: Head | None = feature_set.joint if known else None
        self.head: Head = feature_set.joint if head is None else head
        self.is_joint = head is None or head is feature_set.head
        if len(feature_set) == 0:
            raise DataError(f"{feature_set.name}: has no readable rows, so there is nothing to diagnose")
        if self.head.num_classes != feature_set.num_classes:
            raise DataError(
                f"{feature_set.name}: has C = {feature_set.num_classes} classes, but the head has "
                f"{self.head.num_classes}; it was made for other features"
            )
        self.counts: NDArray[np.int64] = feature_set.require_counts("a diagnosis")
        shots = feature_set.shot_groups() if groups is None else groups
        assert shots is not None
        self.groups: ShotGroups = shots
        self.totals = np.bincount(feature_set.labels, minlength=feature_set.num_classes)
        self.present: NDArray[np.bool_] = self.totals > 0

    def with_head(self, head: Head) -> Subject:
        """Another head on the same rows; what was found out of the features alone is kept."""
        other = Subject(self.rows, head, self.groups)
        kept = ("means", "directions", "within_scatter")
        other.__dict__.update({name: value for name, value in self.__dict__.items() if name in kept})
        return other

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,)."""
        return self.rows.labels

    @property
    def num_classes(self) -> int:
        """C."""
        return self.rows.num_classes

    @property
    def log_counts(self) -> Array:
        """The logarithm of n_c, (C,); NaN for classes without a training sample."""
        logs: Array = np.log(np.where(self.counts > 0, self.counts, np.nan))
        return logs

    def members(self) -> dict[str, NDArray[np.bool_]]:
        """Name of every group that has rows to its classes with rows, (C,); "all" last."""
        inside = {name: getattr(self.groups, name) & self.present for name in GROUPS}
        return {**{name: classes for name, classes in inside.items() if classes.any()}, "all": self.present}

    def group_means(self, *per_class: Array) -> list[list[str | float]]:
        """Rows of a table: the group, and the mean over its classes of each of ``per_class``, NaN left out."""
        rows: list[list[str | float]] = []
        for name, classes in self.members().items():
            rows.append([name, *(mean_of_known(values[classes]) for values in per_class)])
        return rows

    @cached_property
    def linear(self) -> Layer:
        """The head as one linear layer.

        Raises:
            DataError: it is none.
        """
        layer = self.head.linear()
        if layer is None:
            raise DataError(f"{self.rows.name}: the head is no linear layer, so it has no weights to look at")
        return layer

    # -- passes ------------------------------------------------------------------------------------------------------

    def scores(self, head: Head | None = None) -> Iterator[tuple[slice, Array]]:
        """Blocks of logits, float64, of the head or of another one; they have the same rows for every head."""
        size = max(1, self.rows.block_rows() // 4)
        for part, block in score_blocks(self.head if head is None else head, self.rows, size):
            yield part, block.astype(np.float64)

    @cached_property
    def answers(self) -> Answers:
        """One pass over the scores; O(N + C) memory."""
        predicted, margin = np.empty(len(self.rows), np.int64), np.empty(len(self.rows))
        prior = np.zeros(self.num_classes)
        for part, scores in self.scores():
            labels, at = self.labels[part], np.arange(len(scores))
            predicted[part] = scores.argmax(axis=1)
            prior += softmax(scores).sum(axis=0)
            own = scores[at, labels]
            scores[at, labels] = -np.inf
            margin[part] = own - scores.max(axis=1)
        return Answers(predicted, margin, prior / len(self.rows))

    @cached_property
    def accuracy(self) -> Array:
        """(C,), NaN for classes without rows."""
        hits = np.bincount(self.labels[self.answers.predicted == self.labels], minlength=self.num_classes)
        return per_row(hits, self.totals)

    @cached_property
    def means(self) -> Array:
        """Class means m_c of the features, (C, D) float64, NaN for classes without rows; one pass."""
        return per_row(class_sums(self.rows), self.totals[:, None])

    @cached_property
    def directions(self) -> tuple[Array, Array]:
        """Sums of x / ‖x‖ over the rows of every class (C, D), and the mean ‖x‖ (C,); one pass."""
        sums = class_sums(self.rows, _unit)
        norms = np.zeros(self.num_classes)
        for part, block in self.rows.feature_blocks():
            lengths = np.linalg.norm(block.astype(np.float64), axis=1)
            norms += np.bincount(self.labels[part], lengths, self.num_classes)
        return sums, per_row(norms, self.totals)

    @cached_property
    def within_scatter(self) -> Array:
        """Σ_i (x_i - m_y)(x_i - m_y)ᵀ, (D, D) float64; one pass of N D² products, D² memory."""
        features = self.rows.num_features or 0
        scatter = np.zeros((features, features))
        for part, block in self.rows.feature_blocks():
            centred = block.astype(np.float64) - self.means[self.labels[part]]
            scatter += centred.T @ centred
        return scatter


def softmax(scores: Array) -> Array:
    """Of every row."""
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result


def per_row(sums: Array, totals: Array) -> Array:
    """Means from sums; NaN where there are no rows."""
    with np.errstate(invalid="ignore"):
        means: Array = np.where(totals > 0, sums / np.where(totals > 0, totals, 1), np.nan)
    return means


def mean_of_known(values: Array) -> float:
    """Mean of the values that are finite; NaN where none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def unit_rows(matrix: Array) -> Array:
    """Every row divided by its norm; 0 stays 0."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    result: Array = matrix / np.where(norms > 0, norms, 1)
    return result


def _unit(block: Array) -> Array:
    return unit_rows(block)
