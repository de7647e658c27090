"""Files that are either whole or not there: written beside their place, and moved there in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ltpost.errors import DataError


@contextmanager
def replacing(path: str | os.PathLike[str], instead: str = "place", *, keep_ending: bool = False) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when the block ends well and is removed when it does not.

    Args:
        path: the file to be.
        instead: what to choose another one of, where it cannot be written.
        keep_ending: the path to write to ends like ``path``, for writers that go by the ending.

    Raises:
        DataError: the place cannot be written; what was there is untouched.
    """
    target = Path(path)
    if target.is_dir():
        raise DataError(f"{target}: cannot be written, it is a folder; name a file")
    partial = target.with_name(f"partial-{target.name}" if keep_ending else f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error}); choose another {instead}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
