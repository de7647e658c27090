"""A head that rescales and shifts another one, class by class: z'_c = s_c z_c + t_c.

Most methods end in one. It reads the logits of its base once more instead of multiplying the features again; where its
base is a linear layer, so is it, and that layer is what export writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ltpost.errors import DataError
from ltpost.heads.joint import JointHead
from ltpost.heads.linear import LinearHead
from ltpost.heads.protocol import Array, Head, HeadRows, Key, Reader, Spec
from ltpost.heads.saving import Saved

if TYPE_CHECKING:
    from collections.abc import Mapping


_COMFORTABLE = 1e20  # float32 holds this and its reciprocal, and both times 1e17


class RescaledHead(Saved):
    """z' = scale * z + offset, for the logits z of another head.

    Where float32 would not hold the scaled weights, all of z' are multiplied by one power of two: no decision changes.

    Args:
        base: the other head. If it is rescaled itself, both steps become one.
        scale: (C,), or None for ones. It multiplies the bias of the base too.
        offset: (C,), or None for zeros.
        info: see :class:`LinearHead`.

    Raises:
        DataError: a scale or offset that does not have C entries.

    >>> joint = LinearHead(np.array([[3.0, 4.0], [0.0, 2.0]]))
    >>> RescaledHead(joint, scale=np.array([0.2, 0.5])).weight
    array([[0.6, 0.8],
           [0. , 1. ]], dtype=float32)
    """

    def __init__(
        self,
        base: Head,
        scale: Array | None = None,
        offset: Array | None = None,
        *,
        info: Mapping[str, Any] | None = None,
    ):
        for name, values in (("scale", scale), ("offset", offset)):
            if values is not None and np.shape(values) != (base.num_classes,):
                raise DataError(
                    f"the {name} of a rescaled head must have shape (C,) = ({base.num_classes},) like the head, "
                    f"but has {np.shape(values)}"
                )
        if isinstance(base, RescaledHead):
            outer = 1.0 if scale is None else scale
            if base.offset is not None:
                offset = base.offset * outer + (0.0 if offset is None else offset)
            if base.scale is not None:
                scale = base.scale * outer
            base = base.base
        self.base: Head = base
        self.scale: Array | None = None if scale is None else np.asarray(scale, dtype=np.float64)
        self.offset: Array | None = None if offset is None else np.asarray(offset, dtype=np.float64)
        if self.scale is not None:
            factor = _common_factor(base, self.scale, self.offset)
            self.scale = self.scale * factor
            self.offset = None if self.offset is None else self.offset * factor
        self.info: dict[str, Any] = dict(info or {})
        self._linear: LinearHead | None = None

    @property
    def num_classes(self) -> int:
        """C."""
        return self.base.num_classes

    def is_stored(self, rows: HeadRows) -> bool:
        """Whether the logits of its base are stored."""
        return self.base.is_stored(rows)

    def reader(self, rows: HeadRows) -> Reader:
        """The logits of the base, rescaled; a linear layer is multiplied where those are not stored."""
        layer = None if self.is_stored(rows) else self.linear()
        if layer is not None:
            return layer.reader(rows)
        read = self.base.reader(rows)
        scale, before, offset = self._steps()

        def rescale(key: Key, out: Array | None = None) -> Array:
            scores = read(key, out).astype(np.float32, copy=False)
            if before is not None:
                scores = out = np.add(scores, before, out=out)
            if scale is not None:
                scores = out = np.multiply(scores, scale, out=out)
            if offset is not None:
                scores = np.add(scores, offset, out=out)
            return scores

        return rescale

    def _steps(self) -> tuple[Array | None, Array | None, Array | None]:
        """Scale, what to add before it, and what to add after it, float32.

        The offset comes first where it can: the logits of a row without features, minus a dropped bias, are then 0.
        """
        scale, before, offset = self.scale, None, self.offset
        if scale is not None and offset is not None and scale.all():
            with np.errstate(over="ignore"):
                shift = offset / scale
            if np.abs(shift).max() < _COMFORTABLE:
                before, offset = shift, None
        one, two, three = (None if x is None else x.astype(np.float32) for x in (scale, before, offset))
        return one, two, three

    def linear(self) -> LinearHead | None:
        """The same as one linear layer, where the base is one."""
        if self._linear is None:
            base = self.base.linear()
            if base is not None:
                bias = np.zeros(self.num_classes) if base.bias is None else base.bias.astype(np.float64)
                scaled = bias if self.scale is None else bias * self.scale
                shifted = scaled if self.offset is None else scaled + self.offset
                weight = base.weight if self.scale is None else base.weight * self.scale.astype(np.float32)[:, None]
                self._linear = LinearHead(weight, shifted if np.any(shifted) else None)
        if self._linear is not None:
            self._linear.info = self.info
        return self._linear

    @property
    def _layer(self) -> LinearHead:
        layer = self.linear()
        if layer is None:
            raise DataError(
                "this head rescales stored logits and has no weight (C, D); extract features and the classifier too"
            )
        return layer

    @property
    def weight(self) -> Array:
        """(C, D) float32 of the linear layer.

        Raises:
            DataError: there is none, as the head reads stored logits.
        """
        return self._layer.weight

    @property
    def bias(self) -> Array | None:
        """(C,) float32 of the linear layer, or None."""
        return self._layer.bias

    def norms(self) -> Array:
        """‖w_c‖₂ of every class, (C,) float64."""
        return self._layer.norms()

    def logits(self, features: Array) -> Array:
        """(n, D) features to (n, C) float32 logits."""
        return self._layer.logits(features)

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """Scale and offset, and for other programs the linear layer, or the tensors of another base."""
        spec, tensors = self.base.state()
        layer = self.linear()
        if layer is not None:
            fingerprint = self.base.fingerprint if isinstance(self.base, (LinearHead, JointHead)) else None
            spec, tensors = {"kind": "joint", "num_classes": self.num_classes, "fingerprint": fingerprint}, {}
            tensors.update(layer.state()[1])
        for name, values in (("scale", self.scale), ("offset", self.offset)):
            if values is not None:
                tensors[name] = values.astype(np.float32)
        return {"kind": "rescaled", "base": spec}, tensors

    def __repr__(self) -> str:
        signature = self.info.get("signature")
        return f"RescaledHead({self.base!r}{f', {signature}' if signature else ''})"


def _common_factor(base: Head, scale: Array, offset: Array | None) -> float:
    """A power of two that brings scale, and the weights that it scales, into the comfortable range of float32."""
    layer = base.linear()
    sizes = 1.0 if layer is None else np.abs(layer.weight).max(axis=1, initial=0.0).astype(np.float64)
    largest, weight = float(np.abs(scale).max(initial=0.0)), float((np.abs(scale) * sizes).max(initial=0.0))
    if not all(0 < x < np.inf for x in (largest, weight)):
        return 1.0
    if all(1 / _COMFORTABLE < x < _COMFORTABLE for x in (largest, weight)):
        return 1.0
    power = (np.log2(largest) + np.log2(weight)) / 2
    if offset is not None and offset.any():  # not out of the range on the way
        power = max(power, np.log2(np.abs(offset).max()) - np.log2(_COMFORTABLE))
    return float(2.0 ** -round(power))
