"""From a checkpoint and images to feature files, and back to a checkpoint.

The flow, which is also the reading order: ``checkpoints`` (a file to tensors), ``architectures`` (a name to a model),
``backbone`` (a model to features and logits), ``preprocess`` and ``data`` (files to pixels), ``writer`` (rows to a
feature file), ``extraction`` (all of it), ``command`` (the command line). The core of ltpost knows nothing of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltpost.extract.extraction import extract_features

__all__ = ["extract_features"]


def __getattr__(name: str) -> Any:
    """``extract_features``, imported when first used: it needs torch."""
    if name in __all__:
        from ltpost.extract import extraction

        return getattr(extraction, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
