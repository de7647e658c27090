"""AlphaNet (Chang, Koushik, Tarr, Hebert, Wang, "AlphaNet: Improved Long-Tail Classification …", 2022).

    w'_c = w_c + Σ_k α_ck w_{s(c, k)}        Σ_k |α_ck| = 1        few-shot classes c only

s(c, 1) … s(c, 5) are the many- and medium-shot classes whose weights are nearest to w_c. A small network, trained on
all rows of few-shot classes and a few others, gives α_c from the six weights. Reference code: jayanthkoushik/alphanet.
"""

from __future__ import annotations

import numpy as np

from ltpost.data import distributed
from ltpost.data.features import FeatureSet
from ltpost.data.priors import FEW_SHOT
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.fit.sampling import rows_per_class
from ltpost.heads import Array, LinearHead
from ltpost.method import Method


def alphanet(
    train: FeatureSet,
    head: LinearHead,
    class_counts: Array,
    *,
    ratio: float = 0.1,
    neighbours: int = 5,
    below: int = FEW_SHOT,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> Family:
    """Adds to the weights of few-shot classes a learned combination of those of near frequent classes.

    Args:
        train: training features (N, D) and labels; several views of a sample are several rows.
        head: the joint classifier, (C, D).
        class_counts: (C,) training samples per class.
        ratio: rows of other classes in an epoch, as a part of the rows of few-shot classes.
        neighbours: how many classes are combined; all where there are fewer.
        below: classes with fewer training samples are few-shot.
        seed: of the start and the batches.
        device: where to fit.
        progress: show a bar, on a terminal.

    Returns:
        One linear head, in which only few-shot classes differ from the joint one, and no bias.
        25 passes over the rows of few-shot classes.

    Raises:
        DataError: a class without a row.
        UsageError: an option that cannot be used; several processes.

    NOTE[DIFF]: rows of other classes are drawn with replacement.
    """
    if distributed.is_active():
        raise UsageError("alphanet needs all training rows in one process; start ltpost without torchrun")
    if not 0 <= ratio < np.inf or neighbours < 1:
        raise UsageError(f"ratio= must not be negative and neighbours= be positive, but are {ratio:g} and {neighbours}")
    rows_per_class(train)
    few, base = np.flatnonzero(class_counts < below), np.flatnonzero(class_counts >= below)
    if len(few) == 0 or len(base) < 2:  # one source has the coefficient 1 or -1: there is nothing to learn
        note = (
            f"{len(few)} classes have fewer than {below} training samples and {len(base)} have more: nothing to combine"
        )
        return Family.single(LinearHead(head.weight, head.bias), notes=(note,))
    from ltpost.fit.combined import learn_combination, nearest_sources

    sources = nearest_sources(head.weight, few, base, neighbours)
    combined = learn_combination(train, head, few, sources, ratio=ratio, seed=seed, device=device, progress=progress)
    return Family.single(combined, params={"seed": seed})


METHOD = Method(
    "alphanet",
    alphanet,
    title="AlphaNet",
    label="AlphaNet",
    equation="w_c + Σ_k α_ck w_k, few-shot c",
    source="Chang et al., 2022",
    how="AdamW recipe",
    example="ltpost alphanet --ratio 0.5",
)
