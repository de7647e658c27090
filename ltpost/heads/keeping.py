"""Keeps a head of other settings when a new head takes its name.

A command writes its head to a name that it chooses, such as ``heads/tnorm.safetensors``. If the head that is there has
another signature, it gets a second name, which says how it differs: ``heads/tnorm-select-few.safetensors``. A head of
the same settings is replaced.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ltpost.heads.protocol import Head
from ltpost.heads.saving import ENTRY
from ltpost.output import replacing

_LONGEST = 60  # letters of what differs in a name; beyond, it gets a number only


def other_settings(path: str | os.PathLike[str], head: Head) -> str | None:
    """How the head file at ``path`` differs from ``head``, as "select few, seed 1"; None where nothing is lost.

    Args:
        path: the file that is to be written.
        head: the head that is to be written there, with the signature in its ``info``.
    """
    if not Path(path).is_file():
        return None
    old, new = _signature(_info(Path(path))), _signature(head.info)
    if old == new and old:
        return None
    differing = {key: old.get(key, "none") for key in {**old, **new} if old.get(key) != new.get(key)}
    if "method" in differing:
        differing = {"method": differing["method"]}
    chosen = str(head.info.get("parameter"))
    settings = {key: value for key, value in differing.items() if key != chosen} or differing
    return ", ".join(f"{key} {value}" for key, value in settings.items()) if old else "unknown settings"


def save_and_keep(head: Head, path: str | os.PathLike[str], *, replace: bool = False) -> tuple[Path, str]:
    """Write a head, and keep one of other settings that is there.

    Args:
        head: the head.
        path: its file.
        replace: do not keep the other one, as the user has named this file.

    Returns:
        The file, and a line on the head that was there; "" where nothing is lost.

    Raises:
        DataError: a file cannot be written.
    """
    what = other_settings(path, head)
    kept = None if replace else keep_other(path, head)
    saved = head.save(path)
    if what is None:
        return saved, ""
    return saved, f"the head that was there ({what}) is {'replaced' if kept is None else f'kept as {kept}'}"


def keep_other(path: str | os.PathLike[str], head: Head) -> Path | None:
    """Give the head file at ``path`` a second name, if ``head``, which is to be written there, has other settings.

    Returns:
        The second name, or None where nothing has to be kept.

    Raises:
        DataError: the second name cannot be written.
    """
    what = other_settings(path, head)
    if what is None:
        return None
    place = Path(path)
    kept = _second_name(place, what)
    try:
        kept.unlink(missing_ok=True)
        os.link(place.resolve(), kept)
    except OSError:  # a file system without second names
        with replacing(kept) as partial:
            partial.write_bytes(place.read_bytes())
    return kept


def _second_name(path: Path, what: str) -> Path:
    """A name beside ``path`` that is free, or holds a head of the same settings."""
    ending = re.sub(r"[^A-Za-z0-9.+]+", "-", what).strip("-")
    stem = f"{path.stem}-{ending}" if len(ending) <= _LONGEST else f"{path.stem}-other"
    mine, number = _info(path).get("signature"), 1
    while True:
        name = path.with_name(f"{stem}{'' if number == 1 else f'-{number}'}{path.suffix}")
        if not os.path.lexists(name) or (mine and _info(name).get("signature") == mine):
            return name
        number += 1


def _info(path: Path) -> dict[str, Any]:
    """The ``info`` in a head file; empty where it has none, or is not a head file."""
    from safetensors import safe_open

    with suppress(Exception), safe_open(path, "numpy") as file:  # a damaged file raises errors of any kind
        info = json.loads((file.metadata() or {})[ENTRY])["info"]
        if isinstance(info, dict):
            return info
    return {}


def _signature(info: dict[str, Any]) -> dict[str, str]:
    """The parts of a signature, by name; empty without a signature."""
    parts = (part.partition(":") for part in str(info.get("signature") or "").split("|"))
    return {key: value for key, _, value in parts if key}
