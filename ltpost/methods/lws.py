"""LWS, learnable weight scaling: one factor per class on the joint classifier, all classes counted alike.

    z'_c = f_c (w_c x + b_c)        min over f   1/C Σ_c mean_{i: y_i = c} CE(f ∘ z_i, c)  +  strength/2 ‖f - 1‖²

Source: Kang, Xie, Rohrbach, Yan, Gordo, Feng, Kalantidis, "Decoupling Representation and Classifier for Long-Tailed
Recognition", ICLR 2020, arXiv 1910.09217, section 4.3; reference code facebookresearch/classifier-balancing
(``models/TauNormClassifier.py``, which scales the bias too).

Two solvers, as for cRT (``methods.crt``): ``convex`` and the paper's ``sgd``. Both see the joint logits alone.

What this module does not do: choose the strength (``model_selection``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ltpost import distributed
from ltpost.errors import UsageError
from ltpost.features import FeatureSet
from ltpost.head import LinearHead
from ltpost.losses import balanced_row_weights, cross_entropy_
from ltpost.methods import Family
from ltpost.methods.crt import fitted_family
from ltpost.optim import check_path, convex_path, published_recipe, sgd
from ltpost.sampling import check_sampler, rows_per_class
from ltpost.tensors import FewRows, Matrix, find_device, training_logits

#: Strengths worth searching, strong to weak.
STRENGTHS = (1.0, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
TOLERANCE = 1e-4
EPOCHS = 5
_BLOCK_ELEMENTS = 2**18  # 1 MiB, which stays in the cache: there is no matrix product here


class BalancedScaling:
    """The loss of the convex solver, over θ = f, with the diagonal of the Hessian as preconditioner."""

    def __init__(self, logits: Matrix, labels: Tensor, weights: Tensor, joint: LinearHead):
        self.logits, self.labels, self.weights, self.joint = logits, labels, weights, joint
        self.strength = 0.0
        self._few = FewRows(logits, labels, weights, least=32)
        self._diagonal = torch.ones(logits.shape[1], device=logits.device)

    # NOTE[DIFF]: the reference's weight decay pulls f to 0, which shrinks all logits; here it is pulled to 1, the joint
    # classifier, so that a strong penalty changes nothing.
    def start(self) -> Tensor:
        """The joint classifier, f = 1."""
        return torch.ones(self.logits.shape[1], device=self.logits.device)

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        """Value and gradient of the loss: one pass over the logits."""
        total = torch.zeros((), dtype=torch.float64, device=theta.device)
        gradient = torch.zeros_like(theta, dtype=torch.float64)
        for part, z in self.logits.blocks(len(theta), _BLOCK_ELEMENTS):
            scores = z * theta
            total += cross_entropy_(scores, self.labels[part], self.weights[part])
            gradient += scores.mul_(z).sum(0)
        return float(distributed.sum_(total)), distributed.sum_(gradient).to(theta.dtype)

    def penalised(self, step: Tensor) -> Tensor:
        """All of it."""
        return step.clone()

    def look_around(self, theta: Tensor) -> float:
        """The Hessian's diagonal at f: Σ_i w_i p_ic (1 - p_ic) z_ic², of a few rows of every class."""
        self._diagonal = torch.zeros_like(theta)
        for z, weights in self._few.blocks(len(theta), _BLOCK_ELEMENTS):
            p = (z * theta).softmax(1)
            self._diagonal += weights @ p.addcmul_(p, p, value=-1).mul_(z).mul_(z)
        distributed.sum_(self._diagonal)
        return self._few.share

    def precondition(self, gradient: Tensor) -> Tensor:
        """Divide by the diagonal."""
        return gradient / (self._diagonal + self.strength)

    def head(self, theta: Tensor, info: dict[str, Any]) -> LinearHead:
        """The joint classifier rescaled by f."""
        return self.joint.rescaled(scale=theta.cpu().numpy(), info=info)


