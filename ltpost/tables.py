"""Tables, as text, Markdown and LaTeX, and how a figure is written in them: percent with two decimals, "–" for none."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ltpost.output import replacing

#: figure to its heading, in the order of the field
HEADINGS = {"many": "Many", "medium": "Medium", "few": "Few", "all": "All", "top1": "Top-1"}
WIDTH = 80  # columns of a terminal
FORMATS = ("text", "markdown", "latex")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": r"\textbar{}",
    "±": r"$\pm$", "–": "--", "…": r"\dots{}", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "‖": r"$\|$",
    "−": "$-$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Cells of text under headings.

    Attributes:
        title: one line, "" for none.
        headings: of the columns.
        rows: of cells.
        left: how many columns stand at the left: they say what a row is.
        bold: (row, column) of the cells that stand out in Markdown and LaTeX.
        notes: lines under the table.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 0
    bold: frozenset[tuple[int, int]] = frozenset()
    notes: Sequence[str] = ()

    def kept(self) -> Table:
        """Without columns that are empty."""
        keep = [k for k, heading in enumerate(self.headings) if heading or any(row[k] for row in self.rows)]
        bold = frozenset((row, keep.index(column)) for row, column in self.bold if column in keep)
        left = sum(k < self.left for k in keep)
        rows = [[row[k] for k in keep] for row in self.rows]
        return replace(self, headings=[self.headings[k] for k in keep], rows=rows, left=left, bold=bold)

    @property
    def width(self) -> int:
        """Letters of its widest line as text."""
        return max(map(len, text_table(self.headings, self.rows, self.left).splitlines()))

    def text(self, width: int | None = None) -> str:
        """As text; columns that do not fit into ``width`` letters follow below, beside the left ones again."""
        parts = [self.title] if self.title else []
        parts += [text_table(part.headings, part.rows, part.left) for part in self._parts(width)]
        head = "\n".join(parts[:2]) if self.title else parts[0]
        blocks = [head, *parts[2 if self.title else 1 :]]
        return "\n".join(["\n\n".join(blocks), *self.notes])

    def _parts(self, width: int | None) -> list[Table]:
        table = self.kept()
        if width is None or table.width <= width:
            return [table]
        rows = [table.headings, *table.rows]
        widths = [max(len(row[k]) for row in rows) for k in range(len(table.headings))]
        beside = sum(widths[: table.left]) + 2 * max(0, table.left - 1)
        groups: list[list[int]] = [[]]
        for k in range(table.left, len(widths)):
            used = beside + sum(widths[column] + 2 for column in groups[-1])
            if groups[-1] and used + 2 + widths[k] > width:
                groups.append([])
            groups[-1].append(k)
        chosen = [[*range(table.left), *group] for group in groups]
        return [
            replace(
                table, headings=[table.headings[k] for k in keep], rows=[[row[k] for k in keep] for row in table.rows]
            )
            for keep in chosen
        ]

    def markdown(self) -> str:
        """As a table of Markdown."""
        table = self.kept()
        rows = [
            [f"**{cell}**" if (k, c) in table.bold else cell for c, cell in enumerate(map(_in_markdown, row))]
            for k, row in enumerate(table.rows)
        ]
        rule = ["---" if c < table.left else "---:" for c in range(len(table.headings))]
        lines = [f"| {' | '.join(row)} |" for row in (map(_in_markdown, table.headings), rule, *rows)]
        title = [f"**{_in_markdown(self.title)}**", ""] if self.title else []
        notes = [line for note in self.notes for line in ("", _in_markdown(note))]
        return "\n".join([*title, *lines, *notes])

    def latex(self) -> str:
        """As a tabular of LaTeX with the rules of booktabs; title and notes as comments."""
        table = self.kept()
        rows = [
            [rf"\textbf{{{cell}}}" if (k, c) in table.bold else cell for c, cell in enumerate(map(in_latex, row))]
            for k, row in enumerate(table.rows)
        ]
        columns = "l" * table.left + "r" * (len(table.headings) - table.left)
        lines = [rf"{' & '.join(row)} \\" for row in (map(in_latex, table.headings), *rows)]
        comments = [f"% {line}" for text in (self.title, *self.notes) for line in text.splitlines()]
        body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
        return "\n".join([*comments, *body, r"\bottomrule", r"\end{tabular}"])

    def html(self) -> str:
        """As a table of HTML, for notebooks."""
        table = self.kept()

        def line(row: Sequence[str], tag: str, number: int = -1) -> str:
            cells = []
            for c, cell in enumerate(row):
                style = "text-align:left;" * (c < table.left) + "font-weight:bold;" * ((number, c) in table.bold)
                attribute = f' style="{style}"' if style else ""
                cells.append(f"<{tag}{attribute}>{escape(cell)}</{tag}>")
            return f"<tr>{''.join(cells)}</tr>"

        body = "".join(line(row, "td", number) for number, row in enumerate(table.rows))
        caption = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<table>{caption}<thead>{line(table.headings, 'th')}</thead><tbody>{body}</tbody></table>{notes}"


def as_html(blocks: Sequence[Table | str]) -> str:
    """Tables and sentences as HTML, one after the other."""
    return "".join(block.html() if isinstance(block, Table) else f"<p>{escape(block)}</p>" for block in blocks)


def in_latex(text: str) -> str:
    r"""Text with the letters that LaTeX reads as commands written out.

    >>> in_latex("50 % ±1.7, τ_c"), in_latex("Top-1 -0.5 (+1 to -2)")
    ('50 \\% $\\pm$1.7, $\\tau$\\_c', 'Top-1 $-$0.5 (+1 to $-$2)')
    """
    text = re.sub(r"(?<!\w)-(?=[\d ])", "−", text)
    return "".join(_LATEX.get(letter) or _greek(letter) for letter in text)


def _greek(letter: str) -> str:
    match = re.fullmatch(r"GREEK SMALL LETTER (\w+)", unicodedata.name(letter, ""))
    return rf"$\{match[1].lower().replace('lamda', 'lambda')}$" if match else letter


def _in_markdown(text: str) -> str:
    return re.sub(r"([|*_<>`\\])", r"\\\1", text.replace("\n", " "))


def render(blocks: Sequence[Table | str], form: str = "text", width: int | None = WIDTH) -> str:
    """Tables and sentences, one after the other.

    Args:
        blocks: in their order.
        form: one of ``FORMATS``.
        width: of text; None for as wide as the tables are.
    """
    shown = []
    for block in blocks:
        if isinstance(block, str):
            shown.append("\n".join(f"% {line}" for line in block.splitlines()) if form == "latex" else block)
        else:
            shown.append(
                block.text(width) if form == "text" else block.markdown() if form == "markdown" else block.latex()
            )
    return "\n\n".join(shown)


def percent(value: float) -> str:
    """A fraction as percent with two decimals, "–" for NaN.

    Sums in different orders may differ in the last digit of a float, so it is rounded twice.

    >>> percent(0.71987), percent(0.1 + 0.2) == percent(0.3), percent(-1e-9)
    ('71.99', True, '0.00')
    """
    return "–" if np.isnan(value) else f"{round(round(100 * value, 9), 2) + 0.0:.2f}"


def signed(value: float, places: int = 2) -> str:
    """A difference of fractions in points, with its sign; "–" for NaN.

    >>> signed(0.0334), signed(-0.02), signed(-1e-9), signed(0.0249, 1)
    ('+3.34', '-2.00', '0.00', '+2.5')
    """
    if np.isnan(value):
        return "–"
    points = round(round(100 * value, 9), places) + 0.0
    return f"{points:+.{places}f}" if points else f"{points:.{places}f}"


def curve_table(
    parameter: str, values: Sequence[float], rows: Sequence[Any], headings: Mapping[str, str], **more: Sequence[float]
) -> Table:
    """Figures against a hyperparameter.

    Args:
        parameter: its name.
        values: K of them.
        rows: K objects with the figures as attributes.
        headings: figure to its heading.
        **more: further columns of K fractions, by heading.
    """
    places = max(len(f"{value:g}".partition(".")[2]) for value in values)
    exact = any("e" in f"{value:g}" for value in values)
    first = [f"{value:g}" if exact else f"{value:.{places}f}" for value in values]
    figures = [[percent(getattr(row, name)) for name in headings] for row in rows]
    beside = [[percent(column[k]) for column in more.values()] for k in range(len(values))]
    cells = [[one, *some, *others] for one, some, others in zip(first, figures, beside, strict=True)]
    return Table("", [parameter, *headings.values(), *more], cells)


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Columns aligned right, the first ``left`` of them left."""
    widths = [max(len(row[k]) for row in [headings, *rows]) for k in range(len(headings))]
    keep = [k for k, width in enumerate(widths) if width]
    lines = [
        "  ".join(row[k].ljust(widths[k]) if k < left else row[k].rjust(widths[k]) for k in keep)
        for row in [headings, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Flat records as CSV, numbers with six digits; an empty cell for None.

    >>> csv_text([{"method": "la", "few": 1 / 3}, {"method": "mla", "all": None}])
    'method,few,all\\nla,0.333333,\\nmla,,\\n'
    """
    stream = io.StringIO()
    columns = dict.fromkeys(name for record in records for name in record)
    writer = csv.DictWriter(stream, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _six_digits(value) for name, value in record.items()} for record in records)
    return stream.getvalue()


def write_csv(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Write :func:`csv_text`, in one step."""
    with replacing(path) as partial:
        partial.write_text(csv_text(records), encoding="utf-8", newline="")
    return Path(path)


def _six_digits(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
