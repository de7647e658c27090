"""The ``ltpost`` command. A command reads, makes one library call, and writes.

Commands load when they are asked for, so that ``ltpost tnorm`` starts without torch. The command of a method is made
from its declaration. Packages add commands through the entry point group ``ltpost.commands`` (``ltpost.extract`` does).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ltpost import methods
from ltpost._version import __version__
from ltpost.cli import signals
from ltpost.cli.config import configurable
from ltpost.cli.encoding import never_fail
from ltpost.errors import LtpostError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: command to the module of ltpost.cli that defines it
COMMANDS = {
    "info": "info",
    "split": "split",
    "compare": "method_commands",
    "best": "best",
    "evaluate": "evaluate",
    "diagnose": "diagnose",
    "report": "report",
    "demo": "demo",
}
#: heading of ``ltpost --help`` to the commands under it; methods and commands of other packages have their own
SECTIONS = {
    "Files": ("extract", "merge", "info", "split", "inspect-ckpt", "convert", "export"),
    "Results": ("best", "compare", "evaluate", "predict", "diagnose", "report", "demo"),
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
        return [*methods.all_keys(), *COMMANDS, *sorted(point.name for point in _added())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = self._find(cmd_name)
        return None if command is None else configurable(command, lambda: self._all(ctx))

    def _all(self, ctx: click.Context) -> dict[str, click.Command]:
        found = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        return {name: command for name, command in found.items() if command is not None}

    def _find(self, name: str) -> click.Command | None:
        if name in COMMANDS:
            command = getattr(import_module(f"ltpost.cli.{COMMANDS[name]}"), name)
            assert isinstance(command, click.Command)
            return command
        if name in methods.TABLE:
            return import_module("ltpost.cli.method_commands").method_command(name)  # type: ignore[no-any-return]
        for point in (point for point in _added() if point.name == name):
            loaded = point.load()
            assert isinstance(loaded, click.Command)
            return loaded
        if name in methods.added():
            return import_module("ltpost.cli.method_commands").method_command(name)  # type: ignore[no-any-return]
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's; a name that does not exist gets a suggestion."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            meant = did_you_mean(args[0], self.list_commands(ctx)) or "; see ltpost --help"
            ctx.fail(f"No such command '{args[0]}'{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands under headings, with their whole summaries."""
        names = self.list_commands(ctx)
        sections = {f"Methods: {title}": tuple(keys) for title, keys in methods.GROUPS.items()}
        sections |= {"Methods: other packages": tuple(methods.added()), **SECTIONS}
        placed = {name for section in sections.values() for name in section}
        sections["Other"] = tuple(name for name in names if name not in placed)
        for heading, members in sections.items():
            commands = [(name, self.get_command(ctx, name)) for name in members if name in names]
            rows = [(name, command.get_short_help_str(limit=1000)) for name, command in commands if command is not None]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LtpostError as error:
            raise _Failure(
                in_options(str(error), self.get_command(ctx, ctx.invoked_subcommand or "")), error.exit_code
            ) from None
        except BrokenPipeError:
            raise  # click's: the reader of our output has left
        except OSError as error:
            what = f"{error.filename}: " if error.filename else ""
            raise _Failure(f"{what}{error.strerror or error}") from None
        except MemoryError:
            raise _Failure("out of memory; close other programs, or use a smaller --batch-size") from None


def in_options(message: str, command: click.Command | None) -> str:
    """A message of the library, whose arguments are written ``name=``, with the options of the command instead."""
    options = [parameter for parameter in (command.params if command else ()) if isinstance(parameter, click.Option)]
    flags = {str(option.name): max(option.opts, key=len) for option in options}
    flags |= {flag.lstrip("-").replace("-", "_"): flag for option in options for flag in option.opts}

    def as_option(match: re.Match[str]) -> str:
        flag = flags.get(match[1])
        return match[0] if flag is None else flag + (" " if match[2] else "")

    return re.sub(r"\b([a-z]\w*)=(?:True\b)?(?=(['\w])?)", as_option, message)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ltpost")
def cli() -> None:
    """Rebalance a trained classifier for rare classes, on cached features.

    \b
    ltpost extract --ckpt r50.pth --split val      run the backbone once: features/val.h5
    ltpost tnorm --tau-grid 0:2:0.1                choose tau on val, report on test
    ltpost compare                                 every method in one table
    ltpost best                                    the best head that val can tell
    ltpost demo                                    all of it on real images, in seconds
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the ``ltpost`` script; ends the process."""
    never_fail()
    signals.catch()
    try:
        code = cli.main(args=None if args is None else list(args), prog_name="ltpost", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(signals.say())
    except SystemError as error:  # a signal came as HDF5, say, called Python
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        sys.exit(signals.say())
    sys.exit(code if isinstance(code, int) else 0)
