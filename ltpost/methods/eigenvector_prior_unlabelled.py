"""Label-free eigenvector prior (Zhu et al., "Frolic", NeurIPS 2024): see ``eigenvector_prior``.

    repeat: ŷ = argmax z, rows with z_(1) - z_(2) > 1/C only;   P[j, k] = mean softmax(z)_j over ŷ = k;   q = P q;
            z <- z - log q

It looks at all rows that it classifies (transductive), at no label.
"""

from __future__ import annotations

import numpy as np

from ltpost.data.unlabelled import UnlabelledRows
from ltpost.errors import UsageError
from ltpost.family import Family
from ltpost.heads import Head, RescaledHead
from ltpost.method import Method
from ltpost.scores.posteriors import class_posteriors, confident_predictions, safe_log, stationary


def eigenvector_prior_unlabelled(target: UnlabelledRows, joint: Head, *, rounds: int = 11) -> Family:
    """Finds the model's prior from its own confident predictions on the rows to classify.

    Args:
        target: the rows to classify, without labels.
        joint: the joint classifier, or one that reads its logits.
        rounds: how often the prior is found anew and subtracted; two passes over the rows each.

    Returns:
        One head.

    Raises:
        UsageError: no round.
    """
    if rounds < 1:
        raise UsageError(f"rounds= must be at least 1, but is {rounds}")
    offset = np.zeros(joint.num_classes)
    for _ in range(rounds):
        head = RescaledHead(joint, offset=offset)
        labels = confident_predictions(target, head, 1 / joint.num_classes)
        offset = offset - safe_log(stationary(*class_posteriors(target, head, labels)))
        offset -= offset.mean()
    return Family.single(RescaledHead(joint, offset=offset))


METHOD = Method(
    "eigenprior-free",
    eigenvector_prior_unlabelled,
    title="eigenvector prior without labels",
    label="eigen-prior (unlabelled)",
    equation="z_c - Σ log q_c",
    source="Zhu et al., NeurIPS 2024",
    how="22 passes",
    example="ltpost eigenprior-free --rounds 11",
)
