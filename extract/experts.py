"""Networks of several experts (RIDE, SADE), as one linear classifier.

Logits are the mean over experts, z = 1/E Σ_e (W_e x_e + b_e). That is W x + b for the features of all experts side by
side, x = [x_1, …, x_E], with W = [W_1, …, W_E] / E and b the mean of b_e: every method runs on it as on any other head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ltpost.extract.architectures import Normalise
from ltpost.extract.checkpoints import Checkpoint
from ltpost.extract.preprocess import Preprocess
from ltpost.heads import LinearHead


class SideBySide(nn.Module):
    """The features of all experts, then their joint classifier ``fc``.

    NOTE[DIFF] The stages that experts share are computed once for each of them.
    """

    def __init__(self, experts: list[nn.Module], fc: nn.Linear, expert_bias: NDArray[np.float32]):
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.fc = fc
        self.expert_bias = expert_bias  # (E, C)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, h, w) to logits (n, C)."""
        logits: Tensor = self.fc(torch.cat([expert(images) for expert in self.experts], dim=1))
        return logits


def open_all(checkpoints: list[Checkpoint], arch: str | None, head_scale: float) -> tuple[str, nn.Module, Preprocess]:
    """As ``open_model``, for the experts of one file together."""
    from ltpost.extract.backbone import Backbone
    from ltpost.extract.extraction import open_model

    experts, weights, biases = [], [], []
    for checkpoint in checkpoints:
        arch, model, preprocess = open_model(checkpoint, arch, None, head_scale)
        backbone = Backbone(model, f"{checkpoint.normed}.1" if checkpoint.normed else None)
        head = backbone.head
        weights.append(torch.from_numpy(head.weight))
        biases.append(torch.zeros(head.num_classes) if head.bias is None else torch.from_numpy(head.bias))
        name = checkpoint.normed or backbone.head_key
        model.set_submodule(name, Normalise() if checkpoint.normed else nn.Identity())
        experts.append(model)
    fc = nn.Linear(sum(weight.shape[1] for weight in weights), len(weights[0]))
    fc.weight.data = torch.cat(weights, dim=1) / len(experts)
    fc.bias.data = torch.stack(biases).mean(dim=0)
    assert arch is not None
    return arch, SideBySide(experts, fc, torch.stack(biases).numpy()), preprocess


def parts_of(head: LinearHead, widths: Sequence[int]) -> list[tuple[slice, LinearHead]]:
    """The heads whose mean is ``head``, each with the columns of its features.

    Args:
        head: over the features of all, side by side.
        widths: how many columns each has; their sum is D.

    Returns:
        For each its columns and a head: that part of the weight times E, and the whole bias.
    """
    stops = np.cumsum(widths)
    columns = [slice(int(stop - width), int(stop)) for stop, width in zip(stops, widths, strict=True)]
    return [(part, LinearHead(head.weight[:, part] * len(widths), head.bias)) for part in columns]
