"""The one type that every method returns: a linear classifier over the features.

    z = x Wᵀ + b        weight W (C, D), bias b (C,) or None, features x (N, D), logits z (N, C)

Most methods rescale and shift the *joint* classifier class by class, z' = s∘z + t. Such a head remembers
(joint, s, t), so that evaluation reads the stored logits once more instead of multiplying the features again;
its ``weight`` and ``bias`` are still there, and are what export writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.output import replacing

Array = NDArray[Any]


class Head(Protocol):
    """What evaluation needs of a classifier; :class:`LinearHead` is the usual one."""

    @property
    def num_classes(self) -> int:
        """C."""

    def logits(self, features: Array) -> Array:
        """(n, D) features to (n, C) logits."""


class LinearHead:
    """A linear classifier, z = x Wᵀ + b.

    Args:
        weight: (C, D) floating point; kept as float32.
        bias: (C,) or None.
        info: what is known of how the head was made (strings, numbers, lists); saved with it.

    Raises:
        DataError: shapes do not fit, or a value is not finite.

    >>> head = LinearHead(np.eye(3, 2), bias=np.array([0.0, 0.0, 0.5]))
    >>> head.logits(np.array([[2.0, 1.0]], dtype=np.float32))
    array([[2. , 1. , 0.5]], dtype=float32)
    """

    #: what a row of the input is: the backbone's "features", or "logits" where a file stores nothing else
    input: str = "features"

    def __init__(self, weight: Array, bias: Array | None = None, *, info: Mapping[str, Any] | None = None):
        if weight.ndim != 2:
            raise DataError(f"head weight must have shape (C, D), but has {weight.shape}")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise DataError(f"head bias must have shape ({weight.shape[0]},) like the weight, but has {bias.shape}")
        self._weight: Array | None = np.asarray(weight, dtype=np.float32)
        self.bias: Array | None = None if bias is None else np.asarray(bias, dtype=np.float32)
        self.shape: tuple[int, int] = (weight.shape[0], weight.shape[1])
        self.info: dict[str, Any] = dict(info or {})
        self.joint: LinearHead | None = None
        self.scale: Array | None = None
        self.offset: Array | None = None

    @classmethod
    def identity(cls, num_classes: int) -> LinearHead:
        """The joint classifier of a file that stores logits only: z = z (D = C)."""
        head = cls.__new__(cls)
        head._weight, head.bias, head.shape, head.info = None, None, (num_classes, num_classes), {}
        head.joint = head.scale = head.offset = None
        head.input = "logits"
        return head

    def rescaled(
        self,
        scale: Array | None = None,
        offset: Array | None = None,
        *,
        info: Mapping[str, Any] | None = None,
    ) -> LinearHead:
        """The head whose logits are ``scale * z + offset`` for the logits z of this one.

        Args:
            scale: (C,), or None for ones. It multiplies the bias too.
            offset: (C,), or None for zeros.
            info: see :class:`LinearHead`.
        """
        head = LinearHead.identity(self.num_classes)
        head.shape, head.input, head.info, head.joint = self.shape, self.input, dict(info or {}), self
        bias = np.zeros(self.num_classes) if self.bias is None else self.bias.astype(np.float64)
        if scale is not None:
            head.scale = np.asarray(scale, dtype=np.float32)
            bias *= scale
        if offset is not None:
            head.offset = np.asarray(offset, dtype=np.float32)
            bias += offset
        head.bias = bias.astype(np.float32) if np.any(bias) else None
        return head

    @property
    def weight(self) -> Array:
        """(C, D) float32; of a rescaled head it is computed when first asked for."""
        if self._weight is None:
            if self.joint is None:
                self._weight = np.eye(self.num_classes, dtype=np.float32)
            else:
                self._weight = self.joint.weight if self.scale is None else self.joint.weight * self.scale[:, None]
        return self._weight

    @property
    def num_classes(self) -> int:
        """C."""
        return self.shape[0]

    @property
    def num_features(self) -> int:
        """D."""
        return self.shape[1]

    def norms(self) -> Array:
        """‖w_c‖₂ of every class, (C,) float64."""
        weight = self.weight
        squares: Array = np.einsum("cd,cd->c", weight, weight, dtype=np.float64)
        return np.sqrt(squares)

    def logits(self, features: Array) -> Array:
        """(n, D) features to (n, C) float32 logits."""
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise DataError(
                f"features must have shape (N, {self.num_features}) for this head, but have {features.shape}"
            )
        scores: Array = np.asarray(features, dtype=np.float32) @ self.weight.T
        if self.bias is not None:
            scores += self.bias
        return scores

    def same_as(self, other: LinearHead) -> bool:
        """Whether both are the same classifier, bit for bit."""
        if self is other:
            return True
        if self.shape != other.shape or self.input != other.input:
            return False
        if self.input == "logits" and self.joint is None and other.joint is None:
            return True
        if (self.bias is None) != (other.bias is None) or not np.array_equal(self.weight, other.weight):
            return False
        return self.bias is None or other.bias is None or np.array_equal(self.bias, other.bias)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write ``weight``, ``bias`` and ``info`` to a safetensors file, in one step (never half-written)."""
        from safetensors.numpy import save_file

        tensors = {"weight": np.ascontiguousarray(self.weight)}
        if self.bias is not None:
            tensors["bias"] = np.ascontiguousarray(self.bias)
        metadata = {"format": "ltpost-head", "input": self.input, "info": json.dumps(self.info)}
        with replacing(path) as partial:
            save_file(tensors, partial, metadata=metadata)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LinearHead:
        """Read what :meth:`save` wrote; any safetensors file with ``weight`` (C, D) and optionally ``bias`` will do."""
        from safetensors import SafetensorError, safe_open

        source = Path(path)
        if not source.is_file():
            raise DataError(
                f"{source}: no such head file; ltpost tnorm, ncm, lws, crt and la write heads/<method>.safetensors"
            )
        try:
            with safe_open(source, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                metadata = file.metadata() or {}
        except SafetensorError as error:
            raise DataError(f"{source}: not a readable safetensors file ({error})") from None
        if "weight" not in tensors:
            raise DataError(f"{source}: must hold a tensor 'weight' (C, D), but holds {sorted(tensors) or 'nothing'}")
        try:
            head = cls(tensors["weight"], tensors.get("bias"), info=json.loads(metadata.get("info", "{}")))
        except DataError as error:
            raise DataError(f"{source}: {error}") from None
        for name, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                raise DataError(f"{source}: tensor '{name}' must be finite, but holds NaN or infinity")
        head.input = metadata.get("input", "features")
        return head

    def __repr__(self) -> str:
        bias = "no bias" if self.bias is None else "bias"
        signature = self.info.get("signature")
        return f"LinearHead(C={self.shape[0]}, D={self.shape[1]}, {bias}{f', {signature}' if signature else ''})"
