"""The methods, one file each. A method returns a head; with one hyperparameter it is a family of heads.

A new method is one file with a public function that returns a :class:`~ltpost.head.LinearHead`, a ``family(…)``, and
one line in ``ltpost.pipeline.METHODS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltpost.features import FeatureSet
    from ltpost.head import Head
    from ltpost.priors import ShotGroups
    from ltpost.sweep import Curve


#: values of tau that the field looks at
TAU_GRID = tuple(round(0.1 * k, 10) for k in range(21))


@dataclass(frozen=True)
class Family:
    """Heads along one hyperparameter: what ``model_selection`` chooses from.

    Attributes:
        method: its key ("tnorm", "la", …).
        parameter: name of the hyperparameter, or None for a method that has none.
        curve: accuracy on a split against the hyperparameter.
        head: the head at one value of it.
        grid: values of it to show; the choice is made between the least and the greatest. None: those of the curve.
        params: everything else that was set.
        notes: sentences that belong beside the numbers.
    """

    method: str
    parameter: str | None
    curve: Callable[[FeatureSet, ShotGroups | None], Curve]
    head: Callable[[float], Head]
    grid: tuple[float, ...] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
