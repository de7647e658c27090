"""Files that are either whole or not there: written beside their place, and moved there in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ltpost.errors import DataError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when the block ends well and is removed when it does not.

    Raises:
        DataError: the place cannot be written; what was there is untouched.
    """
    target = Path(path)
    if target.is_dir():
        raise DataError(f"{target}: cannot be written, it is a folder; name a file")
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error}); choose another place") from None
    finally:
        if partial.parent.is_dir():
            partial.unlink(missing_ok=True)
