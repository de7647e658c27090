"""Types of options of the command line that click does not have."""

from __future__ import annotations

from typing import Any

import click


class Names(click.ParamType):
    """Names separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Text to names."""
        return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else tuple(value)


class Numbers(click.ParamType):
    """Numbers separated by commas or spaces, e.g. 0.485,0.456,0.406."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Text to floats."""
        if not isinstance(value, str):
            return tuple(value)
        try:
            return tuple(float(word) for word in value.replace(",", " ").split())
        except ValueError:
            self.fail(f"must be numbers like 0.485,0.456,0.406, but is '{value}'", param, ctx)
