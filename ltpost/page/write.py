"""Put the numbers, the scripts and the style into one HTML file."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from ltpost.errors import UsageError
from ltpost.experiment import Experiment
from ltpost.outcome import Outcome
from ltpost.output import replacing
from ltpost.page.content import content
from ltpost.page.packed import safe_json

#: each uses those before it
SCRIPTS = ("data.js", "elements.js", "chart.js", "table.js", "classes.js", "slider.js", "heads.js", "page.js")


def write_report(
    experiment: Experiment,
    outcomes: Sequence[Outcome],
    path: str | os.PathLike[str] = "report.html",
    *,
    title: str = "Rebalanced classifiers",
) -> Path:
    """Write a report as one HTML file that works offline: tables, pictures and a slider over what was chosen.

    Args:
        experiment: the splits that the methods ran on.
        outcomes: what they gave, as :func:`ltpost.compare` returns it.
        path: of the file.
        title: of the page.

    Returns:
        ``path``.

    Raises:
        UsageError: no outcomes.
        DataError: the file cannot be written.

    Cost: for every head three to five passes over the reported rows. The slider takes about 2 bytes for each row of the
    split of the choice and each method that has a curve.
    """
    if not outcomes:
        raise UsageError("outcomes= is empty, so there is nothing to report")
    numbers = safe_json(content(experiment, outcomes, title))
    with replacing(path) as partial:
        partial.write_text(page(title, numbers), encoding="utf-8")
    return Path(path)


def page(title: str, numbers: str) -> str:
    """The HTML around numbers in JSON. The browser is told to run this script alone and to load nothing."""
    folder = files("ltpost.page")
    script = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n{script}'
    parts = {
        "title": html.escape(title),
        "style": folder.joinpath("page.css").read_text(encoding="utf-8"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "data": numbers,
    }
    template = folder.joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
