"""What users read: lines on stderr, and parts of messages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ltpost.cli import cli, in_options
from ltpost.errors import DataError, LtpostError, UsageError, first_line


def tell(message: str) -> None:
    """Print a line on stderr; a command prints its options in the place of arguments of Python."""
    context = click.get_current_context(silent=True)
    if context is not None and context.parent is not None and context.find_root().command is cli:
        message = in_options(message, cli, context.parent)
    print(f"ltpost: {message}", file=sys.stderr)  # noqa: T201


def some(keys: list[str]) -> str:
    """The first few of many names."""
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")


def need(package: str, what: str, extra: str = "vision") -> UsageError:
    """The error for a missing optional package, which an extra of ltpost brings."""
    return UsageError(f'{what} needs {package}; install it with: pip install "ltpost[{extra}]"')


@contextmanager
def reading(file: Path, form: str) -> Iterator[None]:
    """Turn any error that a library raises on a damaged file into one sentence with the name of the file.

    Args:
        file: the file that is read.
        form: the kind of file, for example "an .npz file".

    Raises:
        DataError: the block raised an error that is not ltpost's own.
    """
    try:
        yield
    except LtpostError:
        raise
    except OSError as error:
        raise DataError(f"{file}: cannot be read as {form} ({error.strerror or first_line(error)})") from None
    except Exception as error:  # noqa: BLE001,RUF100 - damaged files raise errors of any kind in the libraries
        raise DataError(f"{file}: cannot be read as {form} ({first_line(error)})") from None
