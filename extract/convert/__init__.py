"""Cached features, logits or probabilities of other programs to feature files, and back.

``conversion`` is the entry; ``reading`` and ``tables`` read, ``probabilities`` takes logarithms, ``writing`` writes.
"""

from ltpost.extract.convert.conversion import convert

__all__ = ["convert"]
