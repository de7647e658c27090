"""``ltpost.best``: a ladder of heads from cheap to rich, climbed on val alone.

``candidates`` are heads with what they do on rows that they were not chosen on, ``rungs`` says what is tried in which
order, ``climb`` decides by the figures, ``ladder`` runs it all and reports on test at the end.
"""

from ltpost.ladder.ladder import best
from ltpost.ladder.outcome import Ladder

__all__ = ["Ladder", "best"]
