"""Pickles of arrays and plain containers, read by an unpickler that runs nothing.

A pickle names functions of numpy, and calls them with values of its own. Here inert substitutes take their place, which
only keep these values. Each array is then built from checked parts: a plain numeric type, a shape, and exactly as many
bytes as both need. No state from a file reaches numpy. Checkpoints, which torch unpickles, use the same substitutes.
"""

from __future__ import annotations

import argparse
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltpost.extract.messages import reading

#: the types that an array may have: truth values, whole and floating-point numbers, and text of fixed width
_KINDS = "?bhilqpBHILQPefdiufbSU"


class _Name:
    """The substitute of a function. The pickle cannot change it, nor give it a state."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]):
        object.__setattr__(self, "_make", make)

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("gives a state to a function")


class _Type:
    """The substitute of a numpy.dtype: its code and byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any):
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(text, str):
            raise pickle.UnpicklingError("has an array of a type that is no text")
        object.__setattr__(self, "code", text)
        object.__setattr__(self, "order", "=")

    def __setstate__(self, state: Any) -> None:
        """Take the byte order out of (version, byte order, subarray, names, fields, size, alignment, flags)."""
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("has an array whose type is not a plain number")
        object.__setattr__(self, "order", order)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("gives a type a state of its own")

    def dtype(self) -> np.dtype[Any]:
        """The plain type."""
        letters = self.code.lstrip("<>=|")
        if not letters or letters[0] not in _KINDS or not (letters[1:].isdecimal() or len(letters) == 1):
            raise pickle.UnpicklingError(f"has an array of type {self.code!r}, which is not a plain number")
        return np.dtype(letters).newbyteorder("=" if self.order == "|" else self.order)


class _Array:
    """The substitute of a numpy.ndarray: its shape, type and bytes. The arguments of a call of it are not used."""

    __slots__ = ("parts",)

    def __init__(self, *_: Any):
        object.__setattr__(self, "parts", None)

    def __setstate__(self, state: Any) -> None:
        """Keep (version, shape, type, whether in Fortran order, bytes)."""
        _, shape, kind, fortran, content = state
        object.__setattr__(self, "parts", (shape, kind, "F" if fortran else "C", content))

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("gives an array a state of its own")

    def array(self) -> NDArray[Any]:
        """The array, from checked parts."""
        if self.parts is None:
            raise pickle.UnpicklingError("has an array without content")
        shape, kind, order, content = self.parts
        if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray) or order not in ("C", "F"):
            raise pickle.UnpicklingError("has an array that is not made of plain numbers")
        if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
            raise pickle.UnpicklingError(f"has an array of shape {shape!r}")
        dtype = kind.dtype()
        if math.prod(shape) * dtype.itemsize != len(content):
            raise pickle.UnpicklingError(f"has an array of shape {shape} and {dtype} with {len(content)} bytes")
        if dtype.itemsize == 0:
            return np.zeros(shape, dtype)
        return np.frombuffer(bytes(content), dtype).reshape(shape, order=order)


def _of_parts(*parts: Any) -> _Array:
    array = _Array()
    object.__setattr__(array, "parts", parts)
    return array


def _scalar(kind: Any, content: Any) -> _Array:
    return _of_parts((), kind, "C", content)


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any) -> _Array:
    return _of_parts(shape, kind, order, content)


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes, as the protocols of Python 2 hold them."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("has text of an unusual encoding")
    return text.encode("latin1")


_SUBSTITUTES: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Type,
    "numpy.ndarray": _Array,
    "_codecs.encode": _encoded,
    **{
        f"numpy.{core}.{name}": make
        for core in ("core", "_core")
        for name, make in (
            ("multiarray._reconstruct", _Array),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}


class _NothingButArrays(pickle.Unpickler):
    """Gives substitutes for a few names of numpy, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (make := _SUBSTITUTES.get(f"{module}.{name}")) is None:
            raise pickle.UnpicklingError(f"refers to {module}.{name}, and ltpost never runs pickled code")
        return _Name(make)


def unpickle_arrays(file: Path) -> Any:
    """The content of a pickle of arrays and plain containers; text of Python 2 comes as bytes.

    Raises:
        DataError: it holds anything else, or is damaged.
    """
    with reading(file, "a pickle of arrays"), file.open("rb") as stream:
        return filled(_NothingButArrays(stream, encoding="bytes").load())


def substitutes() -> list[tuple[Callable[..., Any], str]]:
    """The substitutes that torch's unpickler uses for the names of numpy; :func:`filled` then builds the arrays."""
    return [(make, name) for name, make in _SUBSTITUTES.items() if name.startswith("numpy.")]


def filled(content: Any) -> Any:
    """The content with arrays in place of their substitutes. Dictionaries, lists and namespaces are changed in place.

    Raises:
        pickle.UnpicklingError: an array is not made of plain numbers, or its parts contradict each other.
    """
    if isinstance(content, _Array):
        array = content.array()
        return array if array.ndim else array[()]
    if isinstance(content, _Type | _Name):
        raise pickle.UnpicklingError("has a type or a function where a value is expected")
    if isinstance(content, argparse.Namespace):
        filled(vars(content))
    elif isinstance(content, dict):
        for key, value in [*content.items()]:
            new = filled(key)
            if new is not key:
                del content[key]
            content[new] = filled(value)
    elif isinstance(content, list):
        content[:] = [filled(value) for value in content]
    elif type(content) is tuple:
        return tuple(filled(value) for value in content)
    return content
