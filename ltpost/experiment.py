"""From feature files to a rebalanced, chosen and reported classifier.

    experiment = Experiment(FeatureFolder("features"))
    outcome = experiment.run("tnorm")
    print(outcome.report)

Every method takes the same three steps: a family of heads, a choice on val, figures on test.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from ltpost import methods
from ltpost.calibration import KINDS, CalibrationStep
from ltpost.data.features import FeatureSet
from ltpost.data.folder import FeatureFolder
from ltpost.data.memory import FeatureSets
from ltpost.data.priors import (
    FEW_SHOT,
    MANY_SHOT,
    ShotGroups,
    minority_class,
    shot_groups,
    with_class_names,
)
from ltpost.errors import DataError, UsageError, listed_names
from ltpost.evaluation import evaluate, result_of
from ltpost.family import Family
from ltpost.heads import Array, Head
from ltpost.material import Material
from ltpost.method import TRANSDUCTIVE, Method
from ltpost.model_selection import Choice, FamilyOf, Selection
from ltpost.more_figures import MoreFigures, per_group_means
from ltpost.outcome import Outcome
from ltpost.report.results import Result
from ltpost.scores.folds import FOLDS
from ltpost.scores.goal import GOALS, Goal, costs_of, parse_limits
from ltpost.scores.metrics import FIGURES
from ltpost.scores.test_priors import named_priors
from ltpost.turn import Turn
from ltpost.wording import (
    choice_notes,
    chosen_params,
    detail_of,
    joined,
    per_group_notes,
    signature_of,
)


class Experiment:
    """Which split is chosen on, which is reported, and by what figure.

    Args:
        folder: the feature files, or the path of their folder; not used where ``val`` or ``test`` is a feature set.
        select: the figure that a choice maximises, one of ``metrics.SELECT``.
        oracle: choose on the reported split itself; every row then says so.
        train: the training split, where the splits are in memory.
        val: the split to choose on: its name in the folder, or a feature set.
        test: the split to report: its name in the folder, or a feature set.
        many_shot: classes with more training samples are many-shot.
        few_shot: classes with fewer are few-shot.
        seed: of folds, bootstrap and stochastic solvers.
        device: where to fit and to compute scores ("cpu", "cuda", "cuda:1", "auto").
        expert: which of several experts; default their mean. Only where ``folder`` is a path.
        progress: show bars, on a terminal.
        calibration: fit probabilities after every choice, one of ``calibration.KINDS``, and report how good they are.
        test_priors: report the accuracy under these class priors of the rows too, see ``scores.test_priors``.
        keep: limits that a choice keeps, such as "many:-2" (points against the joint classifier on the same rows) or
            "precision>=50" (percent); where no value keeps them all, the one that misses them least is taken.
        cost: what every answer (column) to rows of every class (row) costs, (C, C), or the file of it.
        coverage: make sets of classes on val that hold the right one with this probability, and report their size and
            coverage on test.
        reject: leave this share of rows unanswered, the threshold chosen on val, and report the answers to the others.

    Raises:
        DataError: neither split is there, or only the reported one without ``oracle``.
    """

    def __init__(
        self,
        folder: FeatureFolder | str | os.PathLike[str] = "features",
        *,
        select: str = "all",
        oracle: bool = False,
        train: FeatureSet | None = None,
        val: str | FeatureSet = "val",
        test: str | FeatureSet = "test",
        many_shot: int = MANY_SHOT,
        few_shot: int = FEW_SHOT,
        seed: int = 0,
        device: str = "cpu",
        expert: int | None = None,
        progress: bool = True,
        calibration: str | None = None,
        test_priors: Sequence[str] = (),
        coverage: float | None = None,
        reject: float | None = None,
        keep: Sequence[str] = (),
        cost: Array | str | os.PathLike[str] | None = None,
    ):
        self.folder: FeatureFolder | FeatureSets
        given = {"train": train, "val": val, "test": test}
        in_memory = {name: part for name, part in given.items() if isinstance(part, FeatureSet)}
        if in_memory:
            self.folder, val, test = FeatureSets(in_memory), "val", "test"
        else:
            self.folder = folder if isinstance(folder, FeatureFolder) else FeatureFolder(folder, expert)
        assert isinstance(val, str)
        assert isinstance(test, str)
        limits = parse_limits(keep)
        if select not in GOALS:
            raise UsageError(f"select= must be one of {', '.join(GOALS)}, but is {select!r}")
        if val not in self.folder and test not in self.folder:
            raise DataError(
                f"{self.folder.path}: there is no split {val} and no split {test}, only "
                f"{', '.join(self.folder.splits())}"
            )
        if val not in self.folder and not oracle:
            raise DataError(
                f"{self.folder.path}: there is no split {val} to choose on; extract it, name another one with val=, "
                f"or pass oracle=True to choose on {test} itself (the rows will say so)"
            )
        self.select, self.oracle, self.seed, self.device, self.progress = select, oracle, seed, device, progress
        self.has_test = test in self.folder
        self.report_set = self.folder[test if self.has_test else val]
        self.chosen_on = self.report_set if oracle else self.folder[val]
        self._names = [test if self.has_test else val] + ([val] if self.has_test and not oracle else [])
        for part in (self.report_set, self.chosen_on):
            if len(part) == 0:
                raise DataError(f"{part.name}: has no readable rows, so there is nothing to choose on or to report")
        self.material = Material(self.folder, self.report_set, self.chosen_on)
        self.class_counts = self.report_set.class_counts
        self.groups: ShotGroups | None = None
        if self.class_counts is not None:
            self.groups = shot_groups(self.class_counts, many_shot, few_shot)
        classes = self.report_set.num_classes
        self.cost = costs_of(cost, classes) if cost is not None else None
        self.selection = Selection(select, self.groups, seed=seed, device=device, keep=limits, cost=self.cost)
        #: what heads are chosen by, and which figures of answers are given
        self.goal = Goal(select, limits, minority_class(self.class_counts), self.cost)
        if calibration is not None and calibration not in KINDS:
            raise UsageError(f"calibration= must be one of {', '.join(KINDS)}, but is {calibration!r}")
        if coverage is not None and not 0 < coverage < 1:
            raise UsageError(f"coverage= must lie between 0 and 1, but is {coverage:g}")
        if reject is not None and not 0 < reject < 1:
            raise UsageError(f"reject= must lie between 0 and 1, but is {reject:g}")
        self.calibration, self.coverage, self.reject = calibration, coverage, reject
        self.test_priors = named_priors(test_priors, self.class_counts)

    def __repr__(self) -> str:
        chosen = f"{self.select} chosen on {self.chosen_on.split}{' (oracle)' if self.oracle else ''}"
        return f"Experiment({self.folder!r}, {chosen}, reported on {self.report_set.split})"

    # -- what methods are made from ----------------------------------------------------------------------------------

    @property
    def joint(self) -> Head:
        """The joint classifier."""
        return self.report_set.joint

    @property
    def train(self) -> FeatureSet:
        """The training split; of several processes (``distributed``), the rows of this one."""
        return self.material.train

    @property
    def reported(self) -> list[FeatureSet]:
        """The splits that are reported: test, and val where it is another one."""
        return self.material.reported

    def watch(self) -> Turn:
        """A judge of one path of heads, which ends where they have clearly become worse on the rows of the choice."""
        return Turn(self.selection, self.chosen_on)

    @property
    def figure(self) -> str:
        """The figure that methods are compared by: the selected one, or the mean over classes."""
        return self.select if self.select in FIGURES else "all"

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any figure here has to know, whatever the method."""
        return self.folder.notes(self._names)

    @cached_property
    def joint_results(self) -> list[Result]:
        """The joint classifier on every reported split; empty where it is not known."""
        if self.report_set.head is None and not self.report_set.has_logits:
            return []
        results = [self._judge(self.joint, part, "joint", "") for part in self.reported]
        return self._with_more(
            results, self.joint, self._after(Choice(self.joint, Family.single(self.joint)), self.selection)
        )

    def family(self, method: Method, options: Mapping[str, Any], fit_to: FeatureSet, target: FeatureSet) -> Family:
        """The heads of a method that may fit to the labelled rows ``fit_to``, and see ``target`` without labels."""
        needs = self.material.of(method, fit_to, target)
        settings = {name: getattr(self, name) for name in method.settings}
        try:
            return method(*needs, **settings, **options)
        except DataError as error:
            message = with_class_names(str(error), self.report_set.class_names)
            named = any(message.startswith(part.name) for part in (self.report_set, fit_to, target))
            named = named or "train.h5" in message
            raise DataError(message if named else f"{self.report_set.name}: {message}") from None

    # -- running a method --------------------------------------------------------------------------------------------

    def run(self, method: str | Method, *, grid: Sequence[float] | None = None, **options: Any) -> Outcome:
        """One method, chosen and reported.

        Args:
            method: a key (see ``ltpost.methods.all_keys()``), or a method of your own.
            grid: values of the hyperparameter to show; the choice is made between the first and the last.
            **options: of the method.

        Raises:
            UsageError: an option or a grid that the method does not have.
            DataError: the files lack what the method needs.
        """
        method = methods.get(method) if isinstance(method, str) else method
        selection = self.selection_of(method, grid)
        choice, family_of = self.choose(method, grid=grid, **options)
        fits, split = family_of is not None, self.chosen_on
        choice = selection.with_interval(choice)
        results: list[Result] = []
        final = choice  # of the split that is reported first
        if split is not self.report_set and set(TRANSDUCTIVE) & set(method.needs):
            family = self.family(method, options, split, self.report_set)
            head = family.head_of(choice.best)
            final = replace(choice, head=head, family=family)
        info, detail = self.description(method, options, final)
        params, selected_on, signature = info["params"], info["selected_on"], info["signature"]
        for part in self.reported:
            name, head = method.key, (choice if part is split else final).head
            chosen_here = part is split and (choice.best is not None or fits)
            if not chosen_here:
                results.append(self._judge(head, part, name, detail))
            elif self.oracle:
                how = "chosen" if choice.best is not None else "fitted"
                results.append(self._judge(head, part, name, joined(detail, f"oracle: {how} on {part.split}")))
            else:
                found = selection.cross_fit_fitted(part, family_of) if family_of else selection.cross_fit(part, choice)
                what = joined(str(choice.family.parameter or ""), "fit" if fits else "", " and ")
                label = f"{what} {FOLDS}-fold cross-fitted"  # not the value chosen on these rows
                known = (found.correct, part, self.groups)
                answers = found.predicted
                results.append(result_of(*known, name=name, detail=label, predicted=answers, goal=self.goal))
        step = self._after(choice, selection, family_of)
        results = [replace(result, signature=signature) for result in self._with_more(results, final.head, step)]
        results = [*self.joint_results, *results]
        results.sort(key=lambda result: result.split != self.report_set.split)
        final.head.info.clear()
        if step is not None and self.calibration is not None:
            info.update(step.calibration.info())
        final.head.info.update(info)
        per_group = per_group_means(final.head, self.report_set, self.groups)
        about_groups = per_group_notes(per_group, self.report_set.split)
        notes = (*final.family.notes, *about_groups, *choice_notes(choice, results, self.select), *self.notes)
        return Outcome(method.key, final, params, selected_on, results, signature, notes, per_group)

    def choose(
        self, method: Method, *, grid: Sequence[float] | None = None, **options: Any
    ) -> tuple[Choice, FamilyOf | None]:
        """What :meth:`run` reports: the choice on val, and of a method that fits to val, how it is fitted anew."""
        method.check_options(options)

        def family_of(fit_to: FeatureSet, target: FeatureSet) -> Family:
            return self.family(method, options, fit_to, target)

        selection, split = self.selection_of(method, grid), self.chosen_on
        if "val" in method.needs:
            return selection.choose_fitted(split, family_of), family_of
        return selection.choose(split, family_of(split, split)), None

    def selection_of(self, method: Method, grid: Sequence[float] | None = None) -> Selection:
        """The rules of the choice, with the values of ``grid``, default those of the method.

        Raises:
            UsageError: a grid for a method that has none.
        """
        if grid is not None and not method.grid:
            raise UsageError(f"grid= is no option of {method.key}; {listed_names('it has', method.options)}")
        values = tuple(float(value) for value in grid or method.grid)
        return replace(self.selection, grid=values, grid_is_given=grid is not None)

    def description(self, method: Method, options: Mapping[str, Any], choice: Choice) -> tuple[dict[str, Any], str]:
        """What a head of a method says of itself (``info``), and what stands beside its name."""
        params = chosen_params(method, options, choice)
        split, selected_on = self.chosen_on, None
        if choice.best is not None or "val" in method.needs:
            selected_on = split.split + (" (oracle)" if self.oracle else "")
        info = {
            "method": method.key,
            "params": params,
            "parameter": choice.family.parameter,
            "selected_on": selected_on,
            "select": self.select if choice.best is not None else None,
            "fitted_to": [name for need, name in (("train", "train"), ("val", split.split)) if need in method.needs],
            "signature": self._signature(method, params, selected_on),
        }
        return info, detail_of(method, options, choice, params)

    def _after(self, choice: Choice, selection: Selection, family_of: FamilyOf | None = None) -> CalibrationStep | None:
        """What comes after a choice, where every row of it is judged by a head that was chosen on other rows."""
        if self.calibration is None and self.coverage is None and self.reject is None:
            return None
        split, kind = self.chosen_on, self.calibration or "none"
        folds = [] if self.oracle else selection.chosen_by_fold(split, choice, family_of)
        return CalibrationStep.after(kind, choice.head, split, folds, fitted=family_of is not None)

    def _with_more(self, results: Sequence[Result], head: Head, step: CalibrationStep | None) -> list[Result]:
        """Results of one head on the reported splits, with the figures that were asked for beside the usual ones."""
        wanted = (self.calibration is not None, self.coverage, self.reject, self.test_priors)
        return MoreFigures(self.chosen_on, self.groups, *wanted).beside(results, head, step, self.reported)

    def _judge(self, head: Head, part: FeatureSet, name: str, detail: str) -> Result:
        return evaluate(head, part, self.groups, name=name, detail=detail, device=self.device, goal=self.goal)

    def _signature(self, method: Method, params: Mapping[str, Any], selected_on: str | None) -> str:
        return signature_of(
            {
                "method": method.key,
                **params,
                "select": self.select if selected_on else None,
                "keep": ",".join(map(str, self.goal.keep)) or None,
                "on": selected_on,
                "groups": None if self.groups is None else self.groups.thresholds,
                "expert": self.folder.expert,
                "ckpt": str(self.report_set.attrs.get("checkpoint_sha256", ""))[:8] or None,
                "seed": self.seed,
            }
        )
