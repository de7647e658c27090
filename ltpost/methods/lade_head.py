"""LADE head (Hong et al., "Disentangling Label Distribution for Long-tailed Visual Recognition", CVPR 2021).

    mean_i CE(z_i + log π, y_i) - a Σ_c π_c (A_c - B_c - λ B_c²)      z = W x + b
    A_c = mean_{i: y_i = c} z_ic      B_c = log mean_i exp(z_ic - log π_c - log C)

The balanced softmax head, and a regularised Donsker-Varadhan bound that makes every logit tell its class from the rest.
arXiv:2012.00321, equations 9 to 11. Reference code: hyperconnect/LADE. Convex where B_c ≥ -1/(2λ). What it does not do:
train the network; its shift to a known test prior is logit adjustment afterwards.
"""

from __future__ import annotations

from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.fit.fitting import refit
from ltpost.fit.options import HeadFit
from ltpost.fit.whole_losses import LadeLoss
from ltpost.heads import Array
from ltpost.method import Method

FIT = HeadFit(sampler="instance")


def lade_head(
    train: FeatureSet, class_counts: Array, *, alpha: float = 0.1, lam: float = 0.1, fit: HeadFit = FIT
) -> Family:
    """Fits a balanced softmax head whose logits each tell their class from the rest.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        class_counts: (C,) training samples per class, all positive.
        alpha: weight of the bound; 0 gives the balanced softmax head.
        lam: λ, of the bound's own penalty.
        fit: the solver and its options.

    Returns:
        Heads along the strength (convex), or one head (sgd). The bound is of all rows together, so that sgd, which
        sees a batch at a time, minimises another mean of it. One evaluation counts one and a half passes.

    Raises:
        DataError: a class without training samples.
        UsageError: a negative alpha or lam.
    """
    for name, value in (("alpha", alpha), ("lam", lam)):
        if not value >= 0:
            raise UsageError(f"{name}= must not be negative, but is {value}")
    # NOTE[DIFF]: the reference adds 1e-9 to π, which lets a class without samples pass.
    return refit(train, LadeLoss(log_prior(class_counts), alpha, lam), fit, name="lade")


METHOD = Method(
    "lade",
    lade_head,
    title="LADE head",
    label="LADE",
    equation="Wx + b, fitted as Wx + b + log π with a bound",
    source="Hong et al., CVPR 2021",
    chosen="strength (convex)",
    variant="head only",
    how="L-BFGS, or SGD recipe",
    example="ltpost lade --alpha 0.05",
)
