"""Turns a checkpoint and images into feature files, and writes heads back into checkpoints.

The rooms, in reading order; each imports only from those before it:

- ``messages``: lines for users. ``joint``: several heads as one.
- ``pixels`` turns an image into the pixels that a network takes.
- ``data`` turns folders, lists, archives and data sets into labelled rows.
- ``checkpoints`` turns a checkpoint file into named tensors.
- ``networks`` turns named tensors into a model that gives features and logits.
- ``run`` turns rows into a feature file, in one process or several, interrupted or not; start with ``run.extraction``.
  ``run.probe`` measures how images and labels must be read.
- ``export`` writes a head back into its checkpoint. ``convert`` reads and writes feature files of other programs.
- ``command`` is the command line.

The core of ltpost imports none of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltpost.extract.run.extraction import extract_features
    from ltpost.extract.run.probe import probe

__all__ = ["extract_features", "probe"]


def __getattr__(name: str) -> Any:
    """``extract_features`` and ``probe``, imported when they are first used: they need torch."""
    if name == "extract_features":
        from ltpost.extract.run.extraction import extract_features

        return extract_features
    if name == "probe":
        from ltpost.extract.run.probe import probe

        return probe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
