"""TailCalib: generated features of rare classes, then a new classifier.

Vigneswaran, Law, Balasubramanian, Tapaswi, "Feature Generation for Long-tail Classification", ICVGIP 2021,
arXiv:2111.05956, after the distribution calibration of Yang, Liu, Xu, ICLR 2021, arXiv:2101.06395.

    x' ~ N((x^p + Σ_k m_k) / (K + 1),  mean_k S_k + α 11ᵀ + 10⁻⁴ I)        k the K classes nearest to x^p

Every class is topped up with such rows to the size of the largest. The classifier is that of cRT on all rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ltpost.data import distributed
from ltpost.data.class_sums import class_sums
from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, UsageError
from ltpost.family import Family
from ltpost.fit.fitting import refit
from ltpost.fit.generated import Generator
from ltpost.fit.loss import Loss
from ltpost.fit.options import HeadFit
from ltpost.fit.sampling import rows_per_class
from ltpost.heads import ChangedHead, Head, LinearHead
from ltpost.heads.changed import change
from ltpost.method import Method

FIT = HeadFit()
MOST_BYTES = 2**31  # of real and generated rows together


def tail_calibration(
    train: FeatureSet,
    *,
    power: float = 0.9,
    neighbours: int = 1,
    alpha: float = 0.0,
    rows_each: int | None = None,
    fit: HeadFit = FIT,
    seed: int = 0,
) -> Family:
    """Tops up rare classes with generated features, and fits a new classifier.

    Args:
        train: training features (N, D), none negative, and labels.
        power: p, to which all features are taken, those to be classified too; 1 for none.
        neighbours: K, classes whose mean and covariance are borrowed.
        alpha: added to every entry of a covariance.
        rows_each: rows up to which a class is topped up. Default the size of the largest class, or what 2 GiB hold.
        fit: the solver and its options.
        seed: of the draws.

    Returns:
        Heads along the strength (convex), or one head (sgd); linear where the power is 1.

    Raises:
        DataError: a class without a row; no class of two rows; a negative feature where the power is not 1.
        UsageError: an option that cannot be used; several processes.

    NOTE[DIFF]: in the reference code class means and covariances are those of features before the power, and rows to be
    classified are not taken to a power by default, unlike training rows. Here one power holds for everything. A class
    of one row has no covariance there (0/0); here it lends none, and borrows like any other.
    """
    if distributed.is_active():
        raise UsageError("tailcalib needs all training rows in one process; start ltpost without torchrun")
    if neighbours < 1 or not alpha >= 0 or not power > 0:
        raise UsageError(
            f"neighbours= and power= must be positive and alpha= not negative, but are {neighbours}, {power:g} and "
            f"{alpha:g}"
        )
    counts = rows_per_class(train)
    means = class_sums(train, lambda block: _checked_power(train.name, block, power)) / counts[:, None]
    fits = MOST_BYTES // (2 * means.shape[1]) // len(counts)
    target = min(int(counts.max()), max(1, fits)) if rows_each is None else rows_each
    generator = Generator(train, means, counts, power=power, neighbours=neighbours, alpha=alpha, seed=seed)
    more = np.maximum(target - counts, 0)
    features = np.empty(
        (len(train) + int(more.sum()), means.shape[1]), np.float16 if len(train) > 2**16 else np.float32
    )
    for part, block in train.feature_blocks():
        features[part] = change(block.astype(np.float32), power)
    end = len(train)
    for label in np.flatnonzero(more):
        features[end : end + more[label]] = generator.draw(int(label), int(more[label]))
        end += more[label]
    labels = np.concatenate([train.labels, np.repeat(np.arange(len(counts)), more)])
    topped_up = FeatureSet(features, labels, name=train.name)
    if power != 1:
        fit = replace(fit, watch=None)  # which would judge heads without the power
    family = refit(topped_up, Loss(), fit, name="tailcalib")
    notes = family.notes
    if rows_each is None and target < counts.max():
        notes = (*notes, f"classes were topped up to {target:,} rows only, which is what 2 GiB hold")
    params = {**family.params, "rows_each": target, "seed": seed}

    def changed(head: Head) -> Head:
        layer = head.linear()
        assert isinstance(layer, LinearHead)
        return layer if power == 1 else ChangedHead(layer, power=power)

    if family.parameter is None:
        return Family.single(changed(family.head()), params=params, notes=notes)
    strengths = family.params["strengths"]
    return Family.tabulated(
        lambda strength: changed(family.head_at(strength)),
        strengths,
        parameter=family.parameter,
        params=params,
        notes=notes,
    )


def _checked_power(name: str, block: np.ndarray, power: float) -> np.ndarray:
    if power != 1 and block.min(initial=0) < 0:
        raise DataError(f"{name}: 'features' must not be negative for a power of {power:g}, but are; use power 1")
    return change(block, power)


METHOD = Method(
    "tailcalib",
    tail_calibration,
    title="tail calibration",
    label="TailCalib",
    equation="W x^p + b on generated rows",
    source="Vigneswaran et al., ICVGIP 2021",
    chosen="strength (convex)",
    variant="head only",
    how="generated rows, then cRT",
    example="ltpost tailcalib --alpha 0.1",
)
