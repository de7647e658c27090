"""``--plot``: the picture of what a command found."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class HasPlot(Protocol):
    """What can be drawn, such as an outcome or a report."""

    def plot(self, *, width: float | None) -> Any:
        """Draw into a new figure of this width in inches; returns the matplotlib axes."""


@dataclass(frozen=True)
class Draw:
    """Draws what it is called with, where the user wants a picture.

    Attributes:
        file: of the picture, or None.
        width: of this and other pictures of the command, in inches.
    """

    file: Path | None
    width: float

    def __call__(self, shown: HasPlot) -> None:
        """Draw to the file, if there is one."""
        if self.file is not None:
            from ltpost.figures import save

            save(shown.plot(width=self.width), self.file)


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
        help="Of pictures, in inches; 3.3 is one column of a paper.",
    )
    @functools.wraps(command)
    def wrapper(*args: Any, file: Path | None, width: float, **kwargs: Any) -> Any:
        if file is not None:
            from ltpost.figures import check_ending

            check_ending(file)  # before anything is computed
        return command(*args, draw=Draw(file, width), **kwargs)

    return wrapper  # type: ignore[return-value]
