"""Turns a checkpoint and images into feature files, and writes heads back into checkpoints.

The rooms, in reading order; each imports only from those before it:

- ``messages``: lines for users. ``joint``: several heads as one.
- ``pixels`` turns an image into the pixels that a network takes.
- ``data`` turns folders, lists, archives and data sets into labelled rows.
- ``checkpoints`` turns a checkpoint file into named tensors.
- ``networks`` turns named tensors into a model that gives features and logits.
- ``run`` turns rows into a feature file, in one process or several, interrupted or not; start with ``run.extraction``.
- ``export`` writes a head back into its checkpoint. ``convert`` reads and writes feature files of other programs.
- ``command`` is the command line.

The core of ltpost imports none of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltpost.extract.run.extraction import extract_features

__all__ = ["extract_features"]


def __getattr__(name: str) -> Any:
    """``extract_features``, imported when first used: it needs torch."""
    if name in __all__:
        from ltpost.extract.run import extraction

        return getattr(extraction, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
