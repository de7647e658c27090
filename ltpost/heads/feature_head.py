"""What heads have in common that read features and are no linear layer."""

from __future__ import annotations

from ltpost.heads.linear import feature_reader
from ltpost.heads.protocol import Array, HeadRows, Reader
from ltpost.heads.saving import Saved


class FeatureHead(Saved):
    """A head that computes logits from features in a way of its own.

    A subclass has ``logits``, ``num_classes``, ``num_features``, ``state``, ``from_state`` and ``info``.
    """

    def logits(self, features: Array) -> Array:
        """(n, D) features to (n, C) float32."""
        raise NotImplementedError

    def is_stored(self, rows: HeadRows) -> bool:
        """Never: stored logits are those of another classifier."""
        return False

    def reader(self, rows: HeadRows) -> Reader:
        """See :class:`~ltpost.heads.protocol.Head`."""
        return feature_reader(self, rows)

    def linear(self) -> None:
        """None: the logits are no linear function of the features."""
        return
