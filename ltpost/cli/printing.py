"""How results leave a command: ``--format``, ``--csv``, ``--json``, ``-q``, ``-v`` and what tables show."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from ltpost.report.per_class import SORTS
from ltpost.report.results import Style
from ltpost.tables import FORMATS, WIDTH, Table, csv_text, render

Command = TypeVar("Command", bound=Callable[..., Any])
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Output:
    """Where results go, and in which form.

    Attributes:
        form: one of ``tables.FORMATS``, "csv" or "json".
        csv_file: a file for CSV, or None.
        style: of tables.
    """

    form: str
    csv_file: Path | None
    style: Style

    @property
    def is_for_people(self) -> bool:
        """Whether sentences may stand between the tables."""
        return self.form in FORMATS and not self.style.quiet

    def show(
        self, blocks: Sequence[Table | str], *, records: Callable[[], Records], as_json: Callable[[], Any]
    ) -> None:
        """Print results: ``blocks`` for people, ``records`` as CSV, ``as_json`` as JSON."""
        if self.form == "json":
            print_json(as_json())
        elif self.form == "csv":
            click.echo(csv_text(records()), nl=False)
        else:
            tables = [block for block in blocks if not (self.style.quiet and isinstance(block, str))]
            click.echo(render(tables, self.form, self.style.width))

    def say(self, sentence: str) -> None:
        """A sentence after the tables, where it disturbs no program."""
        if self.is_for_people:
            click.echo(f"\n{sentence}" if self.form != "latex" else f"\n% {sentence}")

    def note(self, *lines: str) -> None:
        """Lines of which some may be empty; on stderr where the output is for a program."""
        for line in filter(None, lines):
            click.echo(line if self.form != "latex" else f"% {line}", err=not self.is_for_people)


def output_options(command: Command) -> Command:
    """``--format`` and its companions; the command gets them as ``output``."""

    @click.option(
        "--format",
        "output_format",
        type=click.Choice([*FORMATS, "csv", "json"]),
        default="text",
        show_default=True,
        help="csv has one row per method and split, latex the rules of booktabs.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON (fractions, null for an empty group).")
    @click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write the results to a CSV file too.")
    @click.option("--intervals/--no-intervals", default=True, help="Print ± too.  [default: yes]")
    @click.option(
        "--bold/--no-bold", default=True, help="The best figures in bold, in Markdown and LaTeX.  [default: yes]"
    )
    @click.option("--signature", is_flag=True, help="Print under each table how its classifiers were made.")
    @click.option("-q", "--quiet", is_flag=True, help="Print the tables of results alone.")
    @click.option("-v", "--verbose", is_flag=True, help=f"Print lines longer than {WIDTH} letters, and signatures.")
    @functools.wraps(command)
    def wrapper(
        *args: Any,
        output_format: str,
        as_json: bool,
        csv_file: Path | None,
        intervals: bool,
        bold: bool,
        signature: bool,
        quiet: bool,
        verbose: bool,
        **kwargs: Any,
    ) -> Any:
        form = "json" if as_json else output_format
        style = Style(intervals, bold, signature or verbose, quiet, None if verbose else WIDTH, form == "latex")
        return command(*args, output=Output(form, csv_file, style), **kwargs)

    return wrapper  # type: ignore[return-value]


def report_options(command: Command) -> Command:
    """``--per-class`` and ``--paired``; the command gets them as ``shown``, arguments of a report."""

    @click.option(
        "--per-class",
        is_flag=False,
        flag_value="class",
        type=click.Choice(SORTS),
        help="Show every class too, and which group the rows of a group are taken for; sorted by class, gain (over the "
        "joint classifier), count, accuracy or name.  [default: no classes; without a value: class]",
    )
    @click.option(
        "--paired",
        "against",
        metavar="NAME",
        help="Compare every row of the table with this one, or with best: the difference on the same rows, its 95 % "
        "interval, and p, corrected by Holm.  [default: none]",
    )
    @functools.wraps(command)
    def wrapper(*args: Any, per_class: str | None, against: str | None, **kwargs: Any) -> Any:
        return command(*args, shown={"per_class": per_class, "against": against}, **kwargs)

    return wrapper  # type: ignore[return-value]


def print_json(value: Any) -> None:
    """JSON on stdout, and nothing else there."""
    click.echo(json.dumps(value, indent=2, allow_nan=False, default=_plain))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else list(value)
