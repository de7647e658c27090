"""Maximum likelihood label shift, MLLS or EM (Saerens, Latinne, Decaestecker, Neural Computation 14, 2002).

    q maximises Σ_i log Σ_c q_c p_c(x_i) / π_c,   argmax_c  z_c - log π_c + log q_c

p is the softmax of the joint classifier, π the class prior of its training set, q that of the rows to classify, which
are looked at without labels (transductive). Cost: some 30 passes over these rows, one product each where logits are not
stored. What it does not do: correct a softmax that is too sure, which is then taken at its word (see ``em-bcts``).
"""

from __future__ import annotations

import numpy as np

from ltpost.data.priors import GROUPS, log_prior, shot_groups
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.errors import DataError
from ltpost.family import Family
from ltpost.heads import Array, Head, RescaledHead
from ltpost.method import Method
from ltpost.scores.label_shift import maximum_likelihood


def label_shift(target: UnlabelledRows, joint: Head, class_counts: Array) -> Family:
    """Finds the class prior of the rows to classify by maximum likelihood, and adjusts to it.

    Args:
        target: the rows to classify, without labels.
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class, all positive.

    Returns:
        One head.

    Raises:
        DataError: a class without training samples, or no rows.

    NOTE[DIFF]: packages stop when the mean absolute change falls below 1e-4, or add 1e-4 to every prior; with hundreds
    of classes both are larger than the priors themselves. Here priors are logarithms, and changes are summed.
    """
    log_pi = log_prior(class_counts)
    log_q, passes, converged = maximum_likelihood(target, joint, log_pi, uniform_share=one_row(target))
    return shifted(joint, log_q - log_pi, log_q, class_counts, *stopped(passes, converged))


def one_row(target: UnlabelledRows) -> float:
    """The share of one more row that is of all classes alike, so that no class vanishes.

    NOTE[DIFF]: at the maximum of the likelihood itself the share of a class may be 0, and no row is ever put in it.
    """
    return 1 / (len(not_empty(target)) + 1)


def not_empty(target: UnlabelledRows) -> UnlabelledRows:
    """The rows, unless there are none."""
    if len(target) == 0:
        raise DataError(f"{target.name}: has no rows, so their class prior cannot be estimated")
    return target


def stopped(passes: int, converged: bool) -> tuple[str, ...]:
    """A note where EM gave up."""
    return () if converged else (f"EM stopped after {passes} passes, before it reached its tolerance",)


def shifted(head: Head, offset: Array, log_q: Array, class_counts: Array, *notes: str) -> Family:
    """One head with an offset, and a note of the class prior that was found, by group."""
    groups, prior = shot_groups(class_counts), np.exp(log_q - log_q.max())
    prior = prior / prior.sum()
    shares = {name: float(prior[getattr(groups, name)].sum()) for name in GROUPS if getattr(groups, name).any()}
    listed = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
    return Family.single(RescaledHead(head, offset=offset), notes=(f"class prior found: {listed}", *notes))


METHOD = Method(
    "em",
    label_shift,
    title="maximum likelihood label shift",
    label="EM",
    equation="z_c - log π_c + log q_c",
    source="Saerens et al., Neural Computation 2002",
    how="EM, about 30 passes",
    example="ltpost em",
)
