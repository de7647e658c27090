"""Taylor importance of the weights of the classifier for each group: E = (w g)², g the derivative of its loss.

Decoupled Optimisation (Cong et al., AAAI 2024) ranks parameters so, for the whole network; on W it is exact. The loss
of a group is the mean over its classes of the mean cross-entropy of their rows. Costs one pass over features and scores
with N C D products, and memory for one C x D matrix per group.
"""

from __future__ import annotations

import numpy as np

from ltpost.diagnostics import pictures
from ltpost.diagnostics.finding import Finding
from ltpost.diagnostics.subject import Subject, softmax
from ltpost.heads import Array

_TOP = 0.1


def importance(subject: Subject) -> Finding:
    """For the loss of each group: total E, its share on the weights of each group, and on the top tenth of weights."""
    weight = subject.linear.weight.astype(np.float64)
    members = {name: classes for name, classes in subject.members().items() if name != "all"}
    gradient = gradients(subject)
    for matrix in gradient.values():
        matrix *= weight
        matrix *= matrix
    totals = {name: float(matrix.sum()) for name, matrix in gradient.items()}
    share = np.array([[_part(matrix[classes].sum(), totals[name]) for classes in members.values()]
                      for name, matrix in gradient.items()])  # fmt: skip
    top = {}
    for name, matrix in gradient.items():
        keep = max(1, round(_TOP * matrix.size))
        top[name] = _part(np.partition(matrix.ravel(), -keep)[-keep:].sum(), totals[name])
    names = list(members)
    rows = [[name, totals[name], *share[k].tolist(), top[name]] for k, name in enumerate(names)]
    return Finding(
        "importance",
        "Taylor importance (w g)² of the weights for the loss of a group, and where it lies",
        ["loss of", "total", *(f"in {name}" for name in names), "in the top 10 %"],
        rows,
        {
            name: {"total": totals[name], **dict(zip(names, share[k].tolist(), strict=True)), "top10": top[name]}
            for k, name in enumerate(names)
        },
        lambda ax: pictures.group_matrix(names, names, share, ("loss of", "importance in weights of"), ax),
        {f"for_{name}": matrix.sum(axis=1) for name, matrix in gradient.items()},
    )


def gradients(subject: Subject) -> dict[str, Array]:
    """Derivative by W of the loss of every group, (C, D) float64 each."""
    layer = subject.linear
    members = {name: classes for name, classes in subject.members().items() if name != "all"}
    sums = {name: np.zeros(layer.weight.shape) for name in members}
    for part, block in subject.rows.feature_blocks():
        labels = subject.labels[part]
        residual = softmax(layer.logits(block).astype(np.float64))
        residual[np.arange(len(labels)), labels] -= 1
        features = block.astype(np.float64)
        for name, classes in members.items():
            inside = np.flatnonzero(classes[labels])
            each = 1 / (subject.totals[labels[inside]] * classes.sum())
            sums[name] += (residual[inside] * each[:, None]).T @ features[inside]
    return sums


def _part(some: float, total: float) -> float:
    return float(some / total) if total > 0 else float("nan")
