"""The layers of an extraction: which there are, and what they cost. Nothing is stored here."""

from __future__ import annotations

from pathlib import Path

from ltpost.extract.networks.auto_taps import tap
from ltpost.extract.networks.backbone import Backbone
from ltpost.extract.run.feed import Feed
from ltpost.extract.run.partial import LayerSpec, Spec


def tapped(backbone: Backbone, layers: str, dtype: str, feed: Feed) -> dict[str, LayerSpec]:
    """Let the network give the layers that ``layers`` names; see :func:`~ltpost.extract.networks.auto_taps.tap`."""
    taps = tap(backbone, layers, feed.example(backbone.device))
    return {one.name: LayerSpec(width, dtype, one.attrs) for one, width in taps.items()}


def cost_of_layers(spec: Spec, target: Path) -> str:
    """What the layers add, in words for the time before the first row is computed."""
    total, width = len(spec.labels), sum(layer.width for layer in spec.layers.values())
    with_layers, without = (total * spec.row_bytes(layers=counted) / 2**20 for counted in (True, False))
    names = ", ".join(f"{name} ({layer.width:,})" for name, layer in spec.layers.items())
    kind = next(iter(spec.layers.values())).dtype
    return (
        f"layers {names}: {width:,} more numbers a row, {kind}, from the same forward pass; {target.name} takes "
        f"{with_layers:,.1f} MiB, without them {without:,.1f} MiB"
    )
