"""A section for a model card: how the classifier was rebalanced, by which method, and what that changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ltpost import methods
from ltpost._version import __version__
from ltpost.data.features import FeatureSet
from ltpost.data.folder import FeatureFolder
from ltpost.data.load import load
from ltpost.evaluation import evaluate_heads
from ltpost.heads import Head
from ltpost.output import replacing
from ltpost.report.results import Style
from ltpost.tables import render

TITLE = "## Rebalanced classifier"


def write_card(head: Head, name: str, target: Path, ckpt: Any, features: Any) -> Path:
    """Write :func:`card` beside an exported file, or into the README.md of a folder, where it replaces an earlier one.

    Args:
        head: that was exported.
        name: of it.
        target: the exported file, or folder.
        ckpt: the checkpoint that it came from, or None.
        features: a feature file, a folder of them, a feature set, or None.

    Returns:
        The file of the card.
    """
    place = target / "README.md" if target.is_dir() else target.with_name(f"{target.name.split('.')[0]}.md")
    before = place.read_text(encoding="utf-8") if target.is_dir() and place.is_file() else ""
    before, _, after = before.partition(TITLE)
    rest = after.partition("\n## ")[2]  # sections that follow
    source = Path(ckpt).name if isinstance(ckpt, str | os.PathLike) else ""
    text = card(head, name, source, _rows(features))
    parts = [before.rstrip(), text, f"## {rest}" if rest else ""]
    with replacing(place) as partial:
        partial.write_text("\n\n".join(part for part in parts if part).rstrip() + "\n", encoding="utf-8")
    return place


def card(head: Head, name: str, source: str = "", rows: FeatureSet | None = None) -> str:
    """What was done, in Markdown.

    Args:
        head: with its ``info``.
        name: of it.
        source: the checkpoint whose classifier it replaces, or "".
        rows: to evaluate it on, beside the joint classifier; or None.
    """
    info, key = head.info, str(head.info.get("method", ""))
    of = f" of `{source}`" if source else ""
    lines = [
        TITLE,
        "",
        f"The classifier{of} was replaced after training, with ltpost {__version__}; the rest is unchanged.",
    ]
    if key in methods.all_keys():
        method = methods.get(key)
        lines += ["", f"- Method: {method.title} (`{key}`), `{method.equation}`, {method.source}"]
    if info.get("selected_on"):
        chosen = {str(info.get("parameter")): info.get("params", {}).get(info.get("parameter"))}
        values = ", ".join(f"{one} {value:.4g}" for one, value in chosen.items() if isinstance(value, float))
        lines.append(
            f"- Chosen on {info['selected_on']} by {info.get('select') or 'fitting'}{': ' if values else ''}{values}"
        )
    if info.get("fitted_to"):
        lines.append(f"- Fitted to: {', '.join(info['fitted_to'])}")
    if "temperature" in info:
        lines.append(f"- Calibrated probabilities: softmax(logits / {info['temperature']:.4g})")
    if "signature" in info:
        lines.append(f"- Signature: `{info['signature']}`")
    if rows is not None and len(rows):
        report = evaluate_heads({name: head}, rows)
        lines += ["", "Accuracy in %, ± to the farther end of a 95 % interval:", ""]
        lines.append(render(report.blocks(Style(width=None)), "markdown"))
        if rows.class_counts is not None:
            lines += ["", f"Groups: {rows.shot_groups()}."]
    return "\n".join(lines)


def _rows(features: Any) -> FeatureSet | None:
    """The rows that figures are given on: test where there is one, else val."""
    if features is None or isinstance(features, FeatureSet):
        return features
    path = Path(features)
    if path.is_dir():
        return FeatureFolder(path).reported()
    return load(path) if path.is_file() else None
