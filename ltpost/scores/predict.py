"""Predicted classes of a head on the rows of a feature set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ltpost.data.features import FeatureSet
from ltpost.heads import Head
from ltpost.heads.blocks import score_blocks


def predict(head: Head, feature_set: FeatureSet, device: str = "cpu") -> NDArray[np.int64]:
    """The class of the highest logit of every row, (N,); of equal ones, that with the lowest number.

    Args:
        head: any head.
        feature_set: N rows.
        device: where to compute; anything but "cpu" imports torch.
    """
    if device != "cpu":
        from ltpost.scores import on_device

        return on_device.predict(head, feature_set, device)
    predicted = np.empty(len(feature_set), dtype=np.int64)
    for part, scores in score_blocks(head, feature_set):
        predicted[part] = scores.argmax(axis=1)
    return predicted
