"""Turns a network of several experts (RIDE, SADE, BalPoE) into a network with one linear classifier.

Logits are the mean over experts, so the joint classifier is :func:`ltpost.extract.joint.joined`: every method runs on
it as on any other head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ltpost.extract.joint import joined
from ltpost.extract.networks.backbone import Backbone
from ltpost.extract.networks.models import Normalise


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


def side_by_side(models: Sequence[nn.Module], normed: Sequence[str | None]) -> SideBySide:
    """One network from the networks of single experts.

    Args:
        models: each gives logits (n, C); its own classifier is taken out.
        normed: the name of each one's normalised classifier (LDAM's NormedLinear), or None.
    """
    heads = []
    for model, name in zip(models, normed, strict=True):
        backbone = Backbone(model, f"{name}.1" if name else None)
        heads.append(backbone.head)
        model.set_submodule(name or backbone.head_key, Normalise() if name else nn.Identity())
    joint = joined(heads)
    biases = [np.zeros(joint.num_classes, np.float32) if head.bias is None else head.bias for head in heads]
    fc = nn.Linear(joint.num_features, joint.num_classes)
    fc.weight.data = torch.from_numpy(joint.weight)
    fc.bias.data = torch.zeros(joint.num_classes) if joint.bias is None else torch.from_numpy(joint.bias)
    return SideBySide(list(models), fc, np.stack(biases))
