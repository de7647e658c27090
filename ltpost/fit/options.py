"""How a head is fitted: the two solvers and their options. This module imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ltpost.data import distributed
from ltpost.data.features import FeatureSet
from ltpost.errors import UsageError
from ltpost.heads import Head

SOLVERS = ("convex", "sgd")
#: options of one solver only
CONVEX_ONLY = ("strengths", "tolerance")
SGD_ONLY = ("learning_rate", "weight_decay", "batch_size", "epochs", "precision")
#: N · C · D from which a pass over the data takes seconds; ImageNet-LT has 2.4e11, iNaturalist 2018 has 7.3e12
MUCH_WORK = 1e10
#: judges the heads of a path one after the other; true where the path need not go on
Watch = Callable[[Head], bool]


@dataclass(frozen=True)
class Fit:
    """How a head is fitted.

    Two solvers. ``convex`` minimises the loss and an L2 penalty to a stated gradient norm, for a path of strengths of
    the penalty, one of which is chosen on val; it is deterministic. Where a pass over the rows takes seconds, it
    multiplies in bfloat16 far from each minimum, if the processor can, and a path that is chosen on val ends where its
    heads have clearly become worse there. ``sgd`` is the published recipe: random batches, a few epochs.

    Args:
        solver: convex or sgd. Default convex, but sgd where an option of sgd is given.
        strengths: convex: strengths of the L2 penalty to choose from, such as 0.01,0.1,1; fitted from strong to weak.
        tolerance: convex: stop where the gradient's norm is at most this part of its norm at the start; of a whole head
            with N C D > 1e10 also where a step would lower the objective by no more than 3/1000 of tolerance of it.
        sampler: How rows are drawn (sgd) or weighted (convex). progressive is for sgd only.
        learning_rate: sgd: learning rate at the start. Default as published for data of this size.
        weight_decay: sgd: weight decay. Default as published for data of this size.
        batch_size: sgd: rows per step. Default as published for data of this size.
        epochs: sgd: epochs of N // batch_size steps each. Default as published for data of this size.
        seed: of the start and of the batches.
        device: cpu, cuda, cuda:<number> or auto.
        progress: show a bar, on a terminal.
        watch: makes a judge for each path of whole heads that is much work; the path ends where it says so.
        given: names of the options that the caller set.
    """

    solver: Literal["convex", "sgd"] | None = None
    strengths: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    tolerance: float = 1e-4
    sampler: Literal["class-balanced", "instance", "square-root", "progressive"] = "class-balanced"
    learning_rate: float | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    epochs: int | None = None
    seed: int = 0
    device: str = "cpu"
    progress: bool = True
    watch: Callable[[], Watch] | None = field(default=None, repr=False)
    given: frozenset[str] = field(default=frozenset(), repr=False)

    def chosen_solver(self, method: str) -> str:
        """The solver.

        Raises:
            UsageError: an option of the other solver was given, or an option cannot be used.
        """
        solver: str | None = self.solver
        if solver is None:
            solver = "sgd" if self.given & set(SGD_ONLY) or self.sampler == "progressive" else "convex"
        if solver not in SOLVERS:
            raise UsageError(f"solver= must be one of {', '.join(SOLVERS)}, but is {solver!r}")
        for name in sorted(self.given & set(SGD_ONLY if solver == "convex" else CONVEX_ONLY)):
            raise UsageError(
                f"{name}= is no option of {method} with the solver {solver}; leave it out, or choose the other solver"
            )
        if solver == "convex":
            self._check_convex()
        return solver

    def is_much_work(self, train: FeatureSet) -> bool:
        """Whether a pass of a whole head over the rows, of all processes together, takes seconds."""
        rows = int(distributed.sum_array(np.array([len(train)]))[0])
        return float(rows) * train.num_classes * (train.num_features or 1) >= MUCH_WORK

    def _check_convex(self) -> None:
        if not self.strengths:
            raise UsageError("strengths= must name at least one L2 strength, but is empty")
        for strength in self.strengths:
            if not 0 < strength < math.inf:
                raise UsageError(f"a strength in strengths= must be a positive number, but is {strength}")
        if not 0 < self.tolerance < 1:
            raise UsageError(f"tolerance= must lie between 0 and 1, but is {self.tolerance}")
        if self.sampler == "progressive":
            raise UsageError("sampler= progressive changes from epoch to epoch, so it needs the solver sgd")

    def recipe(self, train: FeatureSet) -> Recipe:
        """The SGD recipe published for the benchmark that the training rows look like; given values replace its own.

        Places-LT (365 classes), iNaturalist 2018 (300,000 samples or more) and ImageNet-LT as in the reference code of
        Kang et al. (``config/*/cls_crt.yaml``, read 2024); below 30,000 samples as MiSLAS trains CIFAR-LT classifiers.
        """
        samples = len(train) if train.sample is None else len(np.unique(train.sample))
        samples = int(distributed.sum_array(np.array([samples]))[0])
        if samples < 30_000:
            recipe = Recipe(0.1, 2e-4, 128, 10)
        elif train.num_classes == 365:
            recipe = Recipe(0.1, 5e-4, 256, 10)
        elif samples < 300_000:
            recipe = Recipe(0.2, 5e-4, 512, 10)
        else:
            recipe = Recipe(0.2, 1e-4, 512, 30)
        own = {name: getattr(self, name) for name in asdict(recipe)}
        return replace(recipe, **{name: value for name, value in own.items() if value is not None})

    def params(self, solver: str) -> dict[str, Any]:
        """What a result says of the fit besides the recipe."""
        if solver == "convex":
            strengths = sorted(set(self.strengths), reverse=True)
            return {"solver": solver, "sampler": self.sampler, "strengths": strengths, "tolerance": self.tolerance}
        return {"solver": solver, "sampler": self.sampler, "seed": self.seed}


@dataclass(frozen=True)
class HeadFit(Fit):
    """How a whole head is fitted, where every step is two matrix products.

    Args:
        precision: sgd: of the matrix products. bfloat16 is several times as fast where the processor has it
            (AVX512-BF16, AMX, any recent GPU). W, its update and the softmax stay float32. On CIFAR-100-LT (ResNet-32,
            imbalance factor 100; 5 seeds) mean per-class test accuracy of cRT is 42.02 % in both from one view, and
            42.06 % against 42.07 % in float32 from four views.
    """

    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Recipe:
    """How SGD runs: momentum 0.9, cosine learning rate from ``learning_rate`` towards 0, epoch by epoch.

    Raises:
        UsageError: a rate or size that cannot be.
    """

    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch_size", "epochs"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name}= must be positive, but is {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise UsageError(f"weight_decay= must not be negative, but is {self.weight_decay}")


def quiet(progress: bool) -> bool | None:
    """Whether tqdm shows no bar; None leaves it to whether there is a terminal."""
    return None if progress and distributed.rank() == 0 else True