def lws_path(
    train: FeatureSet,
    *,
    strengths: Sequence[float] = STRENGTHS,
    tolerance: float = TOLERANCE,
    device: str = "cpu",
    progress: bool = True,
) -> Iterator[LinearHead]:
    """Convex LWS for every strength.

    Args:
        train: training logits (N, C), or features and the joint classifier; several views of a sample are several rows.
        strengths: of the penalty on f - 1; fitted from strong to weak, whatever the order given.
        tolerance: stop where ‖gradient‖₂ is at most this part of the gradient's norm at f = 1.
        device: cpu, cuda, cuda:<number> or auto.
        progress: show a bar, on a terminal.

    Returns:
        As of :func:`ltpost.methods.crt.crt_path`; every head is the joint classifier rescaled.

    Raises:
        DataError: a class without a row; neither logits nor a joint classifier; values that are not finite.
        UsageError: a strength or tolerance that is not positive; an unknown device.
    """
    check_path(strengths, tolerance)
    where = find_device(device)
    counts = rows_per_class(train)
    problem = BalancedScaling(
        training_logits(train, where),
        torch.from_numpy(train.labels).to(where),
        torch.from_numpy(balanced_row_weights(train.labels, counts)).to(where, torch.float32),
        train.joint,
    )
    return convex_path(problem, strengths, tolerance, method="lws", progress=progress)


def lws_sgd(
    train: FeatureSet,
    *,
    sampler: str = "class-balanced",
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    epochs: int = EPOCHS,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> LinearHead:
    """Fit LWS by the paper's recipe: f starts at 1, and takes a few epochs of SGD (weight decay pulls it to 0).

    Args, returns and errors as of :func:`ltpost.methods.crt.crt_sgd`; the seed is of the batches.
    """
    recipe = published_recipe(
        train, learning_rate=learning_rate, weight_decay=weight_decay, batch_size=batch_size, epochs=epochs
    )
    check_sampler(sampler)
    where = find_device(device)
    rows_per_class(train)
    logits = training_logits(train, where)
    scale = torch.ones(train.num_classes, device=where)

    def gradients(z: Tensor, labels: Tensor, row_weight: float) -> Tensor:
        scores = z * scale
        loss = cross_entropy_(scores, labels, row_weight)
        torch.sum(scores.mul_(z), 0, out=scale.grad)
        return loss

    loss = sgd(
        [scale],
        gradients,
        logits,
        train.labels,
        recipe,
        sampler=sampler,
        seed=seed,
        progress=progress,
        description="lws",
    )
    return train.joint.rescaled(
        scale=scale.cpu().numpy(),
        info={"method": "lws", "solver": "sgd", "sampler": sampler, **asdict(recipe), "seed": seed, "loss": loss},
    )


def lws(train: FeatureSet, solver: str = "sgd", *, strength: float = 0.001, **options: Any) -> LinearHead:
    """The joint classifier, rescaled class by class.

    Args:
        train: training logits (N, C), or features and the joint classifier.
        solver: ``sgd`` or ``convex``.
        strength: of the penalty of ``convex``; choose it on val.
        **options: of :func:`lws_sgd` or :func:`lws_path`.

    ``sgd`` is the default because it is the better one on real features, if not by much: on CIFAR-100-LT (ResNet-32,
    imbalance factor 100) 42.5 % mean per-class test accuracy from one view and from four (mean of 3 seeds), against
    42.3 % and 42.2 % for ``convex`` with the strength chosen on val.
    """
    if solver == "sgd":
        return lws_sgd(train, **options)
    if solver == "convex":
        return next(lws_path(train, strengths=[strength], **options))
    raise UsageError(f"solver must be sgd or convex, but is '{solver}'")


def family(train: FeatureSet, *, solver: str = "sgd", seed: int = 0, **options: Any) -> Family:
    """LWS for ``model_selection``; as :func:`ltpost.methods.crt.family`."""
    return fitted_family("lws", train, lws_path, lws_sgd, solver=solver, seed=seed, **options)
