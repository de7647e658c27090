"""Turns a checkpoint and images into feature files, and writes heads back into checkpoints.

The rooms, in reading order; each imports only from those before it:

- ``messages``: lines for users. ``joint``: several heads as one.
- ``pixels`` turns an image into the pixels that a network takes.
- ``data`` turns folders, lists, archives and data sets into labelled rows.
- ``checkpoints`` turns a checkpoint file into named tensors.
- ``networks`` turns named tensors into a model that gives features and logits.
- ``run`` turns rows into a feature file, in one process or several, interrupted or not; start with ``run.extraction``.
  ``run.probe`` measures how images and labels must be read.
- ``export`` writes a head back into its checkpoint, or with its network. ``convert`` reads and writes features and
  logits of other programs.
- ``unlabelled`` turns images, texts and sounds without labels into inputs, ``predict`` those into classes. ``command``,
  ``predict_command`` and ``option_types`` are the command line.

The core of ltpost imports none of this.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltpost.extract.export.checkpoint import export_head
    from ltpost.extract.export.with_head import WithHead
    from ltpost.extract.run.extraction import extract_features
    from ltpost.extract.run.merge import merge_shards
    from ltpost.extract.run.probe import probe
    from ltpost.extract.run.splits import extract_splits

#: public name to the module that has it, imported when first used: they need torch
_MODULES = {
    "WithHead": "export.with_head",
    "export_head": "export.checkpoint",
    "extract_features": "run.extraction",
    "extract_splits": "run.splits",
    "merge_shards": "run.merge",
    "probe": "run.probe",
}

__all__ = ["WithHead", "export_head", "extract_features", "extract_splits", "merge_shards", "probe"]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"ltpost.extract.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
