"""Sections of a page of results: each is written by the command that measures it, and leaves the others alone."""

from __future__ import annotations

import re
from pathlib import Path


def section(page: Path, title: str) -> str:
    """What stands below ``## title``; empty where it is not there."""
    text = page.read_text() if page.exists() else ""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def write_section(page: Path, title: str, body: str) -> None:
    """Put ``body`` below ``## title``, at the end of the page where there is no such title yet."""
    text = page.read_text() if page.exists() else ""
    new = f"## {title}\n\n{body.strip()}\n\n"
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    text = pattern.sub(lambda _: new, text) if pattern.search(text) else f"{text.rstrip()}\n\n{new}"
    page.write_text(text.strip() + "\n")
