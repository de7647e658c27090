"""The two kinds of error that a user can cause; both are one clear sentence.

A message names the file, the dataset or option, what is required, the value that was found, and what to do.
Commands print it after ``ltpost:`` and exit with ``exit_code``; a notebook sees the exception.
"""

from __future__ import annotations

from collections.abc import Iterable


class LtpostError(Exception):
    """Base of every error that ltpost raises on purpose."""

    exit_code = 1


class DataError(LtpostError):
    """A file or an array is not what it has to be (exit code 1)."""


def no_features(name: str) -> DataError:
    """The error of a file ``name`` that holds logits only."""
    return DataError(f"{name}: holds no 'features', only logits; extract them with ltpost extract")


class UsageError(LtpostError):
    """An option or an argument cannot be used as given (exit code 2)."""

    exit_code = 2


def listed_names(begin: str, names: Iterable[str]) -> str:
    """``begin`` and the names, for a message that says what exists.

    >>> listed_names("it has", ["bias", "grid"])
    'it has bias and grid'
    >>> listed_names("it has", [])
    'it has none'
    """
    *first, last = [*names] or ["none"]
    return f"{begin} {', '.join(first)} and {last}" if first else f"{begin} {last}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that is most like ``name``, as the end of a message; "" where none is.

    >>> did_you_mean("tnrom", ["crt", "tnorm"])
    '; did you mean tnorm?'
    """
    import difflib  # not at the top: every command would wait for it

    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
