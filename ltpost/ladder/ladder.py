"""Climb the ladder on val, and report what is kept on test at the end.

Val is all that is seen while candidates are tried: they are made by an experiment that has no test split. Labels of the
reported split are read once, when everything has been decided.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ltpost import methods
from ltpost.comparison import missing
from ltpost.data import distributed
from ltpost.data.features import FeatureSet
from ltpost.data.priors import FEW_SHOT, MANY_SHOT, log_target_prior
from ltpost.data.view_means import first_view, has_plain_views, mean_of_views
from ltpost.errors import DataError, LtpostError, UsageError
from ltpost.evaluation import evaluate, result_of
from ltpost.experiment import Experiment
from ltpost.ladder.candidates import Candidate, of_joint
from ltpost.ladder.climb import Correct, Judge, Rows, beyond_noise, climb, honest
from ltpost.ladder.outcome import Ladder, Step, Winner
from ltpost.ladder.rungs import Attempt, State, linear_mean, rungs_for
from ltpost.method import NEEDS
from ltpost.report.results import Result
from ltpost.scores.metrics import FIGURES

#: fewer val rows than both of these are too few to fit to
ENOUGH_ROWS, ENOUGH_PER_CLASS = 2000, 20
FOLDS = 10  # more than the usual 5, as heads that fit on val are judged by what they learn from the other folds


def best(
    experiment: Experiment,
    *,
    budget: float | None = None,
    only: str | None = None,
    fit_on_val: bool = False,
    transductive: bool = False,
    target_prior: str = "uniform",
    singles: Sequence[str] = methods.DEFAULT,
) -> Ladder:
    """The best head that val can tell, from a ladder of cheap to rich ones.

    A rung is kept if the best of it is better on val than what was kept before, by more than noise: the whole 90 %
    interval of the paired gain lies above 0 (a one-sided test at 5 %). Every row is judged by a head that was chosen,
    and fitted where it fits to val, on other folds. The best linear layer, which ``ltpost export`` writes into a
    checkpoint, is found beside it.

    Args:
        experiment: its val split decides, its test split is reported at the end.
        budget: seconds after which nothing more is tried; what was begun is finished. Default none.
        only: "linear" leaves out what is no single linear layer.
        fit_on_val: try methods that fit to val labels, too. They are kept only where val has 2,000 rows or 20 rows per
            class: with fewer, what they learn of a class is mostly the noise of its few rows.
        transductive: try methods that see the rows to classify without their labels, and know their class prior.
        target_prior: that class prior; see :func:`~ltpost.data.priors.log_target_prior`.
        singles: keys of the methods of the first rung.

    Returns:
        The rungs, the best head and the best linear one, and their figures.

    Raises:
        UsageError: the experiment chooses on test (``oracle``), or by a figure that has no paired differences.
        DataError: the files hold nothing that any method could use.
    """
    _check(experiment, only)
    begin = time.monotonic()
    val, views = _val_only(experiment)
    state = _begun(val, views)
    foot = of_joint(val)
    state.current = foot
    prior = log_target_prior(target_prior, _counts(val)) if transductive else None
    rungs = rungs_for(
        singles,
        only_linear=only == "linear",
        with_views=views is not None,
        fit_on_val=fit_on_val,
        log_target_prior=prior,
    )
    enough, notes = _enough(state, fit_on_val), []
    notes += [] if enough or not fit_on_val else [_too_small(state.judge)]
    total, steps, tried = sum(attempt.cost for rung in rungs for attempt in rung.attempts), [], []
    bar_format = "{l_bar}{bar}| {elapsed}, {remaining} left"
    with tqdm(
        total=total, desc="best", bar_format=bar_format, disable=None if experiment.progress else True, leave=False
    ) as bar:
        for rung in rungs:
            found: list[Candidate] = []
            for attempt in rung.attempts:
                bar.set_description(attempt.name)
                late = _is_spent(budget, begin) and bool(state.pool or found)
                made = (
                    f"{attempt.name}: not tried, the budget of {budget:g} s was spent"
                    if late
                    else _made(attempt, state)
                )
                if isinstance(made, str):
                    notes.append(made)
                elif made is not None and (only != "linear" or made.is_linear):
                    found.append(made)
                bar.update(attempt.cost)
            usable = [candidate for candidate in found if enough or not candidate.fits_on_val]
            before = state.current
            steps.append(_step(rung.name, found, usable, before, state))
            tried.append(usable)
            state.pool += usable
    if not state.pool:
        raise DataError(
            f"{experiment.folder.path}: there is nothing to climb, no method could be made from these files; "
            + "; ".join(notes)
        )
    overall = None if only == "linear" else _overall(state, foot, tried)
    linear = _winner(state, foot, linear_mean(state))
    results = _reported(experiment, foot, {"best linear": linear, "best": overall})
    results += _on_val(state, foot, {"best linear": linear, "best": overall})
    seconds = time.monotonic() - begin
    return Ladder(steps, overall, linear, results, (*notes, *experiment.notes), seconds, len(val.chosen_on), val.select)


def _is_spent(budget: float | None, begin: float) -> bool:
    """Whether the budget is spent; of several processes, for any of them, so that all do the same."""
    spent = budget is not None and time.monotonic() - begin > budget
    return bool(distributed.sum_array(np.array([int(spent)])).any())


def _check(experiment: Experiment, only: str | None) -> None:
    if experiment.oracle:
        raise UsageError("best chooses on val only; leave oracle= out, or name a split to choose on with val=")
    if experiment.select not in FIGURES:
        raise UsageError(f"select= must be one of {', '.join(FIGURES)} for paired gains, but is {experiment.select!r}")
    if experiment.selection.keep:
        raise UsageError("keep= is no option of best, which weighs gains by one figure; leave it out")
    if only not in (None, "linear"):
        raise UsageError(f"only= must be linear, but is {only!r}")


def _val_only(experiment: Experiment) -> tuple[Experiment, Experiment | None]:
    """The same experiment without its reported split, on the first view of each image, and on the mean of its views."""
    val = experiment.chosen_on
    files = experiment.folder
    train = files["train"] if "train" in files.splits() else None
    with_views = has_plain_views(val) and has_plain_views(experiment.report_set)
    groups = experiment.groups
    settings: dict[str, Any] = {
        "select": experiment.select,
        "seed": experiment.seed,
        "device": experiment.device,
        "progress": False,
        "many_shot": MANY_SHOT if groups is None else groups.many_shot,
        "few_shot": FEW_SHOT if groups is None else groups.few_shot,
    }

    def of(change: Callable[[FeatureSet], FeatureSet]) -> Experiment:
        same_views = train is not None and has_plain_views(train)
        return Experiment(
            train=change(train) if train is not None and same_views else train, val=change(val), **settings
        )

    if not with_views:
        return Experiment(train=train, val=val, **settings), None
    return of(first_view), of(mean_of_views)


def _begun(val: Experiment, views: Experiment | None) -> State:
    split = val.chosen_on
    judge = Judge(split.labels, split.num_classes, val.groups, split.sample, val.select)
    for one in (val, views):
        if one is not None:
            one.selection = replace(one.selection, num_folds=FOLDS)
    return State(val, judge, views=views)


def _counts(val: Experiment) -> Any:
    return val.chosen_on.require_counts("transductive=")


def _enough(state: State, fit_on_val: bool) -> bool:
    """Whether val has rows enough to fit to."""
    rows, classes = len(np.unique(state.experiment.chosen_on.samples)), state.judge.num_classes
    return fit_on_val and (rows >= ENOUGH_ROWS or rows >= ENOUGH_PER_CLASS * classes)


def _too_small(judge: Judge) -> str:
    return (
        f"heads that fit on val are shown, but not kept: val has {len(judge.labels):,} rows of {judge.num_classes:,} "
        f"classes, and from fewer than {ENOUGH_ROWS:,} rows or {ENOUGH_PER_CLASS} per class they learn mostly noise"
    )


def _made(attempt: Attempt, state: State) -> Candidate | str | None:
    """The candidate, or a sentence why there is none."""
    if attempt.needs and (lacks := missing(state.experiment, attempt.needs)):
        return f"{attempt.name}: not tried, it needs {' and '.join(NEEDS[need] for need in lacks)}"
    try:
        return attempt.make(state)
    except LtpostError as error:
        return f"{attempt.name}: not tried, {error}"


def _step(
    name: str, found: Sequence[Candidate], usable: Sequence[Candidate], before: Candidate | None, state: State
) -> Step:
    """Weigh the best of a rung against what was kept before, and keep it in ``state`` if it is better."""
    judge, shown = state.judge, usable or found
    if not shown:
        return Step(name, (), None, None, None, False)
    top = shown[judge.best([candidate.correct for candidate in shown])]
    gain = None if before is None else judge.gain(before.correct, top.correct)
    kept = bool(usable) and (gain is None or beyond_noise(gain))
    if kept:
        state.current = top
    return Step(name, tuple(found), top, judge.score(top.correct), gain, kept)


def _overall(state: State, foot: Candidate | None, tried: Sequence[Sequence[Candidate]]) -> Winner | None:
    """What is kept of all rungs, with the honest figure of the whole climb."""
    judge, current = state.judge, state.current
    if current is None or not current.by_fold:
        return None
    rungs = [[candidate.correct for candidate in rung] for rung in tried]

    def decided(rows: Rows) -> Correct:
        kept = climb(judge, None if foot is None else foot.correct, rungs, rows)
        chosen = foot
        for rung, correct, keep in zip(tried, rungs, kept, strict=True):
            chosen = rung[judge.best(correct, rows)] if keep else chosen
        assert chosen is not None
        return chosen.correct

    folds = [inside for _, inside in current.by_fold]
    return _winner(state, foot, current, honest(folds, decided, len(judge.labels)))


def _winner(
    state: State, foot: Candidate | None, candidate: Candidate | None, correct: Correct | None = None
) -> Winner | None:
    if candidate is None:
        return None
    judge = state.judge
    correct = candidate.correct if correct is None else correct
    gain = None if foot is None else judge.gain(foot.correct, correct)
    in_sample = None if foot is None else judge.score(candidate.in_sample) - judge.score(foot.correct)
    return Winner(candidate, correct, judge.score(correct), gain, in_sample)


def _on_val(state: State, foot: Candidate | None, winners: dict[str, Winner | None]) -> list[Result]:
    """Figures on val, each row judged by what would have been kept without it."""
    split, groups = state.experiment.chosen_on, state.experiment.groups
    results = [] if foot is None else [result_of(foot.correct, split, groups, name="joint")]
    for name, winner in winners.items():
        if winner is not None:
            detail = f"heads and rungs {FOLDS}-fold cross-fitted"
            results.append(result_of(winner.correct, split, groups, name=name, detail=detail))
    return results


def _reported(experiment: Experiment, foot: Candidate | None, winners: dict[str, Winner | None]) -> list[Result]:
    """Figures on the reported split: the first time that its labels are read."""
    if not experiment.has_test or experiment.report_set is experiment.chosen_on:
        return []
    whole, groups, device = experiment.report_set, experiment.groups, experiment.device
    plain = first_view(whole) if has_plain_views(whole) else whole
    means: FeatureSet | None = None
    results = [] if foot is None else [evaluate(foot.head, plain, groups, name="joint", device=device)]
    for name, winner in winners.items():
        if winner is None:
            continue
        rows = plain
        if winner.candidate.both_views:
            rows = means = mean_of_views(whole) if means is None else means
        head = winner.candidate.for_rows(rows)
        winner.head = head
        result = evaluate(head, rows, groups, name=name, detail=winner.candidate.label, device=device)
        results.append(replace(result, split=whole.split))
    return results
