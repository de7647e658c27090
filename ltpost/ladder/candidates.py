"""Heads that may be kept, each with what it does on val rows that it was not chosen on.

A candidate is a recipe that was carried out once on all of val, for the head, and once for each fold on the other
folds, for an honest judgement of its rows. It can be carried out again on other rows of the same images (their views).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost import methods
from ltpost.data.features import FeatureSet
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.experiment import Experiment
from ltpost.heads import Array, Head, RescaledHead, weighted_sum
from ltpost.method import TRANSDUCTIVE
from ltpost.scores.posteriors import spread_of_logits
from ltpost.scores.predict import predict
from ltpost.scores.sinkhorn import shift_to_prior

Folds = list[tuple[Head, NDArray[np.int64]]]
Correct = NDArray[np.bool_]


@dataclass(frozen=True)
class Candidate:
    """A head, and how good it is on rows of val that it was not chosen on.

    Attributes:
        name: of the method, or of what is mixed.
        detail: the chosen values and labels, as text.
        head: chosen, and fitted where it fits to val, on all of val.
        by_fold: the same recipe on the other folds, and the rows of the fold.
        correct: (N,) which rows of val are right, each by the head of its fold.
        in_sample: (N,) which rows are right by ``head`` itself.
        again: carries the recipe out on the rows of another experiment.
        for_rows: the head for rows to classify; a transductive one is made anew for them, without their labels.
        fits_on_val: whether weights were fitted to val labels, not only a value chosen.
        transductive: whether it sees the rows to classify.
        both_views: whether it reads the mean of several views of each image.
        is_mean: whether it is the mean of other candidates.
    """

    name: str
    detail: str
    head: Head
    by_fold: Folds
    correct: Correct
    in_sample: Correct
    again: Callable[[Experiment], Candidate]
    for_rows: Callable[[FeatureSet], Head] = field(repr=False)
    fits_on_val: bool = False
    transductive: bool = False
    both_views: bool = False
    is_mean: bool = False

    @property
    def is_linear(self) -> bool:
        """Whether it is one linear layer for images that are seen once, as ``ltpost export`` writes it."""
        return self.head.linear() is not None and not self.both_views and not self.transductive

    @property
    def label(self) -> str:
        """Name and detail."""
        return ", ".join(part for part in (self.name, self.detail) if part)


def _judged(head: Head, by_fold: Folds, split: FeatureSet, device: str) -> tuple[Correct, Correct]:
    """``correct`` and ``in_sample`` of a candidate."""
    correct = np.zeros(len(split), dtype=bool)
    for one, inside in by_fold:
        rows = split.subset(inside)
        correct[inside] = predict(one, rows, device) == rows.labels
    return correct, predict(head, split, device) == split.labels


def of_method(experiment: Experiment, key: str, **options: Any) -> Candidate:
    """A method of the table, chosen on val.

    Raises:
        DataError: the files lack what it needs, or it cannot be fitted.
    """
    method, split, device = methods.get(key), experiment.chosen_on, experiment.device
    choice, family_of = experiment.choose(method, **options)
    by_fold = experiment.selection_of(method).chosen_by_fold(split, choice, family_of)
    correct, in_sample = _judged(choice.head, by_fold, split, device)
    info, detail = experiment.description(method, options, choice)
    transductive = bool(set(TRANSDUCTIVE) & set(method.needs))

    def described(head: Head) -> Head:
        head.info.clear()
        head.info.update(info)
        return head

    def for_rows(rows: FeatureSet) -> Head:
        if not transductive:
            return choice.head
        return described(experiment.family(method, options, split, rows).head_of(choice.best))

    return Candidate(
        key,
        detail,
        described(choice.head),
        by_fold,
        correct,
        in_sample,
        lambda other: of_method(other, key, **options),
        for_rows,
        fits_on_val=family_of is not None,
        transductive=transductive,
    )


def mean_of(
    experiment: Experiment, pool: Sequence[Candidate], members: Callable[[NDArray[np.int64]], list[int]]
) -> Candidate:
    """The mean of some candidates, their logits brought to the same scale; one linear layer where all of them are.

    Args:
        experiment: whose val the candidates were chosen on.
        pool: candidates of one experiment.
        members: the numbers of those that are averaged, from the rows of val that may be looked at: all of them for the
            head, those of the other folds for the head of a fold.
    """
    split, chosen = experiment.chosen_on, members(np.arange(len(experiment.chosen_on)))

    def mean(heads: Sequence[Head]) -> Head:
        if len(heads) == 1:
            return heads[0]
        spreads = [spread_of_logits(split, head) or 1.0 for head in heads]
        return weighted_sum(heads, [1 / (spread * len(heads)) for spread in spreads])

    head, by_fold = mean([pool[number].head for number in chosen]), []
    for fold, (_, inside) in enumerate(pool[0].by_fold):
        others = np.setdiff1d(np.arange(len(split)), inside)
        by_fold.append((mean([pool[number].by_fold[fold][0] for number in members(others)]), inside))
    correct, in_sample = _judged(head, by_fold, split, experiment.device)
    if len(chosen) == 1:
        return replace(pool[chosen[0]], by_fold=by_fold, correct=correct)
    names = [pool[number].name for number in chosen]
    fits = any(pool[number].fits_on_val for number in chosen)
    head.info = {
        "method": "mean of heads",
        "params": {"heads": [pool[number].label for number in chosen]},
        "selected_on": split.split,
        "select": experiment.select,
        "fitted_to": sorted({name for number in chosen for name in pool[number].head.info.get("fitted_to", ())}),
        "signature": " + ".join(str(pool[number].head.info.get("signature", "")) for number in chosen),
    }

    def again(other: Experiment) -> Candidate:
        remade = [pool[number].again(other) for number in chosen]
        return mean_of(other, remade, lambda _: list(range(len(remade))))

    return Candidate(
        "mean of " + ", ".join(names),
        "fits on val" if fits else "",
        head,
        by_fold,
        correct,
        in_sample,
        again,
        lambda rows: head,
        fits_on_val=fits,
        is_mean=True,
    )


def shifted_to_prior(experiment: Experiment, base: Candidate, log_prior: Array) -> Candidate:
    """A candidate, shifted until its mean prediction on the rows to classify is a known class prior, (C,).

    No label of those rows is read: on val the rows are val itself, and the head of each fold is shifted on them.
    """
    split = experiment.chosen_on

    def shifted(head: Head, rows: FeatureSet) -> Head:
        changed = RescaledHead(head, offset=shift_to_prior(UnlabelledRows(rows), head, log_prior)[0])
        changed.info = {**head.info, "method": f"{head.info.get('method', base.name)} and sinkhorn"}
        return changed

    head = shifted(base.head, split)
    by_fold = [(shifted(one, split), inside) for one, inside in base.by_fold]
    correct, in_sample = _judged(head, by_fold, split, experiment.device)
    return Candidate(
        f"{base.name} and sinkhorn",
        ", ".join(part for part in (base.detail, "transductive") if part),
        head,
        by_fold,
        correct,
        in_sample,
        lambda other: shifted_to_prior(other, base.again(other), log_prior),
        lambda rows: shifted(base.for_rows(rows), rows),
        fits_on_val=base.fits_on_val,
        transductive=True,
        both_views=base.both_views,
    )


def _no_recipe(experiment: Experiment) -> Candidate:
    raise AssertionError("the joint classifier is no rung of its own")


def of_joint(experiment: Experiment) -> Candidate | None:
    """The joint classifier, the foot of the ladder; None where it is not known."""
    split = experiment.chosen_on
    if split.head is None and not split.has_logits:
        return None
    head = split.joint
    right = predict(head, split, experiment.device) == split.labels
    return Candidate("joint", "", head, [], right, right, _no_recipe, lambda rows: head)
