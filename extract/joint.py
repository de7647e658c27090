"""Several linear heads whose logits are averaged, as one linear head over their features side by side.

z = 1/E Σ_e (W_e x_e + b_e) equals W x + b for x = [x_1, …, x_E], with W = [W_1, …, W_E] / E and b the mean of b_e.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ltpost.heads import LinearHead


def joined(heads: Sequence[LinearHead]) -> LinearHead:
    """The mean of E heads as one head over the features of all, side by side.

    Args:
        heads: with equally many classes. A head without a bias counts as one with a bias of zero; the result has no
            bias where none of them has one.
    """
    weight = np.concatenate([head.weight for head in heads], axis=1) / len(heads)
    if all(head.bias is None for head in heads):
        return LinearHead(weight, None)
    biases = [np.zeros(head.num_classes, np.float32) if head.bias is None else head.bias for head in heads]
    return LinearHead(weight, np.mean(biases, axis=0))


def parted(head: LinearHead, widths: Sequence[int]) -> list[tuple[slice, LinearHead]]:
    """The inverse of :func:`joined`: heads whose mean is ``head``, each with the columns of its features.

    Args:
        head: over the features of all, side by side.
        widths: the number of columns of each; their sum is D.

    Returns:
        The columns and the head of each: its part of the weight times E, and the whole bias.
    """
    stops = np.cumsum(widths)
    columns = [slice(int(stop - width), int(stop)) for stop, width in zip(stops, widths, strict=True)]
    return [(part, LinearHead(head.weight[:, part] * len(widths), head.bias)) for part in columns]
