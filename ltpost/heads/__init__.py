"""Heads: classifiers over cached rows. Every method returns one; evaluation, reports and export know nothing else.

``protocol`` says what a head can do. ``linear`` is the usual head, ``rescaled`` what most methods make of it, ``joint``
the joint classifier where only its logits are known, ``normalized`` a nearest mean that is not linear, ``gated``
one whose adjustment depends on the row.
"""

from ltpost.heads.gated import GatedHead
from ltpost.heads.joint import JointHead
from ltpost.heads.linear import LinearHead
from ltpost.heads.loading import load_head
from ltpost.heads.normalized import NormalizedMeanHead
from ltpost.heads.protocol import Array, Head, HeadRows, Key, Reader
from ltpost.heads.rescaled import RescaledHead

__all__ = [
    "Array",
    "GatedHead",
    "Head",
    "HeadRows",
    "JointHead",
    "Key",
    "LinearHead",
    "NormalizedMeanHead",
    "Reader",
    "RescaledHead",
    "load_head",
]
