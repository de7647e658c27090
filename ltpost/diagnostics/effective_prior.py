"""The prior that a head acts by, and the logit adjustment that is hidden in it.

Effective prior: the mean of softmax(z) over the rows, against log π_c (Prior2Posterior, WACV 2025, estimates it so).
On balanced rows a head without a prior has slope 0 on log π_c, one that repeats the training prior more.

Hidden adjustment: z' = a z + t_c + (a number per row), z of the joint classifier, fitted by least squares. R² is the
share of the change z' - a z that is an offset of the class; t_c / a against log π_c has the slope -τ of a logit
adjustment z - τ log π (weight decay and class-balanced losses act like one: Hasegawa and Sato, ICLR 2024, Section 5).
Costs one pass over the scores of both heads.
"""

from __future__ import annotations

import numpy as np

from ltpost.diagnostics import pictures
from ltpost.diagnostics.finding import Finding, correlation
from ltpost.diagnostics.subject import Subject
from ltpost.heads import Array, Head


def effective_prior(subject: Subject) -> Finding:
    """Slopes on log π_c and their R²; the offset per class."""
    prior = subject.answers.prior
    with np.errstate(divide="ignore", invalid="ignore"):  # classes of 0 have no logarithm, and are left out
        log_prior = subject.log_counts - np.log(subject.counts.sum())
        log_effective = np.log(prior)
    slope, fit = correlation(log_prior, log_effective)
    values = {"prior_slope": slope, "prior_r2": fit}
    rows: list[list[str | float]] = [["log of the mean softmax, slope on log π", slope, fit]]
    per_class = {"effective_prior": prior}
    shown = {"mean softmax": prior}
    if subject.joint is not None and not subject.is_joint:
        scale, offset, share = hidden_offset(subject, subject.joint)
        tau, tau_fit = correlation(log_prior, offset / scale)
        values |= {"scale": scale, "offset_r2": share, "tau": -tau, "tau_r2": tau_fit}
        rows.append(["class offset from joint, share of the change", scale, share])
        rows.append(["hidden τ, -slope of the offset on log π", -tau, tau_fit])
        per_class["offset"] = offset
        shown = {"offset from joint": offset}
    return Finding(
        "effective_prior",
        "effective prior, and the logit adjustment that explains the head best (second line: scale, R²)",
        ["", "value", "R²"],
        rows,
        values,
        lambda ax: pictures.against_counts(subject.counts, shown, next(iter(shown)), ax=ax),
        per_class,
    )


def hidden_offset(subject: Subject, joint: Head) -> tuple[float, Array, float]:
    """a, t_c (mean 0) and R²; sums in float64 around the first row, so that large offsets cost no digits."""
    n, classes = len(subject.rows), subject.num_classes
    sums = {name: np.zeros(classes) for name in ("z", "w", "zz", "zw", "ww")}
    first: tuple[Array, Array] | None = None
    for (_, ours), (_, joints) in zip(subject.scores(), subject.scores(joint), strict=True):
        ours -= ours.mean(axis=1, keepdims=True)
        joints -= joints.mean(axis=1, keepdims=True)
        first = first or (joints[0].copy(), ours[0].copy())
        z, w = joints - first[0], ours - first[1]
        for name, block in (("z", z), ("w", w), ("zz", z * z), ("zw", z * w), ("ww", w * w)):
            sums[name] += block.sum(axis=0)
    assert first is not None
    spread_z = sums["zz"].sum() - (sums["z"] ** 2).sum() / n
    shared = sums["zw"].sum() - (sums["z"] * sums["w"]).sum() / n
    spread_w = sums["ww"].sum() - (sums["w"] ** 2).sum() / n
    scale = float(shared / spread_z) if spread_z > 0 else 1.0
    offset = (sums["w"] / n + first[1]) - scale * (sums["z"] / n + first[0])
    left = max(0.0, float(spread_w - scale * shared))
    explained = float(n * (offset**2).sum())
    total = explained + left
    return scale, offset, explained / total if total > 1e-12 * max(float(spread_w), 1e-300) else float("nan")
