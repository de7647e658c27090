"""What all heads have in common: writing to a safetensors file (``loading`` reads it), and answers to rows.

The file holds the tensors of the head, and one metadata entry: a JSON text with the spec of the head (its kind) and its
``info``. One entry, because safetensors writes several in an order that differs from run to run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError
from ltpost.heads.arrays import ArrayRows, probabilities
from ltpost.heads.blocks import score_blocks
from ltpost.heads.protocol import Array, HeadRows, Layer, Reader, Spec
from ltpost.output import replacing


def is_finite(values: Array) -> bool:
    """Whether all values are numbers within the range of float32, in which heads compute."""
    if values.dtype.itemsize <= 4:
        return bool(np.isfinite(values).all())
    return bool((np.abs(values) <= np.finfo(np.float32).max).all())


#: the name of the metadata entry
ENTRY = "ltpost-head"


class Saved:
    """Gives ``save``, ``predict`` and ``predict_proba`` to a head that has ``state``, ``reader`` and ``info``."""

    info: dict[str, Any]

    @property
    def num_classes(self) -> int:
        """C."""
        raise NotImplementedError

    def is_stored(self, rows: HeadRows) -> bool:
        """See :class:`~ltpost.heads.protocol.Head`."""
        raise NotImplementedError

    def reader(self, rows: HeadRows) -> Reader:
        """See :class:`~ltpost.heads.protocol.Head`."""
        raise NotImplementedError

    def linear(self) -> Layer | None:
        """See :class:`~ltpost.heads.protocol.Head`."""
        raise NotImplementedError

    def predict(self, features: Any = None, *, logits: Any = None) -> NDArray[np.int64]:
        """The class of the highest logit of every row, (N,).

        Args:
            features: (N, D), or a feature set.
            logits: (N, C) of the joint classifier, for heads that were made from logits alone.

        Raises:
            DataError: the rows do not hold what the head reads.
        """
        rows = self._rows(features, logits)
        return np.concatenate(
            [np.empty(0, np.int64), *(scores.argmax(axis=1) for _, scores in score_blocks(self, rows))]
        )

    def predict_proba(self, features: Any = None, *, logits: Any = None) -> NDArray[np.float64]:
        """The probability of every class, (N, C), calibrated where a temperature is saved with the head.

        Args:
            features: as of :meth:`predict`.
            logits: as of :meth:`predict`.

        Raises:
            DataError: the rows do not hold what the head reads.
        """
        rows = self._rows(features, logits)
        blocks = [probabilities(scores, self.info) for _, scores in score_blocks(self, rows)]
        return np.concatenate([np.empty((0, self.num_classes)), *blocks])

    def _rows(self, features: Any, logits: Any) -> Any:
        if hasattr(features, "read_features"):
            return features
        return ArrayRows(features, logits, num_classes=self.num_classes)

    def state(self) -> tuple[Spec, dict[str, Array]]:
        """See :class:`~ltpost.heads.protocol.Head`."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a head file, in one step (never half-written); :func:`ltpost.load_head` reads it.

        Raises:
            DataError: a value is NaN or infinite, or the file cannot be written.
        """
        from safetensors.numpy import save

        spec, tensors = self.state()
        for name, tensor in tensors.items():
            if not is_finite(tensor):
                raise DataError(
                    f"{path}: cannot be written, as '{name}' of the head holds NaN or infinity; "
                    "choose a smaller value of the hyperparameter"
                )
        contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        content = save(contiguous, metadata={ENTRY: json.dumps({"spec": spec, "info": self.info})})
        with replacing(path) as partial:
            partial.write_bytes(content)
        return Path(path)
