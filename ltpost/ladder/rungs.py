"""What the ladder tries, from cheap to rich.

    single methods, tau-normalization x logit adjustment, LDA on the last layer, mixed heads, earlier layers,
    heads that fit on val too, several views, a known class prior

Mixing comes after LDA, so that there is more to mix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ltpost import methods
from ltpost.experiment import Experiment
from ltpost.heads import Array
from ltpost.ladder.candidates import Candidate, mean_of, of_method, shifted_to_prior
from ltpost.ladder.climb import Judge

#: what fitting takes, beside one exact sweep; for the time that is left
_FITTED, _REFITTED = 8, 60
_MOST_WORK = 10**9  # N · D · C up to which cRT is fitted anew for every fold
_STRENGTH = 0.01  # one, so that it is fitted once for each fold


@dataclass
class State:
    """What was tried so far.

    Attributes:
        experiment: whose val decides.
        judge: compares candidates.
        pool: every candidate that may be kept, in order.
        current: the one that is kept so far, or None.
        views: the same experiment on the mean of several views of each image, or None.
    """

    experiment: Experiment
    judge: Judge
    pool: list[Candidate] = field(default_factory=list)
    current: Candidate | None = None
    views: Experiment | None = None


@dataclass(frozen=True)
class Attempt:
    """One candidate to be.

    Attributes:
        name: what it is called until it is there.
        make: the candidate, or None where there is nothing to make.
        cost: about how many sweeps it takes.
        needs: the key of the method that must not lack anything, or "".
    """

    name: str
    make: Callable[[State], Candidate | None]
    cost: float = 1
    needs: str = ""


@dataclass(frozen=True)
class Rung:
    """A name, and the attempts of which the best is weighed against what was kept before."""

    name: str
    attempts: Sequence[Attempt]


def rungs_for(
    singles: Iterable[str],
    *,
    only_linear: bool = False,
    with_views: bool = False,
    fit_on_val: bool = False,
    log_target_prior: Array | None = None,
) -> list[Rung]:
    """The rungs of a ladder.

    Args:
        singles: keys of the methods of the first rung.
        only_linear: leave out what cannot be one linear layer.
        with_views: whether there are several views of each image.
        fit_on_val: whether to try methods that fit to val labels.
        log_target_prior: (C,) the log of the class prior of the rows to classify, where transductive methods may be
            tried; else None.
    """
    rungs = [
        Rung("single methods", [_method(key) for key in singles]),
        Rung("tau-norm x la", [_method("tnorm-la")]),
        Rung("last-layer LDA", [_method("lda"), _method("lda-la"), *_unless(only_linear, "lda-la", root=True)]),
        Rung("mixed heads", [_method("mix"), Attempt("mean of the near-best", _near_best)]),
    ]
    if not only_linear:
        rungs.append(Rung("earlier layers", [_method("layers")]))
    if fit_on_val:
        more = [*_unless(only_linear, "eb-lda", root=True), *_unless(only_linear, "eb-layers")]
        rungs.append(
            Rung("fits on val", [_method("eb-lda"), *more, Attempt("crt-val", _crt_val, _REFITTED, "crt-val")])
        )
    if with_views and not only_linear:
        rungs.append(Rung("mean of views", [Attempt("mean of views", _of_views, _FITTED)]))
    if log_target_prior is not None and not only_linear:
        prior = log_target_prior

        def shift(state: State) -> Candidate | None:
            base = _kept(state)
            return None if base is None else shifted_to_prior(_experiment_of(base, state), base, prior)

        rungs.append(Rung("known prior", [Attempt("sinkhorn", shift), _method("em")]))
    return rungs


def _crt_val(state: State) -> Candidate | None:
    """Refit on train and val; not where that would take hours, as ``eb-lda`` fits the same rows in one pass."""
    train = state.experiment.train
    if len(train) * train.num_classes * (train.num_features or 0) > _MOST_WORK:
        return None
    return of_method(state.experiment, "crt-val", strengths=(_STRENGTH,))


def _method(key: str, **options: Any) -> Attempt:
    method = methods.get(key)
    fits = any(option.part_of == "fit" for option in method.options.values())
    cost = (_REFITTED if "val" in method.needs else _FITTED) if fits else 1
    words = " ".join([key, *options])
    return Attempt(words, lambda state: of_method(state.experiment, key, **options), cost, key)


def _unless(left_out: bool, key: str, **options: bool) -> list[Attempt]:
    return [] if left_out else [_method(key, **options)]


def _near_best(state: State) -> Candidate | None:
    """The mean of the best candidates so far, those that val cannot tell from the best by one standard error."""
    pool = list(state.pool)
    if len(pool) < 2:
        return None
    correct = [candidate.correct for candidate in pool]
    if len(state.judge.near_best(correct)) < 2:
        return None
    return mean_of(state.experiment, pool, lambda rows: state.judge.near_best(correct, rows))


def _kept(state: State) -> Candidate | None:
    """What is kept so far; where that is the joint classifier, the best candidate."""
    if state.current is not None and state.current.by_fold:
        return state.current
    if not state.pool:
        return None
    return state.pool[state.judge.best([candidate.correct for candidate in state.pool])]


def _of_views(state: State) -> Candidate | None:
    """What is kept so far, carried out on the mean of the views of each image."""
    base = _kept(state)
    if base is None or state.views is None:
        return None
    remade = base.again(state.views)
    remade.head.info["views"] = "mean"
    return replace(remade, both_views=True, detail=", ".join(filter(None, (remade.detail, "mean of views"))))


def _experiment_of(candidate: Candidate, state: State) -> Experiment:
    return state.views if candidate.both_views and state.views is not None else state.experiment


def linear_mean(state: State) -> Candidate | None:
    """The best linear layer: the mean of the linear candidates that val cannot tell from the best.

    All of them cost the same when they are used, so there is no reason to prefer a simple one; and of several that are
    equally good on val, the mean is better than the one that happens to lead (measured: 44.1 against 43.8 %).
    """
    pool = [candidate for candidate in state.pool if candidate.is_linear and not candidate.is_mean]
    if not pool:
        return None
    correct = [candidate.correct for candidate in pool]
    return mean_of(state.experiment, pool, lambda rows: state.judge.near_best(correct, rows))
