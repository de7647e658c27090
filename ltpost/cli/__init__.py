"""The ``ltpost`` command. A command reads, makes one library call, and writes.

Commands load when they are asked for, so that ``ltpost tnorm`` starts without torch. Packages add commands through the
entry point group ``ltpost.commands`` (``ltpost.extract`` does).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from ltpost._version import __version__
from ltpost.errors import LtpostError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: command to the module of ltpost.cli that defines it
COMMANDS = {
    "info": "info",
    "tnorm": "methods",
    "la": "methods",
    "mla": "methods",
    "ncm": "methods",
    "lws": "methods",
    "crt": "methods",
    "compare": "methods",
    "evaluate": "evaluate",
    "demo": "demo",
}


class _Failure(click.ClickException):
    """One sentence on stderr, and an exit code."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


def _added() -> Iterable[EntryPoint]:
    """Commands of other packages; looking them up takes longer than importing ltpost's own."""
    from importlib.metadata import entry_points

    return entry_points(group="ltpost.commands")


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*sorted(point.name for point in _added()), *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command = getattr(import_module(f"ltpost.cli.{COMMANDS[cmd_name]}"), cmd_name)
            assert isinstance(command, click.Command)
            return command
        for point in (point for point in _added() if point.name == cmd_name):
            loaded = point.load()
            assert isinstance(loaded, click.Command)
            return loaded
        return None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LtpostError as error:
            raise _Failure(str(error), error.exit_code) from None
        except BrokenPipeError:
            raise  # click's: the reader of our output has left
        except OSError as error:
            what = f"{error.filename}: " if error.filename else ""
            raise _Failure(f"{what}{error.strerror or error}") from None
        except MemoryError:
            raise _Failure("out of memory; close other programs, or use a smaller --batch-size") from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ltpost")
def cli() -> None:
    """Rebalance a trained classifier for rare classes, on cached features.

    \b
    ltpost extract --ckpt r50.pth --split val      run the backbone once: features/val.h5
    ltpost tnorm --tau-grid 0:2:0.1                choose tau on val, report on test
    ltpost compare                                 every method in one table
    ltpost demo                                    all of it on real images, in seconds
    """


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the ``ltpost`` script."""
    cli.main(args=None if args is None else list(args), prog_name="ltpost")
