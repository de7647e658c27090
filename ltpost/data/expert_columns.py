"""Which columns of the features belong to which of several experts, as the attributes of a file say it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ltpost.errors import DataError


def widths_of(attrs: Mapping[str, Any], num_features: int | None, name: str = "features") -> tuple[int, ...]:
    """How many columns of the features each expert has; empty where there is one, or where they cannot be shared out.

    Raises:
        DataError: the widths are no list of integers.

    >>> widths_of({"experts": 3}, 12)
    (4, 4, 4)
    >>> widths_of({"expert_widths": "[2, 4]"}, 6)
    (2, 4)
    """
    if "expert_widths" in attrs:
        try:
            return tuple(int(width) for width in json.loads(str(attrs["expert_widths"])))
        except (ValueError, TypeError):
            raise DataError(
                f"{name}: the attribute 'expert_widths' must be a JSON list of integers, one for each expert, but is "
                f"{attrs['expert_widths']!r}"
            ) from None
    count = int(attrs.get("experts", 1))
    return (num_features // count,) * count if num_features and 1 < count <= num_features else ()


def columns_of(widths: Sequence[int], number: int) -> slice:
    """The columns of expert ``number``.

    >>> columns_of((2, 4), 1)
    slice(2, 6, None)
    """
    start = sum(widths[:number])
    return slice(start, start + widths[number])
