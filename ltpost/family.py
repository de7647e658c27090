"""How heads depend on a chosen value: what every method returns.

    affine      z_c - t · slope_c              logit adjustment, target priors, …
    scaled      z_c · exp(-t · slope_c)        tau-normalization, multiplicative adjustment, …
    tabulated   a head for each of some values
    single      one head, nothing to choose
    mixed       (1 - t) z_c + t z'_c           of two heads
    crossed     one of these for each value of a second parameter

Curve and head come from the same slope, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from ltpost.data.features import FeatureSet
from ltpost.data.priors import ShotGroups
from ltpost.errors import UsageError
from ltpost.heads import Array, Head, LinearHead, MixedHead, RescaledHead
from ltpost.heads.blocks import score_blocks
from ltpost.scores.crossed import CrossedCurve
from ltpost.scores.curve import Best, Curve
from ltpost.scores.sweep import affine_curve, mixing_curve, scaled_curve
from ltpost.scores.tabulated import GridCurve

_LARGEST_EXPONENT = 300.0
_SHARED_LOGITS = 2**27  # 512 MiB

#: a split, its groups, the values of the grid and the device, to the curve on that split
CurveOn = Callable[[FeatureSet, "ShotGroups | None", Sequence[float], str], Curve]


@dataclass(frozen=True)
class Family:
    """Heads along one hyperparameter, or one head. Use the class methods to make one.

    Attributes:
        head_at: the head at a value of the hyperparameter.
        curve_on: accuracy on a split against the hyperparameter; None where there is nothing to choose.
        parameter: name of the hyperparameter, or None.
        params: how the heads were made, beyond the options of the method: what was found out or filled in.
        notes: sentences that belong beside the numbers.
        family_at: of a crossed family, the family at a value of the outer parameter.
        outer: name of the outer parameter, or None.
        base: the head whose logits all heads rescale and shift, or None.
        only: of a tabulated family with one value, that value.
    """

    head_at: Callable[[float], Head]
    curve_on: CurveOn | None = None
    parameter: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    family_at: Callable[[float], Family] | None = None
    outer: str | None = None
    base: Head | None = None
    only: float | None = None

    def __repr__(self) -> str:
        outer = f"{self.outer}, " if self.outer else ""
        return f"Family(a head for every {outer}{self.parameter})" if self.parameter else "Family(one head)"

    def head(self, value: float | None = None) -> Head:
        """The head at a value of the hyperparameter; the value is left out where there is nothing to choose.

        Raises:
            UsageError: a value that the family does not have, or none where one is needed.
        """
        if self.parameter is None:
            if value is not None:
                raise UsageError(f"this method has one head and nothing to choose, but the value {value:g} was given")
            return self.head_at(0.0)
        if value is None:
            raise UsageError(
                f"name a value of {self.parameter}; .curve(val).best().value is the one that is best on val"
            )
        try:
            return self.head_at(float(value))
        except KeyError:
            raise UsageError(f"there is no head at {self.parameter} {value:g}; see .curve(val).grid()") from None

    def head_of(self, best: Best | None) -> Head:
        """The head at what a curve found to be best; None where there is nothing to choose."""
        return self.head() if best is None else self.at(best.others).head(best.value)

    def at(self, others: Mapping[str, float]) -> Family:
        """The family along the inner parameter, at values of the outer ones (``Best.others``)."""
        if self.family_at is None or self.outer is None:
            return self
        inner = self.family_at(others[self.outer]).at(others)
        return replace(inner, params={**self.params, **inner.params}, notes=(*self.notes, *inner.notes))

    def curve(
        self,
        split: FeatureSet,
        groups: ShotGroups | None = None,
        *,
        grid: Sequence[float] = (),
        device: str = "cpu",
    ) -> Curve:
        """Accuracy on a split against the hyperparameter.

        Args:
            split: labelled rows, usually the val split.
            groups: many/medium/few-shot classes; default from its ``class_counts``.
            grid: values of the hyperparameter, for the few families that are known at some values only.
            device: where to compute; anything but "cpu" imports torch.

        Raises:
            UsageError: there is nothing to choose.
        """
        if self.curve_on is None:
            raise UsageError("this method has one head and nothing to choose, so it has no curve")
        groups = split.shot_groups() if groups is None else groups
        return self.curve_on(split, groups, grid, device)

    @classmethod
    def affine(cls, head: Head, slope: Array, *, parameter: str = "tau", **more: Any) -> Family:
        """Heads with logits z_c - t · slope_c, with an exact curve.

        Args:
            head: its logits are z.
            slope: (C,).
            parameter: the name of t.
            **more: ``params`` and ``notes``.
        """
        _check_slope(head, slope)

        def curve(split: FeatureSet, groups: ShotGroups | None, grid: Sequence[float], device: str) -> Curve:
            return affine_curve(split, slope, groups, head=head, parameter=parameter, device=device)

        return cls(lambda t: RescaledHead(head, offset=-t * slope), curve, parameter, base=_base_of(head), **more)

    @classmethod
    def scaled(cls, head: Head, slope: Array, *, parameter: str = "tau", **more: Any) -> Family:
        """Heads with logits z_c · exp(-t · slope_c), with an exact curve; arguments as for :meth:`affine`."""
        _check_slope(head, slope)

        def curve(split: FeatureSet, groups: ShotGroups | None, grid: Sequence[float], device: str) -> Curve:
            return scaled_curve(split, slope, groups, head=head, parameter=parameter, device=device)

        return cls(
            lambda t: RescaledHead(head, scale=_powers(-t * slope)), curve, parameter, base=_base_of(head), **more
        )

    @classmethod
    def tabulated(
        cls, head_at: Callable[[float], Head], values: Sequence[float] = (), *, parameter: str = "tau", **more: Any
    ) -> Family:
        """A head for each of some values.

        Args:
            head_at: the head at a value; KeyError where there is none.
            values: in the order of preference where figures are equal; default those of the grid.
            parameter: the name of the value.
            **more: ``params`` and ``notes``.
        """

        def curve(split: FeatureSet, groups: ShotGroups | None, grid: Sequence[float], device: str) -> Curve:
            points = tuple(values) or tuple(grid)
            if not points:
                raise UsageError(f"name the values of {parameter} to try with grid=")
            return GridCurve.of_heads(parameter, points, map(head_at, points), split, groups, device)

        only = float(values[0]) if len(values) == 1 else None
        return cls(head_at, curve, parameter, only=only, **more)

    @classmethod
    def mixed(cls, head: Head, other_head: Head, *, parameter: str = "weight", **more: Any) -> Family:
        """Heads with logits (1 - t) z_c + t z'_c, with an exact curve.

        Args:
            head: its logits are z.
            other_head: its logits are z'; of the same rows.
            parameter: the name of t.
            **more: ``params`` and ``notes``.

        Where both are linear, so is every mixture. On ``device`` only the heads are computed, not the curve.
        """

        def curve(split: FeatureSet, groups: ShotGroups | None, grid: Sequence[float], device: str) -> Curve:
            return mixing_curve(split, head, other_head, groups, parameter=parameter)

        return cls(lambda t: MixedHead(head, other_head, t), curve, parameter, **more)

    @classmethod
    def crossed(
        cls, parameter: str, values: Sequence[float], family_at: Callable[[float], Family], **more: Any
    ) -> Family:
        """Heads along two parameters: for each value of an outer one, a family along the inner one.

        Both are chosen together. With an exact inner curve the choice is exact in the inner parameter, at the given
        values of the outer one. ``family_at`` may return a crossed family, too.

        Args:
            parameter: the name of the outer parameter.
            values: of the outer parameter, in the order of preference where figures are equal.
            family_at: the family at a value of it; called once for each. All must have the same inner parameter.
            **more: ``params`` and ``notes``, beside those of the inner families.

        Raises:
            UsageError: no values, or families without an inner parameter.
        """
        if not values:
            raise UsageError(f"name at least one value of {parameter}")
        family_at = cache(family_at)
        first = family_at(float(values[0]))
        if first.parameter is None:
            raise UsageError(f"there is no second parameter beside {parameter}; use tabulated")

        def curve(split: FeatureSet, groups: ShotGroups | None, grid: Sequence[float], device: str) -> Curve:
            inner = {float(value): family_at(float(value)) for value in values}
            if device == "cpu":
                split = _multiplied_once(split, [family.base for family in inner.values()])
            return CrossedCurve(
                parameter,
                {value: family.curve(split, groups, grid=grid, device=device) for value, family in inner.items()},
            )

        def head_at(value: float) -> Head:
            raise UsageError(f"a head has a {parameter} too: take family.head_of(curve.best()), or family.at(...)")

        return cls(head_at, curve, first.parameter, family_at=family_at, outer=parameter, **more)

    @classmethod
    def single(cls, head: Head, **more: Any) -> Family:
        """One head, nothing to choose; ``more`` are ``params`` and ``notes``."""
        return cls(lambda _: head, **more)


def _base_of(head: Head) -> Head:
    return head.base if isinstance(head, RescaledHead) else head


def _multiplied_once(split: FeatureSet, bases: Sequence[Head | None]) -> FeatureSet:
    """The rows with the logits of the linear layer that several families share, so that each only rescales them.

    Where the logits are stored, are more than ``_SHARED_LOGITS`` numbers, or belong to several layers, it is the split
    itself.
    """
    base, size = bases[0], len(split) * split.num_classes
    if not isinstance(base, LinearHead) or any(other is not base for other in bases) or base.is_stored(split):
        return split
    if len(bases) < 2 or size > _SHARED_LOGITS:
        return split
    logits = np.empty((len(split), split.num_classes), dtype=np.float32)
    for part, block in score_blocks(base, split):
        logits[part] = block
    return FeatureSet(
        labels=split.labels,
        logits=logits,
        head=base,
        class_counts=split.class_counts,
        sample=split.sample,
        name=split.name,
    )


def _powers(exponents: Array) -> Array:
    """Exponentials of (C,), times one factor where float64 would not hold them, which changes no decision."""
    peak = float(exponents.max())
    powers: Array = np.exp(exponents - (peak if abs(peak) > _LARGEST_EXPONENT else 0.0))
    return powers


def _check_slope(head: Head, slope: Array) -> None:
    if np.shape(slope) != (head.num_classes,):
        raise UsageError(
            f"the slope must have shape (C,) = ({head.num_classes},) like the head, but has {np.shape(slope)}"
        )
