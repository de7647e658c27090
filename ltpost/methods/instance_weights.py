"""DO's instance-level test-time learning (Cong et al., "Decoupled Optimisation …", AAAI 2024, Equation 5).

    y_k = Σ_e λ_e z_e(view k),    λ_i = argmax over the simplex of sim(y_1, y_2)    for every row i apart

Each row gets weights of its own, those with which the predictions on two augmented views of it agree most; the row's
plain view is then classified with them. What it does not do: look at other rows, or train the experts. No code of the
paper was found, and its text leaves open what is compared: hence two named switches.

Cost: one pass over the logits of all experts on both views, 2 E C D products a row. On logits three E x E Gram
matrices a row follow from them, and each of about 150 evaluations (E = 3) costs E² whatever C is; on softmax each costs
2 E C, plus an exponential per class and view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ltpost.data.unlabelled import UnlabelledRows
from ltpost.family import Family
from ltpost.heads import ExpertHead, InstanceWeightedHead
from ltpost.method import Method


def instance_weights(
    experts: Sequence[ExpertHead],
    views: UnlabelledRows,
    *,
    space: Literal["softmax", "logits"] = "softmax",
    similarity: Literal["cosine", "dot"] = "cosine",
) -> Family:
    """Weighs the experts for every image apart, so that two augmented views of it agree most.

    Args:
        experts: E heads.
        views: the rows to classify, with two augmented views of each.
        space: what is compared between views, softmax or logits. Softmax as in SADE, whose objective this is for one
            image; on logits the length of a view's logits has no say (cosine) or all of it (dot).
        similarity: cosine or dot. The dot product of logits rewards the expert with the longest logits, that of
            softmax the most confident one.

    Returns:
        One head, which finds the weights of the rows that it is used on.

    Raises:
        DataError: rows without two views.

    NOTE[DIFF]: the paper's Equation 5 writes the product of both predictions and its text says cosine; logits or
    softmax, parametrisation, optimiser and steps are not stated. The default is SADE's objective, one image at a time,
    at its maximum on the simplex (a search down to steps of 1/1024) instead of after some steps of SGD.
    """
    head = InstanceWeightedHead(experts, space, similarity)
    views.two_views()
    return Family.single(head)


METHOD = Method(
    "do",
    instance_weights,
    title="instance-level weights of the experts",
    equation="Σ_e λ_ie z_ec",
    source="Cong et al., AAAI 2024",
    how="search on the simplex",
    example="ltpost do --space logits",
)
