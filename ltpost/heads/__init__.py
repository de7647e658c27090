"""Heads: classifiers over cached rows. Every method returns one; evaluation, reports and export know nothing else.

``protocol`` says what a head can do. ``linear`` is the usual head, ``rescaled`` what most methods make of it, ``joint``
the joint classifier where only its logits are known, ``normalized`` a nearest mean that is not linear, ``gated`` a head
whose adjustment depends on the row. ``aggregated`` and ``routed`` combine several experts, ``mixed`` is between two
heads, ``summed`` adds the log-probabilities of several. ``changed`` is a linear layer over changed rows or an earlier
layer of the network, ``prototypes`` and ``neighbours`` measure distances, ``pairwise`` and ``causal_norm`` belong to
one method each.
"""

from ltpost.heads.aggregated import AggregatedHead, ExpertHead, InstanceWeightedHead, JoinedHead
from ltpost.heads.causal_norm import CausalNormHead
from ltpost.heads.changed import ChangedHead
from ltpost.heads.gated import GatedHead
from ltpost.heads.joint import JointHead
from ltpost.heads.linear import LinearHead
from ltpost.heads.loading import load_head
from ltpost.heads.mixed import MixedHead
from ltpost.heads.neighbours import NeighbourHead
from ltpost.heads.normalized import NormalizedMeanHead
from ltpost.heads.pairwise import PairwiseHead
from ltpost.heads.protocol import Array, Head, HeadRows, Key, Reader, RowFigures
from ltpost.heads.prototypes import PrototypeHead
from ltpost.heads.rescaled import RescaledHead
from ltpost.heads.routed import RoutedHead
from ltpost.heads.summed import SummedHead, weighted_sum

__all__ = [
    "AggregatedHead",
    "Array",
    "CausalNormHead",
    "ChangedHead",
    "ExpertHead",
    "GatedHead",
    "Head",
    "HeadRows",
    "InstanceWeightedHead",
    "JoinedHead",
    "JointHead",
    "Key",
    "LinearHead",
    "MixedHead",
    "NeighbourHead",
    "NormalizedMeanHead",
    "PairwiseHead",
    "PrototypeHead",
    "Reader",
    "RescaledHead",
    "RoutedHead",
    "RowFigures",
    "SummedHead",
    "load_head",
    "weighted_sum",
]
