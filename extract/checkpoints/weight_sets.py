"""Checkpoints that hold several sets of weights: averaged and plain ones, or those of the best and the last epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ltpost.errors import UsageError
from ltpost.extract.checkpoints.layouts import Container, layout_of


def weight_sets(container: Container) -> list[str]:
    """The keys that each hold all tensors of a model, the default one first; at most one where there is no choice."""
    mappings = [key for key, value in container.items() if isinstance(key, str) and isinstance(value, Mapping)]
    sets = [key for key in mappings if _first_key(_without(container, mappings, key)) == key]
    default = _first_key(container)
    return sorted(sets, key=lambda key: key != default) if default in sets else []


def one_set(container: Container, sets: list[str], weights: str, source: Path) -> Container:
    """The container without the other sets of weights.

    Raises:
        UsageError: it has no set of this name.
    """
    if weights not in sets:
        listed = f"has {', '.join(sets)}" if len(sets) > 1 else "has one set only; leave the option out"
        raise UsageError(f"weights={weights}: {source} {listed}")
    return _without(container, sets, weights)


def _without(container: Container, keys: list[str], key: str) -> Container:
    """The container without the entries ``keys``, but with ``key``."""
    return {name: value for name, value in container.items() if name == key or name not in keys}


def _first_key(container: Container) -> str | None:
    """The key of the container below which its layout has tensors, or None."""
    layout = layout_of(container)
    parts = () if layout is None else layout.parts
    return next((part[0] for part in parts if part and part[0] in container), None)
