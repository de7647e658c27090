"""The layers of an extraction: which there are, and what they cost. Nothing is stored here."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ltpost.errors import LtpostError
from ltpost.extract.data.source import Source
from ltpost.extract.networks.auto_taps import tap
from ltpost.extract.networks.backbone import Backbone
from ltpost.extract.pixels.views import Views
from ltpost.extract.run.loop import Batches
from ltpost.extract.run.partial import LayerSpec, Spec

_MOST_TRIED = 64  # rows, to find one whose image can be read


def tapped(backbone: Backbone, layers: str, dtype: str, source: Source, shown: Views) -> dict[str, LayerSpec]:
    """Let the network give the layers that ``layers`` names; see :func:`~ltpost.extract.networks.auto_taps.tap`."""
    taps = tap(backbone, layers, _first_images(source, shown).to(backbone.device))
    return {one.name: LayerSpec(width, dtype, one.attrs) for one, width in taps.items()}


def _first_images(source: Source, shown: Views) -> Tensor:
    """An image that can be read, and its mirror image, as the network takes them; black ones where none can."""
    total = len(source) * shown.count
    side = shown.preprocess.crop or 32
    pixels = torch.zeros(1, side, side, 3, dtype=torch.uint8)
    try:
        for row in range(min(total, _MOST_TRIED)):
            batch = Batches(source, shown, 1, [row], total)[0]
            if isinstance(batch, LtpostError):
                raise batch
            if not batch[2]:
                pixels = batch[1][:1]
                break
    finally:
        source.images.close()
    images: Tensor = shown.preprocess.normalise(pixels)
    return torch.cat([images, images.flip(3)])


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
