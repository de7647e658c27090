"""From a folder of feature files to a rebalanced, chosen and reported classifier.

    experiment = Experiment(FeatureFolder("features"))
    outcome = experiment.run("tnorm")
    print(outcome.report)

Every method goes through the same three steps: a family of heads, a choice on val, figures on test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ltpost import distributed
from ltpost._version import __version__
from ltpost.errors import DataError, UsageError
from ltpost.evaluation import Result, evaluate, result_of
from ltpost.features import FeatureSet
from ltpost.folder import FeatureFolder
from ltpost.head import Head, LinearHead
from ltpost.methods import Family
from ltpost.metrics import SELECT
from ltpost.model_selection import FOLDS, cross_fit
from ltpost.priors import FEW_SHOT, MANY_SHOT, ShotGroups, shot_groups
from ltpost.report import Report, curve_table, percent
from ltpost.sweep import Best, Curve, GridCurve


@dataclass(frozen=True)
class Outcome:
    """A method, chosen and reported.

    Attributes:
        method: its key.
        head: the classifier to use.
        params: how it was made, the chosen value included.
        selected_on: the split of the choice, or None where there was nothing to choose.
        curve: accuracy against the hyperparameter on that split, or None.
        grid: the values of the curve that are shown.
        best: the chosen value, or None.
        results: the joint classifier and the method, on every split that is reported.
        signature: all of this in one line.
        notes: what a reader of the numbers has to know.
    """

    method: str
    head: Head
    params: dict[str, Any]
    selected_on: str | None
    parameter: str | None
    curve: Curve | None
    grid: tuple[float, ...]
    best: Best | None
    results: list[Result]
    signature: str
    notes: tuple[str, ...]

    @property
    def report(self) -> Report:
        """The results as a table."""
        return Report(self.results)

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints: fractions in 0..1, null for an empty group."""
        curve = []
        if self.curve is not None:
            rows = self.curve.at(self.grid)
            curve = [{str(self.parameter): value, **row.as_dict()} for value, row in zip(self.grid, rows, strict=True)]
        best = None
        if self.best is not None:
            best = {
                str(self.parameter): self.best.value,
                "low": _finite(self.best.low),
                "high": _finite(self.best.high),
                **self.best.figures.as_dict(),
                "interval95": self.best.interval,
            }
        return {
            "method": self.method,
            "params": self.params,
            "selected_on": self.selected_on,
            "curve": curve,
            "best": best,
            "results": self.report.as_dict(),
            "signature": self.signature,
            "notes": list(self.notes),
        }

    def save_head(self, path: str | os.PathLike[str]) -> Path:
        """Write the head with its signature.

        Raises:
            DataError: the head is not one linear layer, or the file cannot be written.
        """
        if not isinstance(self.head, LinearHead):
            raise DataError(f"{self.method}: this variant is not linear in the features and cannot be saved as a head")
        return self.head.save(path)

    def summary(self) -> str:
        """Everything a reader needs, as text: the curve, the choice, the figures, what to know about them."""
        parts = []
        if self.curve is not None and self.best is not None:
            parts.append(f"{self.method} on {self.selected_on}, {len(self.curve.labels):,} rows")
            parts.append(curve_table(str(self.parameter), self.grid, self.curve.at(self.grid)))
            parts.append(f"best {self.parameter} {_describe(self.best)}")
        parts.append(str(self.report))
        parts += [f"note: {note}" for note in self.notes]
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()

    def __str__(self) -> str:
        return self.summary()


