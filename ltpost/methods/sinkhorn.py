"""A shift per class after which the mean prediction on the rows to classify is their known class prior.

    argmax_c  z_c + b_c        mean_i softmax(z_i + b) = q

The rows are looked at without labels (transductive), and their class prior q must be known: test splits of the usual
benchmarks have as many rows of every class. Where q is not known, ``em`` estimates it. Sinkhorn and Knopp (Pacific J.
Math. 21, 1967); for the predictions of a classifier: Asano et al., ICLR 2020, arXiv:1911.05371, Section 3.2.
NOTE[DIFF]: there it makes labels for training, with a sharpened softmax; here it corrects the softmax as it is.
"""

from __future__ import annotations

from ltpost.data.priors import log_prior, log_target_prior
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.errors import DataError
from ltpost.family import Family
from ltpost.heads import Array, Head, RescaledHead, load_head
from ltpost.method import Method
from ltpost.methods.label_shift import not_empty
from ltpost.scores.sinkhorn import shift_to_prior


def sinkhorn(
    target: UnlabelledRows,
    joint: Head,
    class_counts: Array,
    *,
    base: str = "joint",
    target_prior: str = "uniform",
) -> Family:
    """Shifts a classifier until its mean prediction on the rows to classify is their known class prior.

    Args:
        target: the rows to classify, without labels.
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class, all positive.
        base: the classifier that is shifted: joint, or a head file that ltpost saved.
        target_prior: class prior of the rows to classify: uniform, train, forward-50 or backward-50 (long-tailed, with
            any factor), numbers such as 0.9,0.1, or a file of C numbers.

    Returns:
        One head. Some 20 to 100 passes over the rows.

    Raises:
        DataError: a class without training samples, no rows, or a head file of other classes.
        UsageError: a target prior that is none of these.
    """
    head = joint if base == "joint" else load_head(base)
    if head.num_classes != joint.num_classes:
        raise DataError(f"{base}: has {head.num_classes} classes, but the joint classifier {joint.num_classes}")
    log_q = log_target_prior(target_prior, class_counts)
    return shifted_to(not_empty(target), head, log_q, log_q - log_prior(class_counts) if base == "joint" else None)


def shifted_to(target: UnlabelledRows, head: Head, log_q: Array, start: Array | None = None) -> Family:
    """One head: ``head`` with the shift that gives its mean prediction on ``target`` the prior q, (C,)."""
    shift, passes, converged = shift_to_prior(target, head, log_q, start)
    notes = () if converged else (f"the shift was stopped after {passes} passes, before the prior was reached",)
    return Family.single(RescaledHead(head, offset=shift), notes=notes)


METHOD = Method(
    "sinkhorn",
    sinkhorn,
    title="shift to a known class prior",
    equation="z_c + b_c",
    source="Asano et al., ICLR 2020",
    label="Sinkhorn",
    how="20 to 100 passes",
    example="ltpost sinkhorn --target-prior uniform",
)
