"""Several splits in one run, with the network opened once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ltpost.errors import UsageError
from ltpost.extract.checkpoints.checkpoint import read_checkpoint
from ltpost.extract.data.forms import open_source
from ltpost.extract.networks.opening import open_network
from ltpost.extract.run.extraction import extract_features, of_split, takes_columns
from ltpost.extract.run.settings import Settings


def extract_splits(
    model: nn.Module | str | os.PathLike[str],
    data: str | os.PathLike[str],
    splits: Sequence[str],
    out: str | os.PathLike[str] = "features",
    **options: Any,
) -> list[Path]:
    """Several splits one after the other; the network is opened once, and finished files of the same settings are kept.

    Args:
        model: a checkpoint file or a module.
        data: where all splits are on disk.
        splits: their names.
        out: a folder.
        **options: of :func:`extract_features`.

    Returns:
        The feature file of every split.

    Raises:
        UsageError: a split is not there; nothing is extracted then.
        DataError: as of :func:`extract_features`.
    """
    names = list(dict.fromkeys(splits))
    if not names:
        raise UsageError("split= must name at least one split")
    if len(names) == 1:
        return [extract_features(model, data, names[0], out, **options)]
    if Settings(names[0], Path(out)).names_a_file:
        raise UsageError(f"out= must be a folder where there are several splits, but is {out}")
    list_file = options.get("list_file")
    if list_file is not None and "{split}" not in str(list_file):
        raise UsageError(f"list_file= must hold {{split}} where there are several splits, but is {list_file}")
    if isinstance(model, str | os.PathLike) and not Path(model).exists():
        read_checkpoint(model)
    looked = {key: options[key] for key in ("root", "class_order", "dataset") if key in options}
    for name in names if not takes_columns(model) else ():
        open_source(data, name, of_split(list_file, name), **looked)
    opening = {
        key: options.pop(key)
        for key in ("arch", "head_key", "expert", "head_scale", "weights", "max_length")
        if key in options
    }
    network = open_network(model, **opening)
    return [extract_features(network, data, name, out, **{"skip_finished": True, **options}) for name in names]
