"""Heads: classifiers over cached rows. Every method returns one; evaluation, reports and export know nothing else.

``protocol`` says what a head can do. ``linear`` is the usual head, ``rescaled`` what most methods make of it, ``joint``
the joint classifier where only its logits are known, ``normalized`` a nearest mean that is not linear. ``changed`` is a
linear layer over changed rows or an earlier layer, ``summed`` adds the log-probabilities of several heads,
``prototypes`` and ``neighbours`` measure distances.
"""

from ltpost.heads.changed import ChangedHead
from ltpost.heads.joint import JointHead
from ltpost.heads.linear import LinearHead
from ltpost.heads.loading import load_head
from ltpost.heads.neighbours import NeighbourHead
from ltpost.heads.normalized import NormalizedMeanHead
from ltpost.heads.protocol import Array, Head, HeadRows, Key, Reader
from ltpost.heads.prototypes import PrototypeHead
from ltpost.heads.rescaled import RescaledHead
from ltpost.heads.summed import SummedHead

__all__ = [
    "Array",
    "ChangedHead",
    "Head",
    "HeadRows",
    "JointHead",
    "Key",
    "LinearHead",
    "NeighbourHead",
    "NormalizedMeanHead",
    "PrototypeHead",
    "Reader",
    "RescaledHead",
    "SummedHead",
    "load_head",
]
