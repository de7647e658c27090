"""Classifier re-training with part of the reweighting, and logit adjustment for the rest.

    min over W, b   Σ_i n_{y_i}^-ρ CE(W x_i + b, y_i) + strength/2 ‖W‖²,   then   argmax_c  z_c - τ log π_c

ρ = 1 is cRT (all classes counted alike), ρ = 0 a classifier that is fitted to the rows as they are. Weights and offsets
both move boundaries; which does better on rare classes depends on how well the features separate. ρ, strength and τ are
chosen together: the exact sweep over τ for every fitted classifier.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.fit.fitting import refit
from ltpost.fit.loss import Loss
from ltpost.fit.options import HeadFit
from ltpost.fit.sampling import rows_per_class
from ltpost.heads import Array
from ltpost.method import Method
from ltpost.methods.tau_norm import GRID

FIT = HeadFit(sampler="instance", strengths=(0.3, 0.1, 0.03, 0.01, 0.003))


def crt_adjusted(
    train: FeatureSet,
    class_counts: Array,
    *,
    reweighting: tuple[float, ...] = (0.0, 0.5, 1.0),
    fit: HeadFit = FIT,
) -> Family:
    """Fits new classifiers with rare classes weighted more or less, and subtracts the class prior in part.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        class_counts: (C,) training samples per class, all positive.
        reweighting: values of ρ to try; a row of class c counts n_c^-ρ.
        fit: the solver and its options.
        solver: convex, or sgd, the recipe of cRT. Default convex, but sgd where an option of sgd is given.

    Returns:
        Heads along τ, usually 0..2, for each ρ and, with the convex solver, each strength.

    Raises:
        DataError: a class without a row or without training samples.
        UsageError: an option that cannot be used.
    """
    if not np.isfinite(reweighting).all():
        raise UsageError(f"reweighting= must hold finite numbers, but is {reweighting}")
    fit = replace(fit, watch=None)  # which would judge heads without their adjustment
    log_pi, counts = log_prior(class_counts), rows_per_class(train).astype(np.float64)

    def at(exponent: float) -> Family:
        weight = counts**-exponent
        family = refit(train, Loss(weight=weight * counts.sum() / (counts @ weight)), fit, name="crt-la")
        if family.parameter is None:
            return Family.affine(family.head(), log_pi, params=family.params, notes=family.notes)
        return Family.crossed(
            family.parameter,
            fit.strengths,
            lambda value: Family.affine(family.head(value), log_pi),
            params=family.params,
            notes=family.notes,
        )

    return Family.crossed("reweighting", reweighting, at)


METHOD = Method(
    "crt-la",
    crt_adjusted,
    title="re-training and logit adjustment",
    label="cRT + LA",
    equation="Wx + b - τ log π",
    source="Kang et al. and Menon et al.",
    chosen="ρ, strength, τ",
    grid=GRID,
    variant="head only",
    how="L-BFGS for each ρ, exact sweep",
    example="ltpost crt-la --reweighting 0,0.5,1",
)
