"""Several methods under one protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ltpost import methods
from ltpost.errors import DataError, UsageError, did_you_mean, listed_names
from ltpost.experiment import Experiment
from ltpost.fit.options import quiet
from ltpost.method import NEEDS, Method
from ltpost.outcome import Outcome
from ltpost.report.front import Front
from ltpost.report.results import Report, Result
from ltpost.scores.front import Point

PASSES_OF_A_FIT = 30  # over the training rows, about
_BAR = "{desc} |{bar}| {percentage:3.0f} % [{elapsed}, about {remaining} left]"


def missing(experiment: Experiment, method: str | Method) -> list[str]:
    """What a method needs and the files do not have: keys of ``ltpost.method.NEEDS``."""
    return experiment.material.lacks(methods.get(method) if isinstance(method, str) else method)


def runnable(experiment: Experiment, names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The methods to run, and of sets of methods those that cannot be run here.

    Args:
        experiment: the files.
        names: keys of methods, or names of sets (``ltpost.methods.SETS``, or "all").

    Returns:
        The keys, and for every key that only a set names and that cannot be run, why.
    """
    asked = list(names)
    keys = methods.keys_of(asked)
    lacking = {key: needs for key in keys if key not in asked and (needs := missing(experiment, key))}
    reasons = {
        key: f"{experiment.folder.path} does not hold {' and '.join(NEEDS[need] for need in needs)}"
        for key, needs in lacking.items()
    }
    return [key for key in keys if key not in lacking], reasons


def not_run_lines(not_run: Mapping[str, str]) -> list[str]:
    """A line for each reason: the methods that were not run for it.

    >>> not_run_lines({"ncm": "features does not hold train features", "crt": "features does not hold train features"})
    ['not run: ncm, crt; features does not hold train features']
    """
    keys: dict[str, list[str]] = {}
    for key, reason in not_run.items():
        keys.setdefault(reason, []).append(key)
    return [f"not run: {', '.join(names)}; {reason}" for reason, names in keys.items()]


def compare_sets(experiment: Experiment, names: Iterable[str]) -> tuple[list[Outcome], dict[str, str]]:
    """Methods and sets of methods under one protocol; of a set, those that these files suffice for.

    Args:
        experiment: the splits and the figure to choose by.
        names: as for :func:`runnable`.

    Returns:
        The outcomes, and for every key that only a set names and that was not run, why.

    Raises:
        DataError: a method that was named by its key refuses the files, or all methods do.
        Interrupted: as for :func:`compare`.
    """
    asked = list(names)
    keys, not_run = runnable(experiment, asked)

    def leave_out(key: str, error: DataError) -> None:
        if key in asked:
            raise error
        not_run[key] = str(error)

    try:
        return compare(experiment, keys, refused=leave_out), not_run
    except Interrupted as interrupted:
        interrupted.not_run = not_run
        raise


def compare(
    experiment: Experiment,
    keys: Iterable[str | Method] | None = None,
    *,
    refused: Callable[[str, DataError], None] | None = None,
    **options: Mapping[str, Any],
) -> list[Outcome]:
    """Several methods under one protocol.

    Args:
        experiment: the splits and the figure to choose by.
        keys: of methods, or methods of your own; default those of ``methods.DEFAULT`` for which the files suffice
            (see :func:`missing`).
        refused: is called with the key of a method that refuses the data, and its error; the other methods go on. By
            default the error is raised.
        **options: per key of a method, its options.

    On a terminal a bar shows the method that runs and the time left, which a method's passes over the rows tell.

    Raises:
        UsageError: options for a method that is not run.
        DataError: a method refuses the data and there is no ``refused``, or all methods do.
        Interrupted: Ctrl-C came when a method was finished; it has the outcomes so far.
    """
    if keys is None:
        keys = [key for key in methods.DEFAULT if not missing(experiment, key)]
    chosen = {(key if isinstance(key, str) else key.key): key for key in keys}
    if not chosen:
        raise DataError(
            f"{experiment.folder.path}: nothing to compare: the files do not hold what these methods need; "
            "most need a classifier or logits and class_counts, others train.h5"
        )
    for name in options:
        if name not in chosen:
            meant = did_you_mean(name, chosen) or f"; {listed_names('these are', chosen)}"
            raise UsageError(f"{name}= gives options for {name!r}, which is not among the methods that are run{meant}")
    from tqdm.auto import tqdm  # not at the top: every command would wait for it

    outcomes: list[Outcome] = []
    works = {name: _work(experiment, method) for name, method in chosen.items()}
    with tqdm(total=sum(works.values()), bar_format=_BAR, disable=quiet(experiment.progress)) as bar:
        for number, (name, method) in enumerate(chosen.items(), start=1):
            bar.set_description(f"{name} ({number} of {len(chosen)})")
            try:
                outcomes.append(experiment.run(method, **options.get(name, {})))
            except KeyboardInterrupt:
                if not outcomes:
                    raise
                raise Interrupted(outcomes, tuple(chosen)[number - 1 :]) from None
            except DataError as error:
                if refused is None or (number == len(chosen) and not outcomes):
                    raise
                refused(name, error)
            bar.update(works[name])
    return outcomes


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a comparison of which some methods are finished.

    Attributes:
        outcomes: of the methods that were finished.
        unfinished: keys of the others, in their order.
        not_run: of :func:`compare_sets`, key to why it was not run.
    """

    def __init__(self, outcomes: list[Outcome], unfinished: tuple[str, ...]):
        super().__init__(f"{len(outcomes)} of {len(outcomes) + len(unfinished)} methods are finished")
        self.outcomes, self.unfinished = outcomes, unfinished
        self.not_run: dict[str, str] = {}


def _work(experiment: Experiment, method: str | Method) -> float:
    """About how many rows a method passes over, for the time left."""
    method = methods.get(method) if isinstance(method, str) else method
    judged = float(sum(len(part) for part in experiment.reported))
    if "train" not in method.needs or not experiment.material.has_train(method):
        return judged
    return judged + len(experiment.train) * (PASSES_OF_A_FIT if "device" in method.settings else 1)


def compare_report(outcomes: Iterable[Outcome], **shown: Any) -> Report:
    """One table: the joint classifier once, then every method.

    Args:
        outcomes: of several methods.
        **shown: what else it shows: ``per_class``, ``against``, ``figure`` of :class:`Report`.
    """
    rows: dict[tuple[str, str], Result] = {}
    for outcome in outcomes:
        for result in outcome.results:
            rows.setdefault((result.split, result.name), result)
    return Report(list(rows.values()), **shown)


def pareto_front(experiment: Experiment, outcomes: Iterable[Outcome], x: str = "many", y: str = "few") -> Front:
    """What the joint classifier and methods can reach in two figures on the rows of the choice.

    Args:
        experiment: in which the methods ran.
        outcomes: of several methods.
        x: a figure.
        y: the other figure.

    Raises:
        DataError: one of the figures is not defined there.
    """
    split = experiment.chosen_on.split
    joint = [Point(None, result.figures) for result in experiment.joint_results if result.split == split]
    known: dict[str, tuple[str | None, list[Point]]] = {"joint": (None, joint)} if joint else {}
    for outcome in outcomes:
        known[outcome.method] = (outcome.parameter, outcome.front(split, x, y))
    return Front(split, known, x, y)
