"""One bad file, and damage to bytes that every kind of file can have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltpost import LtpostError


@dataclass(frozen=True)
class Case:
    """A file, how it was spoilt, and whether it has to be refused."""

    path: Path
    how: str
    must_be_refused: bool = False
    more: Any = None


def refusal(error: LtpostError, place: Path | None = None) -> str:
    """Whether a refusal is as it has to be: one line that names the file, or the folder that it lies in."""
    text = str(error)
    if "\n" in text:
        return "wrong: more than one line"
    return "refused" if place is None or place.name in text else f"wrong: does not name {place.name}: {text[:200]}"


_SPECIAL = [0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]


def spoil(content: bytes, rng: np.random.Generator, begin: int = 0, end: int | None = None) -> tuple[bytes, str]:
    """Damage some bytes between ``begin`` and ``end``."""
    data, end = bytearray(content), len(content) if end is None else min(end, len(content))
    how = str(rng.choice(["byte", "bit", "number", "cut", "drop", "insert", "copy", "zeros", "swap"], p=_OFTEN))
    times = int(rng.choice([1, 1, 1, 2, 8]))
    for _ in range(times):
        place = int(rng.integers(begin, max(begin + 1, end)))
        length = int(rng.integers(1, 65))
        if how == "byte":
            data[place : place + 1] = bytes([rng.integers(256)])
        elif how == "bit" and place < len(data):
            data[place] ^= 1 << int(rng.integers(8))
        elif how == "number":
            size = int(rng.choice([1, 2, 4, 8]))
            value = int(rng.choice(np.array(_SPECIAL, dtype=np.uint64))) % 2 ** (8 * size)
            data[place : place + size] = value.to_bytes(size, "little")
        elif how == "cut":
            del data[place:]
        elif how == "drop":
            del data[place : place + length]
        elif how == "insert":
            data[place:place] = rng.bytes(length)
        elif how == "copy":
            source = int(rng.integers(begin, max(begin + 1, end)))
            data[place : place + length] = data[source : source + length]
        elif how == "zeros":
            data[place : place + length] = bytes(len(data[place : place + length]))
        elif how == "swap":
            source = int(rng.integers(begin, max(begin + 1, end)))
            one, other = data[place : place + 8], data[source : source + 8]
            data[place : place + len(other)] = other
            data[source : source + len(one)] = one
    return bytes(data), f"{how} x{times}"


_OFTEN = [0.3, 0.15, 0.25, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05]
