"""The logits of a head for many rows, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ltpost.heads.protocol import Array, Head, HeadRows

_STORED_ELEMENTS = 2**18  # of stored logits at a time: 1 MiB stays in the cache while it is rescaled


class _ManyRows(HeadRows, Protocol):
    logits_are_finite: bool

    def __len__(self) -> int: ...

    def block_rows(self) -> int: ...


def score_blocks(head: Head, rows: _ManyRows, size: int | None = None) -> Iterator[tuple[slice, Array]]:
    """Blocks ``(slice, logits of head)``, (n, C) float32, of all rows in order. They may be views of the file.

    Args:
        head: any head.
        rows: a feature set.
        size: rows of a block; default what suits the cache.
    """
    stored, total = head.is_stored(rows), len(rows)
    size = size or (max(1, _STORED_ELEMENTS // rows.num_classes) if stored else rows.block_rows())
    read = head.reader(rows)
    for start in range(0, total, size):
        part = slice(start, min(start + size, total))
        yield part, read(part)
    if stored:
        rows.logits_are_finite = True
