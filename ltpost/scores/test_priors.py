"""Accuracy under other class priors of the test rows, by weighting them exactly instead of drawing some.

    acc(p) = Σ_c p_c h_c / n_c

The usual protocol (LADE, SADE) draws a long-tailed subset of the test rows: 12,058 of 50,000 for ImageNet-LT with
factor 50. This is its expectation, from all rows. It says how a head does on such rows as it is; a head that knows
their prior is another one (``ltpost pc-softmax --target-prior backward-50``).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ltpost.data.priors import PROFILE, profile
from ltpost.errors import DataError, UsageError
from ltpost.heads import Array

#: of the Dirichlet distribution around a profile, as in DirMixE (Yang et al., ICML 2024)
CONCENTRATION = 10_000.0
_DIRICHLET = "dirichlet-"


def named_priors(names: Iterable[str], class_counts: Array | None) -> dict[str, Array]:
    """Class priors (C,) by name.

    Args:
        names: ``uniform``, ``forward-50``, ``backward-50`` (any factor), or one of these after ``dirichlet-``.
        class_counts: (C,) training samples per class, which order the classes.

    Raises:
        UsageError: another name.
        DataError: a profile is asked for, but the counts are not known.
    """
    priors = {}
    for name in names:
        shape = name.removeprefix(_DIRICHLET)
        if shape != "uniform" and not PROFILE.fullmatch(shape):
            raise UsageError(
                "test_priors= must be uniform, forward-50 or backward-50 (any factor), or one of these after "
                f"dirichlet-, but is {name!r}"
            )
        if class_counts is None:
            raise DataError("there are no class_counts (C,), which tell the frequent classes of a test prior")
        classes = len(class_counts)
        priors[name] = np.full(classes, 1 / classes) if shape == "uniform" else profile(shape, class_counts)
    return priors


def accuracy_under(prior: Array, hits: Array, totals: Array) -> float:
    """Σ_c p_c h_c / n_c over the classes that have rows, with p renormalised over them; a fraction, NaN without rows.

    Args:
        prior: (C,) p.
        hits: (C,) correct rows h.
        totals: (C,) rows n.

    >>> accuracy_under(np.array([0.75, 0.25]), np.array([4, 1]), np.array([4, 4]))
    0.8125
    """
    present = totals > 0
    if not present.any():
        return np.nan
    return float(prior[present] @ (hits[present] / totals[present]) / prior[present].sum())


def spread_under_dirichlet(prior: Array, hits: Array, totals: Array, concentration: float = CONCENTRATION) -> float:
    """Standard deviation of the accuracy over priors drawn from Dirichlet(concentration · p).

    For weights w ~ Dirichlet(a p): E Σ w x = Σ p x and Var Σ w x = (Σ p x² - (Σ p x)²) / (a + 1), so that nothing needs
    to be drawn.

    NOTE[DIFF]: DirMixE draws three such priors, with 5 % of noise on top.
    """
    present = totals > 0
    share = prior[present] / prior[present].sum()
    accuracy = hits[present] / totals[present]
    variance = share @ np.square(accuracy) - (share @ accuracy) ** 2
    return float(np.sqrt(max(0.0, variance) / (concentration + 1)))


def figures_under(priors: dict[str, Array], hits: Array, totals: Array) -> dict[str, float]:
    """The accuracy under every prior, and of those with ``dirichlet-`` the standard deviation too."""
    figures = {}
    for name, prior in priors.items():
        figures[name] = accuracy_under(prior, hits, totals)
        if name.startswith(_DIRICHLET):
            figures[f"{name} std"] = spread_under_dirichlet(prior, hits, totals)
    return figures
