"""Writing a head to a safetensors file (``loading`` reads it).

The file holds the tensors of the head, and one metadata entry: a JSON text with the spec of the head (its kind) and its
``info``. One entry, because safetensors writes several in an order that differs from run to run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ltpost.errors import DataError
from ltpost.heads.protocol import Array, Spec
from ltpost.output import replacing


def is_finite(values: Array) -> bool:
    """Whether all values are numbers within the range of float32, in which heads compute."""
    if values.dtype.itemsize <= 4:
        return bool(np.isfinite(values).all())
    return bool((np.abs(values) <= np.finfo(np.float32).max).all())


#: the name of the metadata entry
ENTRY = "ltpost-head"


class Saved:
    """Gives ``save`` to a head that has ``state`` and ``info``."""

    info: dict[str, Any]

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
