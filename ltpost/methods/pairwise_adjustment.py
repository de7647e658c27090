"""1-vs-1 adjustment of boundaries under neural collapse (Hasegawa & Sato, "Multiplicative Logit Adjustment Approximates
Neural-Collapse-Aware Decision Boundary Adjustment", ICLR 2025, arXiv:2409.17582; code HN410/MLA-Approximates-NCDBA).

    argmax_c  share of c' with z_c κ(c, c') > z_c' κ(c', c)          (heads.pairwise has κ)
    a_c = n_c^τ, or n_c^τ ‖m_c‖ with the mean feature m_c of class c

The boundary between two classes moves towards the more frequent one; multiplicative logit adjustment is close to it at
a fraction of the cost. Cost: O(N C²) for every τ that is tried, without a C x C matrix: 3 s for 10,000 rows of 100
classes, hours at the size of iNaturalist 2018. What it does not do: use a bias in its derivation (stored logits have it).
"""

from __future__ import annotations

import numpy as np

from ltpost.data.class_sums import class_sums
from ltpost.data.features import FeatureSet
from ltpost.data.priors import log_prior
from ltpost.family import Family
from ltpost.fit.sampling import rows_per_class
from ltpost.heads import Array, Head, PairwiseHead
from ltpost.method import Method

GRID = (0.0, 0.25, 0.5, 0.75, 1.0)


def pairwise_adjustment(train: FeatureSet, joint: Head, class_counts: Array, *, feature_norms: bool = True) -> Family:
    """Lets every pair of classes vote, with the boundary between them moved towards the frequent one.

    Args:
        train: training features (N, D) and labels.
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class, all positive.
        feature_norms: multiply n_c^τ by the norm of the class's mean training feature, as the paper's code does.

    Returns:
        Heads along τ, usually 0..1, each known at the values of the grid only.

    Raises:
        DataError: a class without training samples.
    """
    log_pi = log_prior(class_counts)
    log_norms = np.zeros(len(log_pi))
    if feature_norms:
        means = class_sums(train) / rows_per_class(train)[:, None]
        log_norms = np.log(np.maximum(np.linalg.norm(means, axis=1), np.finfo(np.float32).tiny))

    def head_at(tau: float) -> PairwiseHead:
        spread = tau * log_pi + log_norms
        return PairwiseHead(joint, np.exp(spread - spread.max()))

    widest = head_at(max(GRID)).widest_angle()
    notes = ()
    if widest >= np.pi / 2 and head_at(0.0).widest_angle() < np.pi / 2:
        notes = (
            f"at tau {max(GRID):g} the angle between a weight and its boundary reaches {np.degrees(widest):.0f} degrees; "
            "the formula is made for angles below 90",
        )
    return Family.tabulated(head_at, notes=notes)


METHOD = Method(
    "pairwise",
    pairwise_adjustment,
    title="1-vs-1 boundary adjustment",
    equation="share of c' with z_c κ(c,c') > z_c' κ(c',c)",
    source="Hasegawa & Sato, ICLR 2025",
    chosen="τ",
    grid=GRID,
    how="grid, O(N C²) each",
    example="ltpost pairwise --tau-grid 0.5,0.7",
)
