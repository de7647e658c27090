"""From a checkpoint and images to feature files, and back to a checkpoint.

The flow, which is also the reading order: ``checkpoints`` (a file to tensors), ``architectures`` and ``experts`` (a
name to a model), ``backbone`` (a model to features and logits), ``data`` with ``image_files``, ``arrays``, ``tars``
and ``hugging_face`` (files to rows), ``preprocess`` and ``views`` (an image to pixels), ``writer`` (rows to a feature
file), ``lock`` and ``shards`` (several runs, several processes), ``loop`` and ``extraction`` (all of it), ``sanity``
(was it right?), ``export`` (a head back into its checkpoint), ``convert``, ``inspection``, ``command`` (the command
line). The core of ltpost knows nothing of this.
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
