"""From a checkpoint and images to feature files, and back to a checkpoint.

The rooms, in reading order; each imports only from those before it:

- ``messages``: lines for users. ``joint``: several heads as one.
- ``pixels``: an image to the pixels that a network takes.
- ``data``: folders, lists, archives and data sets to labelled rows.
- ``checkpoints``: a checkpoint file to named tensors.
- ``networks``: named tensors to a model that gives features and logits.
- ``run``: rows to a feature file, by one process or several, interrupted or not. Its entry is ``run.extraction``.
- ``export``: a head back into its checkpoint, or with its network. ``convert``: cached features of
  other programs.
- ``command``: the command line.

The core of ltpost imports none of this.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltpost.extract.export.with_head import WithHead
    from ltpost.extract.run.extraction import extract_features
    from ltpost.extract.run.splits import extract_splits

#: public name to the module that has it, imported when first used: they need torch
_MODULES = {
    "WithHead": "export.with_head",
    "extract_features": "run.extraction",
    "extract_splits": "run.splits",
}

__all__ = ["WithHead", "extract_features", "extract_splits"]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"ltpost.extract.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
