"""The README's table of methods, from their declarations: ``python docs/methods_table.py`` writes it there."""

from __future__ import annotations

from pathlib import Path

from ltpost import methods
from ltpost.method import NEEDS, Method

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- methods: written by python docs/methods_table.py -->", "<!-- end of methods -->"
HEADINGS = ("key", "what it does", "equation", "needs", "chosen on val", "variant", "source")


def row(method: Method) -> list[str]:
    """The cells of a method."""
    needs = ", ".join(NEEDS[need] for need in method.needs)
    does = method.does[0].lower() + method.does[1:]
    return [f"`{method.key}`", does, method.equation, needs, method.chosen, method.variant, method.source]


def table() -> str:
    """All methods as Markdown, a table for each group."""
    parts = []
    for title, keys in methods.GROUPS.items():
        lines = [row(methods.get(key)) for key in keys]
        rows = [HEADINGS, ["---"] * len(HEADINGS), *lines]
        cells = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in rows]
        parts.append(f"**{title}**\n\n" + "\n".join(cells))
    return "\n\n".join(parts)


def written(text: str) -> str:
    """The text of the README with the table in its place."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
