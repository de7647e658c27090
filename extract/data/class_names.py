"""Names of classes, from files and checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltpost.errors import DataError
from ltpost.extract.messages import reading

#: where training code stores the names: lists, or a name to its number, or a number to its name
_IN_CHECKPOINTS = ("class_names", "classes", "class_to_idx", "idx_to_class", "id2label", "label2id")


def read_class_names(file: str | os.PathLike[str]) -> list[str]:
    """C class names from a text file (one a line), or JSON: a list, a name to its number, or a number to its name.

    Raises:
        DataError: it is none of these.
    """
    source = Path(file)
    with reading(source, "class names"):
        text = source.read_text(encoding="utf-8-sig")
        stored = json.loads(text) if source.suffix == ".json" else [line.strip() for line in text.splitlines()]
    names = in_order(stored)
    while names and not names[-1]:
        names.pop()
    twice = next((one for number, one in enumerate(names or []) if one in (names or [])[:number]), None)
    if not names or twice is not None:
        raise DataError(
            f"{source}: must hold one class name a line, each once, or as JSON a list or the number of every name, but "
            + (f"'{twice}' is there twice" if twice is not None else "holds none")
        )
    return names


def in_order(stored: Any) -> list[str] | None:
    """Class names from a list, from names to numbers 0..C-1, or from numbers to names; None from anything else."""
    if isinstance(stored, list | tuple) and stored and all(isinstance(one, str) for one in stored):
        return list(stored)
    if not isinstance(stored, Mapping) or not stored:
        return None
    pairs = [(key, value) if isinstance(value, str) else (value, key) for key, value in stored.items()]
    try:
        places = {int(number): str(name) for number, name in pairs}
    except (TypeError, ValueError):
        return None
    return [places[number] for number in range(len(places))] if set(places) == set(range(len(pairs))) else None


def names_in_checkpoint(container: Mapping[str, Any]) -> list[str] | None:
    """The class names that a checkpoint holds."""
    return next((names for key in _IN_CHECKPOINTS if (names := in_order(container.get(key))) is not None), None)
