"""Fit a head on frozen features: :func:`refit` frees all of W and b, :func:`rescale` a factor and a shift per class.

    refit     min over W, b   Σ_i w_i loss(W x_i + b, y_i)      +  strength/2 ‖W‖²
    rescale   min over f, b   Σ_i w_i loss(f ∘ z_i + b u, y_i)  +  strength/2 (‖f - 1‖² + ‖b‖²)

What a method adds is the loss. This module imports torch when a fit begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ltpost.data.features import FeatureSet
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.fit.layer import Layer
from ltpost.fit.loss import HeadLoss
from ltpost.fit.options import Fit, HeadFit, Watch
from ltpost.fit.sampling import rows_per_class
from ltpost.heads import Array, Head, LinearHead

if TYPE_CHECKING:
    from ltpost.fit.sgd import Mix

LAYER = Layer()


def refit(
    train: FeatureSet,
    loss: HeadLoss,
    fit: HeadFit,
    *,
    name: str,
    layer: Layer = LAYER,
    shares: Array | None = None,
    starts: int = 1,
    mix: Mix | None = None,
    only_sgd: str = "",
) -> Family:
    """A new linear classifier.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        loss: of logits and labels.
        fit: how to minimise it.
        name: of the method, for messages and the progress bar.
        layer: where the classifier starts, and what it may become.
        shares: (C,) how likely a row is of each class; it takes the place of the sampler.
        starts: convex: how many descents, the first from the start, the others from random weights; the lowest end is
            kept. More than one is for a loss that is not convex.
        mix: sgd: makes the rows of a batch from two.
        only_sgd: why this loss is for sgd alone; "" where it is not.

    Returns:
        With the convex solver heads along the strength, with sgd one head.

    Raises:
        DataError: a class without a row; features that are missing or not finite.
        UsageError: an option that cannot be used.
    """
    solver = fit.chosen_solver(name)
    if shares is not None and "sampler" in fit.given:
        raise UsageError(f"sampler= is no option of {name}, which says itself how rows are drawn; leave it out")
    if only_sgd and solver != "sgd":
        raise UsageError(f"{name} {only_sgd}, so it needs the solver sgd; leave solver= out")
    if starts < 1:
        raise UsageError(f"starts= must be at least 1, but is {starts}")
    counts = rows_per_class(train)
    layer.check(train.name, train.num_classes, train.features.shape[1])
    from ltpost.fit import solve

    if solver == "sgd":
        recipe = fit.recipe(train)
        head = solve.refit_sgd(train, loss, fit, recipe, name, layer, shares, mix)
        return Family.single(head, params={**fit.params(solver), **asdict(recipe), "precision": fit.precision})
    watch = fit.watch() if fit.watch is not None and starts == 1 and fit.is_much_work(train) else None
    return _along_strengths(solve.refit_convex(train, counts, loss, fit, name, layer, shares, starts), fit, watch)


def rescale(
    train: FeatureSet,
    joint: Head,
    loss: HeadLoss,
    fit: Fit,
    *,
    name: str,
    shift_unit: Array | None = None,
    factors: bool = True,
    absent: bool = False,
) -> Family:
    """The joint classifier, rescaled class by class.

    Args:
        train: training logits (N, C), or features and the joint classifier; several views of a sample are several rows.
        joint: the joint classifier.
        loss: of logits and labels.
        fit: how to minimise it.
        name: of the method, for messages and the progress bar.
        shift_unit: (C,) u, to free a shift b too; default factors only.
        factors: whether to free f; else only the shift.
        absent: whether classes may be without a row.

    Returns, raises:
        As :func:`refit`.
    """
    solver = fit.chosen_solver(name)
    counts = rows_per_class(train, absent)
    from ltpost.fit import solve

    if solver == "sgd":
        recipe = fit.recipe(train)
        head = solve.rescale_sgd(train, joint, loss, fit, recipe, name, shift_unit, factors)
        return Family.single(head, params={**fit.params(solver), **asdict(recipe)})
    path = solve.rescale_convex(train, counts, joint, loss, fit, name, shift_unit, factors)
    return _along_strengths(path, fit)


def gated(
    train: FeatureSet, head: LinearHead, loss: HeadLoss, fit: Fit, *, name: str, unit: bool, scale: float
) -> Family:
    """The joint classifier, adjusted as far as a gate of the features opens (:class:`~ltpost.heads.GatedHead`).

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        head: the joint classifier.
        loss: of logits and labels.
        fit: how to minimise it. It is not convex; with convex a descent from the start ends in a local minimum, and the
            penalty pulls all parameters to the start.
        name: of the method, for messages and the progress bar.
        unit: whether x and w_c are taken at unit length.
        scale: what those cosines are multiplied with, at the start.

    Returns, raises:
        As :func:`refit`.
    """
    solver = fit.chosen_solver(name)
    counts = rows_per_class(train)
    Layer(start=head).check(train.name, train.num_classes, train.features.shape[1])
    from ltpost.fit import solve

    recipe = fit.recipe(train) if solver == "sgd" else None
    heads = solve.gate(train, counts, head, loss, fit, recipe, name, unit, scale)
    if recipe is not None:
        return Family.single(next(heads), params={**fit.params(solver), **asdict(recipe)})
    return _along_strengths(heads, fit)


def _along_strengths(path: Iterator[Head], fit: Fit, watch: Watch | None = None) -> Family:
    """The heads of a path, to its end or to where a watch stops it."""
    heads: dict[Any, Head] = {}
    for head in path:
        heads[head.info["strength"]] = head
        if watch is not None and watch(head):
            break
    params, notes = fit.params("convex"), []
    left = [strength for strength in params["strengths"] if strength not in heads]
    if left:
        params["strengths"] = list(heads)
        notes.append(
            f"the path of strengths ended at {head.info['strength']:g}, which is clearly worse than a stronger one on "
            f"the rows of the choice; {', '.join(f'{strength:g}' for strength in left)} "
            f"{'was' if len(left) == 1 else 'were'} not fitted"
        )
    slow = [f"{strength:g}" for strength, head in heads.items() if not head.info["converged"]]
    if slow:
        notes.append(f"strength {', '.join(slow)} did not reach the tolerance")
    return Family.tabulated(heads.__getitem__, tuple(heads), parameter="strength", params=params, notes=tuple(notes))
