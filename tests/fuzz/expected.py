"""What a layout of data stands for: its rows, or that it has to be refused."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.images import encoded, picture

Rows = list[tuple[str, int]]  # path and label
REFUSED: Rows = [("refused", -1)]
ANYTHING: Rows = [("anything", -1)]
PNG = encoded(picture(0), "PNG")


def put_image(path: Path) -> None:
    """An image, and the folders that lead to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PNG)
