"""The README's table of methods, from their declarations: ``python docs/methods_table.py`` writes it there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ltpost import methods
from ltpost.method import NEEDS, Method

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- methods: written by python docs/methods_table.py -->", "<!-- end of methods -->"
HEADINGS = ("key", "what it does", "equation", "needs", "chosen on val", "variant", "source")


def needs_of(method: Method) -> str:
    """What a method needs, in words."""
    return ", ".join(NEEDS[need] for need in method.needs)


def row(method: Method, key: str) -> list[str]:
    """The cells of a method."""
    does = method.does[0].lower() + method.does[1:]
    return [key, does, method.equation, needs_of(method), method.chosen, method.marks, method.source]


def as_markdown(rows: Iterable[Sequence[str]]) -> str:
    """A table whose first row are the headings."""
    headings, *lines = rows
    cells = [headings, ["---"] * len(headings), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells)


def table(key_as: str = "`{}`", heading: str = "**{}**") -> str:
    """All methods as Markdown, a table for each group."""
    parts = []
    for title, keys in methods.GROUPS.items():
        rows = [HEADINGS, *(row(methods.get(key), key_as.format(key)) for key in keys)]
        parts += [heading.format(title), as_markdown(rows)]
    return "\n\n".join(parts)


def written(text: str) -> str:
    """The text of the README with the table in its place."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
