"""PC-softmax: post-compensated softmax (Hong et al., CVPR 2021, arXiv:2012.00321, Section 3.2).

Paper: "Disentangling Label Distribution for Long-tailed Visual Recognition".

    argmax_c  z_c - log π_c + log π'_c                                                       (Equation 4)

π is the class prior of the training set, π' that of the rows to classify. With a uniform π' this is logit adjustment
with τ = 1. What it does not do: choose anything, or find out π' (see ``em``).
"""

from __future__ import annotations

from ltpost.data.priors import log_prior, log_target_prior
from ltpost.family import Family
from ltpost.heads import Array, Head, RescaledHead
from ltpost.method import Method


def pc_softmax(joint: Head, class_counts: Array, *, target_prior: str = "uniform") -> Family:
    """Replaces the class prior of the training set by another one.

    Args:
        joint: the joint classifier, or one that reads its logits.
        class_counts: (C,) training samples per class, all positive.
        target_prior: class prior of the rows to classify: uniform, train, forward-50 or backward-50 (long-tailed, with
            any factor), numbers such as 0.9,0.1, or a file of C numbers.

    Returns:
        One head.

    Raises:
        DataError: a class without training samples, or a file that does not hold C positive numbers.
        UsageError: a target prior that is none of these.

    NOTE[DIFF]: the reference code adds 1e-9 to the prior, which lets a class without samples pass.

    >>> from ltpost import LinearHead
    >>> import numpy as np
    >>> pc_softmax(LinearHead(np.eye(2)), np.array([3, 1]), target_prior="1,3").head().bias.round(3)
    array([-1.099,  1.099], dtype=float32)
    """
    return Family.single(
        RescaledHead(joint, offset=log_target_prior(target_prior, class_counts) - log_prior(class_counts))
    )


METHOD = Method(
    "pc-softmax",
    pc_softmax,
    title="post-compensated softmax",
    label="PC-softmax",
    equation="z_c - log π_c + log π'_c",
    source="Hong et al., CVPR 2021",
    how="one offset",
    example="ltpost pc-softmax --target-prior backward-50",
)
