"""``--plot``: the picture of what a command found."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class HasPlot(Protocol):
    """What can be drawn, such as an outcome or a report."""

    def plot(self, *, width: float | None) -> Any:
        """Draw into a new figure of this width in inches; returns the matplotlib axes."""


Draw = Callable[[HasPlot], None]


def plot_options(command: Command) -> Command:
    """``--plot`` and ``--plot-width``; the command gets them as ``draw``, to be called with what is drawn."""

    @click.option(
        "--plot", "file", type=click.Path(path_type=Path), help="Draw a picture to a file: .pdf, .png or .svg."
    )
    @click.option(
        "--plot-width",
        "width",
        type=click.FloatRange(2, 20),
        default=7.0,
        show_default=True,
        help="Of the picture, in inches; 3.3 is one column of a paper.",
    )
    @functools.wraps(command)
    def wrapper(*args: Any, file: Path | None, width: float, **kwargs: Any) -> Any:
        if file is not None:
            from ltpost.plots import check_ending

            check_ending(file)  # before anything is computed

        def draw(shown: HasPlot) -> None:
            if file is not None:
                from ltpost.plots import save

                save(shown.plot(width=width), file)

        return command(*args, draw=draw, **kwargs)

    return wrapper  # type: ignore[return-value]
