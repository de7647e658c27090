"""Rows whose number is not known yet: kept on the disk until the last one has come, then written as a feature file."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ltpost.errors import DataError


class Spool(ExitStack):
    """Blocks of rows by the name of their dataset, in unnamed files of a folder, which end with the process.

    Args:
        folder: on whose disk the rows are kept.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self._files: dict[str, tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]] = {}
        self.rows = 0

    def add(self, blocks: dict[str, NDArray[Any]]) -> None:
        """Rows of every dataset, of the same number.

        Raises:
            DataError: the disk is full, or the columns are others than before.
        """
        try:
            for key, block in blocks.items():
                if key not in self._files:
                    file = self.enter_context(tempfile.TemporaryFile(dir=self.folder))  # noqa: SIM115 - closed with the spool
                    self._files[key] = file, block.shape[1:], block.dtype
                file, shape, dtype = self._files[key]
                if block.shape[1:] != shape:
                    raise DataError(
                        f"'{key}' must have columns {shape} in every batch, but has {block.shape[1:]} in one"
                    )
                file.write(np.ascontiguousarray(block, dtype).tobytes())
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written ({error.strerror or error}); make room") from None
        self.rows += len(next(iter(blocks.values())))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All rows of every dataset, mapped."""
        mapped = {}
        for key, (file, shape, dtype) in self._files.items():
            file.flush()
            mapped[key] = np.memmap(file, dtype, "r", shape=(self.rows, *shape))
        return mapped
