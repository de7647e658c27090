"""``--config`` and ``--write-config`` of every command: its options from a TOML file, and the options of a run as one.

    seed = 1                    # for every command that has the option
    [compare]
    methods = ["tnorm", "la"]

The command line goes before the file, the section of a command before what stands above the sections.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from ltpost._version import __version__
from ltpost.data import distributed
from ltpost.errors import DataError, UsageError, did_you_mean
from ltpost.output import replacing

_OWN = ("config", "write_config")
_WRITE_TO = "ltpost.write_config"


def configurable(command: click.Command, all_commands: Callable[[], Mapping[str, click.Command]]) -> click.Command:
    """The command with both options; a command that has them is left as it is.

    Args:
        command: of ltpost.
        all_commands: name to command, for messages about names that no command has.
    """
    if any(parameter.name in _OWN for parameter in command.params) or command.callback is None:
        return command

    def read(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
        if path is not None:
            ctx.default_map = options_of(path, ctx, all_commands)

    def keep(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
        ctx.meta[_WRITE_TO] = path

    kind: Any = click.Path(path_type=Path)
    shared: dict[str, Any] = {"type": kind, "expose_value": False}
    command.params += [
        click.Option(["--config"], is_eager=True, callback=read, help="Take options from this TOML file.", **shared),
        click.Option(["--write-config"], callback=keep, help="Write the options of this run to a TOML file.", **shared),
    ]
    command.callback = _writing(command.callback)
    return command


def _writing(callback: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a command, which first writes its options where that was asked for."""

    @functools.wraps(callback)
    def run(*args: Any, **kwargs: Any) -> Any:
        ctx = click.get_current_context()
        path = ctx.meta.get(_WRITE_TO)
        if path is not None and distributed.rank() == 0:
            with replacing(path) as partial:
                partial.write_text(as_toml(ctx), encoding="utf-8")
        return callback(*args, **kwargs)

    return run


def options_of(
    path: Path, ctx: click.Context, all_commands: Callable[[], Mapping[str, click.Command]]
) -> dict[str, Any]:
    """The options that a file gives a command, by the names of its parameters.

    Raises:
        DataError: the file is not there, or is not TOML.
        UsageError: a section or an option that there is not, or a value that it cannot have.
    """
    if sys.version_info >= (3, 11):
        import tomllib  # not at the top: every command would wait for it
    else:
        import tomli as tomllib
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: must be a TOML file ({error}); use lines such as seed = 1") from None
    sections = {name: part for name, part in content.items() if isinstance(part, dict)}
    shared = {name: part for name, part in content.items() if name not in sections}
    commands = all_commands() if set(sections) | set(shared) else {}
    for name in sections:
        if name not in commands:
            raise UsageError(f"{path}: [{name}] is no command of ltpost{did_you_mean(name, commands)}")
    known, found = _flags(ctx.command), {}
    for name in shared:
        everywhere = {flag for command in commands.values() for flag in _flags(command)}
        if name not in everywhere:
            raise UsageError(f"{path}: {name} is no option of any command{did_you_mean(name, everywhere)}")
    section = str(ctx.info_name)
    for name, value in {**shared, **sections.get(section, {})}.items():
        if name in known:
            found[str(known[name].name)] = _value(path, name, value, known[name], ctx)
        elif name not in shared:
            raise UsageError(f"{path}: {name} is no option of {section}{did_you_mean(name, known)}")
    return found


def _flags(command: click.Command) -> dict[str, click.Option]:
    """The options of a command by their names without dashes in front."""
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    return {flag[2:]: one for one in options for flag in one.opts if flag.startswith("--") and one.name not in _OWN}


def _value(path: Path, name: str, value: Any, option: click.Option, ctx: click.Context) -> Any:
    """A value of the file as the option takes it: lists are parted by commas where it takes one text."""
    if isinstance(value, list) and not option.multiple:
        value = ",".join(str(part) for part in value)
    if value is True and not option.is_flag and isinstance(option.flag_value, str):
        value = option.flag_value  # as --calibration without a value
    if not isinstance(value, (bool, list)):
        value = str(value)
    try:
        option.type_cast_value(ctx, value)
    except click.BadParameter as error:
        raise UsageError(f"{path}: {name} has a value that it cannot have: {error.message}") from None
    return value


def as_toml(ctx: click.Context) -> str:
    """The options of a run; what was left to its default by the library is a comment."""
    lines = [f"# {ctx.command_path} --config FILE runs this again; ltpost {__version__}", "", f"[{ctx.info_name}]"]
    for option in ctx.command.params:
        if isinstance(option, click.Option) and option.name in ctx.params:
            name, value = max(option.opts, key=len)[2:], ctx.params[option.name]
            default = re.search(r"\[default: (.*)\]$", option.help or "")
            lines.append(
                f"# {name}: {default[1] if default else 'not given'}"
                if value is None or value == ()
                else f"{name} = {_in_toml(value)}"
            )
    return "\n".join(lines) + "\n"


def _in_toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_in_toml, value))}]"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False)