class Experiment:
    """Which split is chosen on, which is reported, and by what figure.

    Args:
        folder: the feature files, or the path of their folder.
        select: the figure that a choice maximises, one of ``metrics.SELECT``.
        oracle: choose on the reported split itself; every row then says so.
        val: the split to choose on.
        test: the split to report.
        many_shot: classes with more training samples are many-shot.
        few_shot: classes with fewer are few-shot.
        seed: of folds, bootstrap and stochastic solvers.
        device: where to fit and to compute scores ("cpu", "cuda", "cuda:1", "auto").
        expert: which of several experts; default their mean. Only where ``folder`` is a path.

    Raises:
        DataError: neither split is there, or only the reported one without ``oracle``.
    """

    def __init__(
        self,
        folder: FeatureFolder | str | os.PathLike[str] = "features",
        *,
        select: str = "all",
        oracle: bool = False,
        val: str = "val",
        test: str = "test",
        many_shot: int = MANY_SHOT,
        few_shot: int = FEW_SHOT,
        seed: int = 0,
        device: str = "cpu",
        expert: int | None = None,
    ):
        self.folder = folder if isinstance(folder, FeatureFolder) else FeatureFolder(folder, expert)
        if select not in SELECT:
            raise UsageError(f"--select must be one of {', '.join(SELECT)}, but is {select!r}")
        if val not in self.folder and test not in self.folder:
            raise DataError(
                f"{self.folder.path}: has neither {val}.h5 nor {test}.h5, only {', '.join(self.folder.splits())}"
            )
        if val not in self.folder and not oracle:
            raise DataError(
                f"{self.folder.path}: has no {val}.h5 to choose on; extract it, name another split with --val, "
                f"or pass --oracle to choose on {test} itself (the rows will say so)"
            )
        self.select, self.oracle, self.seed, self.device = select, oracle, seed, device
        self.has_test = test in self.folder
        self.report_set = self.folder[test if self.has_test else val]
        self.chosen_on = self.report_set if oracle else self.folder[val]
        for part in (self.report_set, self.chosen_on):
            if len(part) == 0:
                raise DataError(f"{part.name}: has no readable rows, so there is nothing to choose on or to report")
        self.class_counts = self.report_set.class_counts
        self.groups: ShotGroups | None = None
        if self.class_counts is not None:
            self.groups = shot_groups(self.class_counts, many_shot, few_shot)

    # -- what methods are made from ----------------------------------------------------------------------------------

    @property
    def joint(self) -> LinearHead:
        """The joint classifier."""
        return self.report_set.joint

    @property
    def train(self) -> FeatureSet:
        """The training split, for methods that fit; of several processes (``distributed``), the rows of this one."""
        if "train" not in self.folder:
            raise DataError(
                f"{self.folder.path}: has no train.h5, which this method fits to; run ltpost extract --split train"
            )
        train = self.folder["train"]
        return train if self.folder.parts else distributed.shard(train)

    @cached_property
    def joint_results(self) -> list[Result]:
        """The joint classifier on every reported split; empty where it is not known."""
        if self.report_set.head is None and not self.report_set.has_logits:
            return []
        splits = [self.report_set, *([self.chosen_on] if self._reports_val else [])]
        return [
            evaluate(self.joint, part, self.groups, name="joint", seed=self.seed, device=self.device) for part in splits
        ]

    @property
    def _reports_val(self) -> bool:
        return self.chosen_on is not self.report_set

    # -- running a method --------------------------------------------------------------------------------------------

    def run(self, method: str | Family, *, grid: Sequence[float] | None = None, **options: Any) -> Outcome:
        """One method, chosen and reported.

        Args:
            method: a key of :data:`METHODS`, or a family of heads.
            grid: values of the hyperparameter to show; the choice is made between the first and the last.
            **options: of the method.
        """
        if isinstance(method, str):
            if method not in METHODS:
                raise UsageError(f"the method must be one of {', '.join(METHODS)}, but is {method!r}")
            if method == "tnorm" and grid is not None:
                options["grid"] = grid = tuple(grid)  # a kept bias is swept at these values only
            family = METHODS[method](self, **options)
        else:
            family = method
        if family.parameter is None:
            return self._outcome(family, None, (), None, (), family.head(0.0))
        curve = family.curve(self.chosen_on, self.groups)
        values = tuple(float(value) for value in grid or family.grid or curve.grid())
        low, high = min(values), max(values)
        best = curve.best(self.select, low, high)
        interval = curve.bootstrap_best(self.select, low, high, seed=self.seed)
        best = Best(best.value, best.low, best.high, best.score, best.figures, interval)
        notes = self._range_note(family, curve, best, low, high)
        return self._outcome(family, curve, values, best, notes, family.head(best.value))

    def _range_note(self, family: Family, curve: Curve, best: Best, low: float, high: float) -> tuple[str, ...]:
        if isinstance(curve, GridCurve):
            tried = curve.values[(low <= curve.values) & (curve.values <= high)]
            if len(tried) < 3 or best.value not in (min(tried), max(tried)):
                return ()
            return (
                f"the best {family.parameter}, {best.value:g}, is at an end of the values tried; try some beyond it",
            )
        free = curve.best(self.select, low=min(low, 0.0))  # a negative tau is another method
        if free.score <= best.score + 1e-9 or low <= free.value <= high:
            return ()
        end = high if free.value > high else low
        rises = end in (best.low, best.high)
        where = (
            f"the curve still rises at {family.parameter} {end:g}, the end of the grid" if rises else "outside the grid"
        )
        note = (
            f"{where}: over all values the best is {family.parameter} {free.value:.3f}, with {self.select} "
            f"{percent(free.score)} % instead of {percent(best.score)} %; widen the grid to choose it"
        )
        return (note,)

    def _outcome(
        self,
        family: Family,
        curve: Curve | None,
        grid: tuple[float, ...],
        best: Best | None,
        notes: tuple[str, ...],
        head: Head,
    ) -> Outcome:
        params = dict(family.params)
        detail = ", ".join(f"{key} {params[key]}" for key in ("bias", "metric", "solver", "sampler") if key in params)
        selected_on = None
        if best is not None and curve is not None:
            params[str(family.parameter)] = best.value
            detail = f"{family.parameter} {best.value:.4g}" + (f", {detail}" if detail else "")
            selected_on = self.report_set.split + " (oracle)" if self.oracle else self.chosen_on.split
        results = list(self.joint_results)
        for part in [self.report_set, *([self.chosen_on] if self._reports_val else [])]:
            if best is None or curve is None or (part is self.report_set and self._reports_val):
                result = evaluate(
                    head, part, self.groups, name=family.method, detail=detail, seed=self.seed, device=self.device
                )
            elif self.oracle:
                detail = f"{detail}, oracle: chosen on {part.split}"
                result = evaluate(
                    head, part, self.groups, name=family.method, detail=detail, seed=self.seed, device=self.device
                )
            else:
                correct = cross_fit(curve, self.select, min(grid), max(grid), seed=self.seed)
                label = f"{family.parameter} {FOLDS}-fold cross-fitted"  # never the value chosen on these rows
                result = result_of(correct, part, self.groups, name=family.method, detail=label, seed=self.seed)
            results.append(result)
        results.sort(key=lambda result: result.split != self.report_set.split)
        signature = self._signature(family, params, selected_on)
        if isinstance(head, LinearHead):
            head.info = {"method": family.method, "params": params, "selected_on": selected_on, "signature": signature}
        notes = (*family.notes, *notes)
        return Outcome(
            family.method, head, params, selected_on, family.parameter, curve, grid, best, results, signature, notes
        )

    def _signature(self, family: Family, params: Mapping[str, Any], selected_on: str | None) -> str:
        checkpoint = str(self.report_set.attrs.get("checkpoint_sha256", ""))[:8]
        parts = {
            "method": family.method,
            **{key: f"{value:.6g}" if isinstance(value, float) else value for key, value in params.items()},
            "select": self.select if selected_on else None,
            "on": selected_on,
            "groups": None if self.groups is None else f">{self.groups.many_shot}/<{self.groups.few_shot}",
            "expert": self.folder.expert,
            "ckpt": checkpoint or None,
            "seed": self.seed,
            "version": __version__,
        }
        return "|".join(f"{key}:{value}" for key, value in parts.items() if value is not None)


