"""What users read: lines on stderr, and parts of messages."""

from __future__ import annotations

import sys

from ltpost.errors import UsageError


def tell(message: str) -> None:
    """A line on stderr."""
    print(f"ltpost: {message}", file=sys.stderr)  # noqa: T201


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def some(keys: list[str]) -> str:
    """The first few of many names."""
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")


def need(package: str, what: str) -> UsageError:
    """The error for a missing optional package."""
    return UsageError(f'{what} needs {package}; install it with: pip install "ltpost[vision]"')
