"""Pages of the site that are made from the code: one for each method, the format, the changes. Run by mkdocs."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import click
import mkdocs_gen_files

from ltpost import methods
from ltpost.cli import SECTIONS, cli
from ltpost.method import Method, Option

sys.path.insert(0, str(Path(__file__).parent))
from methods_table import as_markdown, needs_of, table

ROOT = Path(__file__).parents[1]
LETTERS = "x (D) are the features, z = Wx + b (C) the logits, n_c training samples of class c, π_c = n_c / n."
REPOSITORY_FILES = {"FORMAT.md": "format.md", "CHANGELOG.md": "changes.md"}


def method_page(method: Method) -> str:
    """What a declaration and its docstrings say of a method."""
    function, needs = method.make, ", ".join(method.needs)
    module = inspect.getdoc(sys.modules[function.__module__]) or ""
    facts = {
        "Key": f"`{method.key}`",
        "Command": f"`{method.example or 'ltpost ' + method.key}`",
        "Python": f"`ltpost.{function.__name__}({needs})`",
        "Needs": needs_of(method),
        "Chosen on val": method.chosen or "nothing",
        "Variant": method.marks,
        "Source": method.source,
    }
    parts = [
        f"# {method.title[0].upper()}{method.title[1:]}",
        f"{method.does}.",
        f"```text\n{method.equation}\n```",
        as_markdown(list(facts.items())),
        "## What it is",
        indented_as_text(module),
        "## In Python",
        f"::: {function.__module__}.{function.__name__}",
    ]
    if method.options:
        rows = [[f"`--{name.replace('_', '-')}`", *_cells(option)] for name, option in method.options.items()]
        parts += ["## Options", as_markdown([["option", "default", "choices", ""], *rows])]
    return "\n\n".join(parts) + "\n"


def _cells(option: Option) -> list[str]:
    default = "" if option.default is None else str(option.default)
    return [default, ", ".join(map(str, option.choices)), option.help]


def indented_as_text(docstring: str) -> str:
    """A docstring as Markdown: indented equations become text blocks."""
    return re.sub(r"(?m)(?:^ {4}.*\n?)+", lambda block: f"```text\n{inspect.cleandoc(block[0])}\n```\n", docstring)


def commands_page() -> str:
    """The help of every command that is not a method's, as it is printed."""
    context = click.Context(cli, info_name="ltpost")
    parts = ["# Commands", "The command of a method stands on the page of the [method](methods.md), with its options."]
    for heading, names in SECTIONS.items():
        parts.append(f"## {heading}")
        for name in names:
            command = cli.get_command(context, name)
            assert command is not None
            own = click.Context(command, info_name=name, parent=context, max_content_width=100)
            parts += [f"### ltpost {name}", f"```text\n{command.get_help(own)}\n```"]
    return "\n\n".join(parts) + "\n"


for key in methods.TABLE:
    with mkdocs_gen_files.open(f"methods/{key}.md", "w") as file:
        file.write(method_page(methods.get(key)))
with mkdocs_gen_files.open("methods.md", "w") as file:
    file.write(f"# Methods\n\n{LETTERS}\n\n{table('[`{0}`](methods/{0}.md)', '## {}')}\n")
with mkdocs_gen_files.open("commands.md", "w") as file:
    file.write(commands_page())
for source, target in REPOSITORY_FILES.items():
    with mkdocs_gen_files.open(target, "w") as file:
        file.write((ROOT / source).read_text(encoding="utf-8"))