# -- the methods ----------------------------------------------------------------------------------------------------


def _tnorm(experiment: Experiment, **options: Any) -> Family:
    from ltpost.methods.tau_norm import family

    head = experiment.report_set.require_head("tau-normalization rescales")
    try:
        return family(head, device=experiment.device, **options)
    except DataError as error:
        raise DataError(f"{experiment.report_set.name}: {error}") from None


def _la(experiment: Experiment) -> Family:
    from ltpost.methods.logit_adjustment import family

    return family(experiment.joint, experiment.report_set.require_counts("logit adjustment"), device=experiment.device)


def _mla(experiment: Experiment) -> Family:
    from ltpost.methods.multiplicative_adjustment import family

    counts = experiment.report_set.require_counts("multiplicative logit adjustment")
    return family(experiment.joint, counts, device=experiment.device)


def _ncm(experiment: Experiment, *, metric: str = "cosine") -> Family:
    from ltpost.methods.ncm import family

    return family(experiment.train, metric=metric)


def _lws(experiment: Experiment, **options: Any) -> Family:
    from ltpost.methods.lws import family

    return family(experiment.train, seed=experiment.seed, device=experiment.device, **options)


def _crt(experiment: Experiment, **options: Any) -> Family:
    from ltpost.methods.crt import family

    return family(experiment.train, seed=experiment.seed, device=experiment.device, **options)


