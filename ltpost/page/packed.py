"""Numbers in an HTML file: JSON that no text can break out of, and long arrays as compressed bytes in it."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np

from ltpost.heads import Array

_NAMES = {
    "u1": "Uint8Array",
    "u2": "Uint16Array",
    "u4": "Uint32Array",
    "i1": "Int8Array",
    "i2": "Int16Array",
    "i4": "Int32Array",
    "f8": "Float64Array",
}
_LEVELS = 65_534  # of a number that is only drawn; one more stands for "none"


def packed(values: Array) -> dict[str, Any]:
    """An array for ``unpack`` in data.js: integers in as few bytes as hold them, other numbers in float64."""
    values = np.asarray(values)
    kind = "f8" if values.dtype.kind == "f" else _smallest(values)
    raw = values.astype(f"<{kind}").tobytes()
    return {"array": _NAMES[kind], "zlib": base64.b64encode(zlib.compress(raw, 9)).decode()}


def drawn(values: Array) -> dict[str, Any]:
    """Numbers that are only drawn, (C,): two bytes each, between their least and their greatest; NaN is kept."""
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    with np.errstate(invalid="ignore"):
        levels = np.round((values - low) / ((high - low) or 1.0) * _LEVELS)
    return {"low": low, "high": high, "levels": packed(np.where(known, levels, _LEVELS + 1).astype(np.int64))}


def safe_json(value: Any) -> str:
    """JSON to stand inside of a script element: no letter in it ends the element, whatever the texts say.

    >>> safe_json({"name": "</script><img onerror=x>"})
    '{"name":"\\\\u003c/script\\\\u003e\\\\u003cimg onerror=x\\\\u003e"}'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII only
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _smallest(values: Array) -> str:
    least, greatest = int(values.min(initial=0)), int(values.max(initial=0))
    for kind in ("u1", "i1", "u2", "i2", "u4", "i4"):
        bounds = np.iinfo(kind)
        if bounds.min <= least and greatest <= bounds.max:
            return kind
    raise ValueError(f"no 32-bit integer holds {least} to {greatest}")
