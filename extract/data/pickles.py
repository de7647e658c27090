"""Pickles of arrays and plain containers, read by an unpickler that runs nothing."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from ltpost.errors import DataError


class _NothingButArrays(pickle.Unpickler):
    """Rebuilds numpy arrays and plain containers; refuses every other name."""

    allowed = frozenset(
        (module, name)
        for names, modules in (
            (("_reconstruct", "scalar"), ("numpy.core.multiarray", "numpy._core.multiarray")),
            (("ndarray", "dtype"), ("numpy",)),
            (("encode",), ("_codecs",)),
        )
        for module in modules
        for name in names
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"refers to {module}.{name}, and ltpost never runs pickled code")
        return super().find_class(module, name)


def unpickle_arrays(file: Path) -> Any:
    """The content of a pickle of arrays and plain containers; text of Python 2 comes as bytes.

    Raises:
        DataError: it holds anything else, or is damaged.
    """
    try:
        with file.open("rb") as stream:
            return _NothingButArrays(stream, encoding="bytes").load()
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        pickle.UnpicklingError,
    ) as e:
        raise DataError(f"{file}: cannot be read as a pickle of arrays ({e})") from None