#: key of a method to the function that makes its family of heads from an experiment
METHODS: dict[str, Callable[..., Family]] = {
    "tnorm": _tnorm,
    "la": _la,
    "mla": _mla,
    "ncm": _ncm,
    "lws": _lws,
    "crt": _crt,
}


#: what a method needs besides the split that it is chosen on
NEEDS = {
    "tnorm": ("classifier",),
    "la": ("classifier or logits", "class_counts"),
    "mla": ("classifier or logits", "class_counts"),
    "ncm": ("train.h5",),
    "lws": ("train.h5", "classifier or logits"),
    "crt": ("train.h5",),
}


def missing(experiment: Experiment, method: str) -> list[str]:
    """What ``method`` needs and the files do not have."""
    split = experiment.report_set
    there = {
        "classifier": split.head is not None,
        "classifier or logits": split.head is not None or split.has_logits,
        "class_counts": split.class_counts is not None,
        "train.h5": "train" in experiment.folder,
    }
    return [need for need in NEEDS[method] if not there[need]]


def compare(
    experiment: Experiment, methods: Iterable[str] | None = None, **options: Mapping[str, Any]
) -> list[Outcome]:
    """Several methods under one protocol.

    Args:
        experiment: the splits and the figure to choose by.
        methods: keys of :data:`METHODS`; default all that the files suffice for (see :func:`missing`).
        **options: per method, its options.
    """
    if methods is None:
        methods = [method for method in METHODS if not missing(experiment, method)]
        if not methods:
            raise DataError(
                f"{experiment.folder.path}: nothing to compare: there is no classifier, no logits and no train.h5"
            )
    return [experiment.run(method, **options.get(method, {})) for method in methods]


def compare_report(outcomes: Iterable[Outcome]) -> Report:
    """One table: the joint classifier once, then every method."""
    rows: dict[tuple[str, str], Result] = {}
    for outcome in outcomes:
        for result in outcome.results:
            rows.setdefault((result.split, result.name), result)
    return Report(list(rows.values()))


def _describe(best: Best) -> str:
    plateau = "" if best.low == best.high else f" (best from {best.low:.4g} to {best.high:.4g})"
    interval = "" if best.interval is None else f", 95 % bootstrap {best.interval[0]:.3g} to {best.interval[1]:.3g}"
    return f"{best.value:.4g}{plateau}{interval}: {percent(best.score)} %"


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
