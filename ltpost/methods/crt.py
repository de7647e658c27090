"""cRT, classifier re-training: a new linear classifier on the frozen features, all classes counted alike.

    min over W, b   1/C Σ_c mean_{i: y_i = c} CE(W x_i + b, c)  +  strength/2 ‖W‖²

Source: Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis, "Decoupling Representation and Classifier for Long-Tailed
Recognition", ICLR 2020, arXiv 1910.09217, section 4.1; reference code facebookresearch/classifier-balancing.

Two solvers. ``convex`` minimises the objective above to a stated gradient norm, for a path of strengths from strong to
weak of which the caller chooses one on val; it is deterministic. ``sgd`` is the paper's recipe: random start,
class-balanced batches, a few epochs.

What this module does not do: choose the strength (``model_selection``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltpost import distributed
from ltpost.errors import UsageError
from ltpost.features import FeatureSet
from ltpost.head import LinearHead
from ltpost.losses import balanced_row_weights, cross_entropy_
from ltpost.methods import Family
from ltpost.optim import check_path, convex_path, published_recipe, sgd
from ltpost.sampling import check_sampler, rows_per_class
from ltpost.sweep import GridCurve
from ltpost.tensors import FewRows, Matrix, find_device, training_features

#: Strengths worth searching, strong to weak.
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
TOLERANCE = 1e-4
#: N · C · D beyond which a path of strengths takes hours on a CPU; ImageNet-LT is half of it, iNaturalist 15 times
LONG_WORK = 5e11
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class BalancedRegression:
    """The loss of the convex solver, over θ = (W, b + W m) flattened, m about the class-balanced mean of the features.

    Centring the features leaves the minimum where it is and makes it far quicker to reach: post-ReLU features lie in
    one quadrant, where every weight is entangled with the bias.

    The preconditioner takes one class at a time. With q_i = w_i p_ic (1 - p_ic), the Hessian of (w_c, b_c) is the
    second moment of (x_i, 1) under q: its mass h_c = Σ q_i and its mean v_c are measured now and then, its covariance
    is taken to be that of all features, A, so that one eigendecomposition serves all classes and strengths. A few rows
    of every class are enough for all three; the minimum does not depend on them.
    (Böhning's bound H ≼ ½ (I - 11ᵀ/C) ⊗ Σ_i w_i x_i x_iᵀ is the same idea with nothing measured.)
    Source: Böhning, "Multinomial logistic regression algorithm", Ann. Inst. Statist. Math. 44 (1992).
    """

    def __init__(self, features: Matrix, labels: Tensor, weights: Tensor, num_classes: int):
        self.features, self.labels, self.weights = features, labels, weights
        self.shape = (num_classes, features.shape[1])
        self.strength = 0.0
        self._few = FewRows(features, labels, weights, least=8)
        self.mean, covariance = self._moments()
        self._spectrum, self._basis = torch.linalg.eigh(covariance)
        self._spectrum.clamp_(min=0)
        self._mass = torch.ones(num_classes, 1, device=features.device)  # h
        self._centre = torch.zeros(self.shape, device=features.device)  # v - m

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Class-balanced mean (D,) and covariance (D, D) of the few rows; their weights sum to 1."""
        device, size = self.features.device, self.shape[1]
        mean, covariance = torch.zeros(size, device=device), torch.zeros(size, size, device=device)
        for x, weights in self._few.blocks(self.shape[0]):
            mean += weights @ x
        distributed.sum_(mean)
        for x, weights in self._few.blocks(self.shape[0]):
            centred = x - mean
            covariance.addmm_(centred.T, centred * weights[:, None])
        return mean, distributed.sum_(covariance)

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Views of W (C, D) and of the centred bias (C,)."""
        size = self.shape[0] * self.shape[1]
        return theta[:size].view(self.shape), theta[size:]

    def start(self) -> Tensor:
        """θ = 0."""
        return torch.zeros(self.shape[0] * (self.shape[1] + 1), device=self.features.device)

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        """Value and gradient of the loss: one pass over the features, two matrix products."""
        weight, bias = self.split(theta)
        gradient = torch.zeros_like(theta)
        weight_gradient, bias_gradient = self.split(gradient)
        raw_bias = bias - weight @ self.mean
        total = torch.zeros((), dtype=torch.float64, device=theta.device)
        for part, x in self.features.blocks(self.shape[0]):
            scores = torch.addmm(raw_bias, x, weight.T)
            total += cross_entropy_(scores, self.labels[part], self.weights[part])
            weight_gradient.addmm_(scores.T, x)
            bias_gradient += scores.sum(0)
        distributed.sum_(gradient)
        weight_gradient.addr_(bias_gradient, self.mean, alpha=-1)
        return float(distributed.sum_(total)), gradient

    def penalised(self, step: Tensor) -> Tensor:
        """The weights' part of a step; the bias is not penalised."""
        result = step.clone()
        self.split(result)[1].zero_()
        return result

    def look_around(self, theta: Tensor) -> float:
        """Measure h_c and v_c at θ, on a few rows of every class: two matrix products, like a pass over those."""
        weight, bias = self.split(theta)
        raw_bias = bias - weight @ self.mean
        self._mass.zero_()
        self._centre.zero_()
        for x, weights in self._few.blocks(self.shape[0]):
            p = torch.addmm(raw_bias, x, weight.T).softmax(1)
            q = p.addcmul_(p, p, value=-1).mul_(weights[:, None])
            self._mass += q.sum(0)[:, None]
            self._centre.addmm_(q.T, x)
        distributed.sum_(self._mass).clamp_(min=1e-8)
        distributed.sum_(self._centre)
        self._centre.div_(self._mass).sub_(self.mean)
        return self._few.share

    def precondition(self, gradient: Tensor) -> Tensor:
        """Solve [h (A + v vᵀ) + strength I, h v; h vᵀ, h] (w, b) = gradient for every class; the bias takes v."""
        weight_gradient, bias_gradient = self.split(gradient)
        result = torch.empty_like(gradient)
        weight, bias = self.split(result)
        rotated = torch.addcmul(weight_gradient, bias_gradient[:, None], self._centre, value=-1) @ self._basis
        rotated.div_(self._mass * self._spectrum + self.strength)
        torch.mm(rotated, self._basis.T, out=weight)
        torch.sub(bias_gradient / self._mass[:, 0], (self._centre * weight).sum(1), out=bias)
        return result

    def head(self, theta: Tensor, info: dict[str, Any]) -> LinearHead:
        """The classifier that θ stands for."""
        weight, bias = self.split(theta)
        return LinearHead(weight.cpu().numpy(), (bias - weight @ self.mean).cpu().numpy(), info=info)


def crt_path(
    train: FeatureSet,
    *,
    strengths: Sequence[float] = STRENGTHS,
    tolerance: float = TOLERANCE,
    device: str = "cpu",
    progress: bool = True,
) -> Iterator[LinearHead]:
    """Convex cRT for every strength.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        strengths: of the L2 penalty on W (not on b); fitted from strong to weak, whatever the order given.
        tolerance: stop where ‖gradient‖₂ is at most this part of the gradient's norm at W = 0, b = 0.
        device: cpu, cuda, cuda:<number> or auto.
        progress: show a bar, on a terminal.

    Returns:
        Heads, fitted when asked for, strong to weak; see :func:`ltpost.optim.convex_path` for their ``info``.

    Raises:
        DataError: a class without a row; features that are missing or not finite.
        UsageError: a strength or tolerance that is not positive; an unknown device.
    """
    check_path(strengths, tolerance)
    where = find_device(device)
    counts = rows_per_class(train)
    problem = BalancedRegression(
        training_features(train, where),
        torch.from_numpy(train.labels).to(where),
        torch.from_numpy(balanced_row_weights(train.labels, counts)).to(where, torch.float32),
        train.num_classes,
    )
    return convex_path(problem, strengths, tolerance, method="crt", progress=progress)


def crt_sgd(
    train: FeatureSet,
    *,
    sampler: str = "class-balanced",
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    precision: str = "float32",
    device: str = "cpu",
    progress: bool = True,
) -> LinearHead:
    """Fit cRT by the paper's recipe: W and b start at random, and take a few epochs of SGD.

    Args:
        train: training features (N, D) and labels.
        sampler: instance, class-balanced, square-root or progressive.
        learning_rate: at the start; this and the next three default to :func:`ltpost.optim.published_recipe`.
        weight_decay: of W and b.
        batch_size: rows per step.
        epochs: of N // batch_size steps each.
        seed: of the start and of the batches.
        precision: of the two matrix products of a step: float32, or bfloat16, several times as fast where the
            processor has it (AVX512-BF16, AMX, any recent GPU). W, its update and the softmax stay float32. On
            CIFAR-100-LT (ResNet-32, imbalance factor 100; 5 seeds) mean per-class test accuracy is 42.02 % in both
            from one view, and 42.06 % against 42.07 % in float32 from four; no seed differs by more than 0.04, and
            99.9 % of the predictions are the same (seeds among themselves: standard deviation 0.13).
        device: cpu, cuda, cuda:<number> or auto.
        progress: show a bar, on a terminal.

    Returns:
        A head; its ``info`` holds the recipe and the mean loss over the last epoch.

    Raises:
        DataError: a class without a row; features that are missing or not finite.
        UsageError: an unknown sampler, precision or device, a rate or size that cannot be.
    """
    recipe = published_recipe(
        train, learning_rate=learning_rate, weight_decay=weight_decay, batch_size=batch_size, epochs=epochs
    )
    check_sampler(sampler)
    if precision not in PRECISIONS:
        raise UsageError(f"precision must be one of {', '.join(PRECISIONS)}, but is '{precision}'")
    where = find_device(device)
    rows_per_class(train)
    features = training_features(train, where, PRECISIONS[precision])
    bound = 1 / np.sqrt(features.shape[1])  # a new linear layer's, as torch makes it
    random = torch.Generator().manual_seed(seed)
    weight = torch.empty(train.num_classes, features.shape[1]).uniform_(-bound, bound, generator=random).to(where)
    bias = torch.empty(train.num_classes).uniform_(-bound, bound, generator=random).to(where)

    def gradients(x: Tensor, labels: Tensor, row_weight: float) -> Tensor:
        scores = (x @ weight.to(x.dtype).T).float().add_(bias)
        loss = cross_entropy_(scores, labels, row_weight)
        if x.dtype == torch.float32:
            torch.mm(scores.T, x, out=weight.grad)
        else:
            weight.grad.copy_(scores.to(x.dtype).T @ x)  # type: ignore[union-attr]
        torch.sum(scores, 0, out=bias.grad)
        return loss

    loss = sgd(
        [weight, bias],
        gradients,
        features,
        train.labels,
        recipe,
        sampler=sampler,
        seed=seed,
        progress=progress,
        description="crt",
    )
    return LinearHead(
        weight.cpu().numpy(),
        bias.cpu().numpy(),
        info={
            "method": "crt",
            "solver": "sgd",
            "sampler": sampler,
            **asdict(recipe),
            "precision": precision,
            "seed": seed,
            "loss": loss,
        },
    )


def crt(train: FeatureSet, solver: str = "convex", *, strength: float = 0.03, **options: Any) -> LinearHead:
    """A re-trained classifier.

    Args:
        train: training features (N, D) and labels.
        solver: ``convex`` or ``sgd``.
        strength: of the L2 penalty of ``convex``. The best one differs from network to network: choose it on val.
        **options: of :func:`crt_path` or :func:`crt_sgd`.

    ``convex`` is the default because it is the better one on real features: on CIFAR-100-LT (ResNet-32, imbalance
    factor 100), with the strength chosen on val, 42.9 % mean per-class test accuracy from one view and 43.2 % from
    four, against 42.0 % and 41.9 % for ``sgd`` (mean of 3 seeds). That network fits its training images completely;
    only a penalty that is strong enough keeps the new classifier from following them, and a few epochs of SGD are not.
    """
    if solver == "convex":
        return next(crt_path(train, strengths=[strength], **options))
    if solver == "sgd":
        return crt_sgd(train, **options)
    raise UsageError(f"solver must be convex or sgd, but is '{solver}'")


def family(
    train: FeatureSet, *, solver: str | None = None, seed: int = 0, device: str = "cpu", **options: Any
) -> Family:
    """Re-trained classifiers for ``model_selection``: ``convex`` along the strength, ``sgd`` as one head.

    Args:
        train: training features (N, D) and labels.
        solver: ``convex`` or ``sgd``. Default the one that the options are of, else convex (see :func:`crt`), but sgd
            where N · C · D is above ``LONG_WORK`` and a path would keep a CPU busy for hours; a note then says so.
        seed: of ``sgd``.
        device: where to fit.
        **options: of :func:`crt_path` or :func:`crt_sgd`.

    Raises:
        UsageError: an option of the other solver.
    """
    notes: tuple[str, ...] = ()
    if solver is None:
        num_rows = int(distributed.sum_array(np.array([len(train)]))[0])
        work = float(num_rows) * train.num_classes * (train.num_features or 1)
        only = {name: name not in inspect.signature(crt_path).parameters for name in options}
        solver = "sgd" if any(only.values()) else "convex"
        if not options and device == "cpu" and work > LONG_WORK:
            solver = "sgd"
            notes = (
                f"fitted by sgd, as {num_rows:,} rows of {train.num_classes:,} classes take --solver convex hours",
            )
    found = fitted_family("crt", train, crt_path, crt_sgd, solver=solver, seed=seed, device=device, **options)
    return replace(found, notes=(*found.notes, *notes))


def fitted_family(
    method: str,
    train: FeatureSet,
    path: Callable[..., Iterator[LinearHead]],
    recipe: Callable[..., LinearHead],
    *,
    solver: str,
    seed: int,
    **options: Any,
) -> Family:
    """The family of a method with the two solvers ``path`` and ``recipe``."""
    functions: dict[str, Callable[..., Any]] = {"convex": path, "sgd": recipe}
    if solver not in functions:
        raise UsageError(f"solver must be convex or sgd, but is '{solver}'")
    for name in options:
        if name not in inspect.signature(functions[solver]).parameters:
            raise UsageError(f"{name} is no option of {method} with solver {solver}; leave it out or choose the other")
    if solver == "sgd":
        single = recipe(train, seed=seed, **options)
        params = {name: value for name, value in single.info.items() if name not in ("method", "loss")}
        return Family(method, None, curve=_no_curve, head=lambda _: single, params=params)
    heads = {head.info["strength"]: head for head in path(train, **options)}
    stopped = [f"{strength:g}" for strength, head in heads.items() if not head.info["converged"]]
    notes = [f"strength {', '.join(stopped)} did not reach the tolerance"] if stopped else []
    return Family(
        method,
        "strength",
        curve=lambda split, groups: GridCurve.of_heads("strength", heads, heads.values(), split, groups),
        head=heads.__getitem__,
        params={"solver": solver},
        notes=tuple(notes),
    )


def _no_curve(split: FeatureSet, groups: Any) -> Any:
    raise AssertionError("a single head has no curve")
