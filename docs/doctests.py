"""For mkdocstrings: examples in docstrings, ``>>> …``, become blocks of code; Markdown takes them for quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe


def fenced(text: str) -> str:
    """Every example of a docstring, up to the next empty line, inside of a fence.

    >>> fenced("Sum.\\n\\n>>> 1 + 1\\n2")
    'Sum.\\n\\n```pycon\\n>>> 1 + 1\\n2\\n```'
    """
    return re.sub(r"(?m)^>>> .*(?:\n.+)*", lambda block: f"```pycon\n{block[0]}\n```", text)


class Doctests(griffe.Extension):
    """Changes the docstrings while they are read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every module, class and function."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
