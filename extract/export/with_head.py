"""A network and a head as one module: images to the head's scores in one forward pass."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, UsageError
from ltpost.extract.export.torch_heads import module_of
from ltpost.extract.networks.classifier import head_key_of, keys_of, logits_of
from ltpost.extract.networks.taps import Tap, Taps, parse_taps
from ltpost.heads import Head, load_head


class WithHead(nn.Module):
    """A network whose scores are those of a head that was fitted to its cached features, logits and layers.

    The head may be of any kind that reads one network and one image: the network keeps its own classifier, and what the
    head reads of it is taken from the same forward pass. An ordinary module: it moves between devices, is traced,
    compiled, exported, and has a ``state_dict``.

    Args:
        model: the network, with its own classifier, as the features were extracted from it. It is put into eval mode.
        head: a head, or a head file; see :func:`ltpost.load_head`.
        head_key: name of the network's classifier, or of several; found where None, as by
            :func:`~ltpost.extract.extract_features`.
        layers: name of a layer that the head reads to its tap, such as "layer2@4"; needed only for files whose layers
            are not named so.
        flip: whether scores are those of the mean of an image and its mirror image (``tta="flip"``).

    Raises:
        UsageError: the network has no such module; its classifier cannot be told.
        DataError: the head needs more than one network and one image, or another number of features.

    Example::

        model = torchvision.models.resnet50()
        model.load_state_dict(torch.load("r50.pth"))
        scores = WithHead(model, "heads/layers.safetensors")(images)  # (n, C)
    """

    def __init__(
        self,
        model: nn.Module,
        head: Head | str | os.PathLike[str],
        *,
        head_key: str | None = None,
        layers: Mapping[str, str] | None = None,
        flip: bool = False,
    ):
        super().__init__()
        known = load_head(head) if isinstance(head, (str, os.PathLike)) else head
        self.model, self.head, self.flip = model, module_of(known), flip
        self.head_key = head_key_of(model, head_key)
        self._classifiers: list[Any] = [model.get_submodule(key) for key in keys_of(self.head_key)]
        widths = [layer.weight.shape[1] for layer in self._classifiers]
        needed = getattr(known.linear() or known, "num_features", None)
        if needed is not None and not layers_of(known) and needed != sum(widths):
            raise DataError(
                f"the head takes {needed} features, but the classifier '{self.head_key}' of the network takes "
                f"{sum(widths)}; name another with head_key="
            )
        self.taps = taps_of(known, layers or {})
        self._taps = Taps(model, list(dict.fromkeys(self.taps.values())))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, channels, h, w) as the network takes them to scores (n, C) float32."""
        return self.head(*self.inputs(images))

    def inputs(self, images: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What the head reads: features (n, D), logits (n, C) of the network's own classifier, layers by name."""
        count = images.shape[0]  # not len(): it may be a symbol
        if self.flip:
            images = torch.cat([images, images.flip(3)])
        seen: list[Tensor] = []
        with contextlib.ExitStack() as stack:
            for classifier in self._classifiers:
                hook = classifier.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
                stack.callback(hook.remove)
            taken = stack.enter_context(self._taps.kept(images.shape[0]))
            logits = logits_of(self.model(images)).float()
        if len(seen) != len(self._classifiers):
            raise DataError(
                f"classifier '{self.head_key}' must be called once per image, but was called {len(seen)} times; name "
                "another with head_key="
            )
        own = self._taps.complete(taken)
        layers = {name: own[tap.name] for name, tap in self.taps.items()}
        features = torch.cat(seen, dim=1).float()
        if not self.flip:
            return features, logits, layers
        means = {name: mean_of_pairs(layer, count) for name, layer in layers.items()}
        return mean_of_pairs(features, count), mean_of_pairs(logits, count), means


def layers_of(head: Head) -> list[str]:
    """The names of the layers that a head reads, in its own order."""
    found: dict[str, None] = {}

    def search(spec: Any) -> None:
        if isinstance(spec, Mapping):
            if spec.get("kind") == "changed" and spec.get("source"):
                found[str(spec["source"])] = None
            for value in spec.values():
                search(value)
        elif isinstance(spec, list):
            for value in spec:
                search(value)

    search(head.state()[0])
    return list(found)


def taps_of(head: Head, known: Mapping[str, str]) -> dict[str, Tap]:
    """Name of every layer that a head reads to its tap: the one that ``known`` has, else the name itself.

    Raises:
        UsageError: it is no tap, or several.
    """
    taps = {name: parse_taps(known.get(name, name)) for name in layers_of(head)}
    for name, several in taps.items():
        if len(several) != 1:
            raise UsageError(f"layers=: a layer is one tap, such as layer2@4, but '{name}' is {len(several)}")
    return {name: one for name, (one,) in taps.items()}


def stored_taps(feature_set: FeatureSet | None) -> dict[str, str]:
    """Name of a stored layer to its tap, where the file says so."""
    layers = {} if feature_set is None else feature_set.layers
    taps = {name: Tap.described(layer.attrs) for name, layer in layers.items()}
    return {name: tap.name for name, tap in taps.items() if tap is not None}


def averaged_variants(head: Head, attrs: Mapping[str, Any]) -> str:
    """The variants of an image whose mean a head reads, as ``tta`` has them; "off" where it reads the image alone.

    Their mean is stored, or they are the views of which the head takes the mean.

    Args:
        head: that was fitted to a feature file.
        attrs: the attributes of the file.
    """
    views = {"count": 1, "tta": "off", **json.loads(attrs.get("views", "{}"))}
    of_means = views["count"] == 1 or head.info.get("views") == "mean"
    return str(views["tta"]) if of_means else "off"


def mean_of_pairs(both: Tensor, count: int) -> Tensor:
    """The mean of rows of images and of their mirror images, (2 n, …) to (n, …)."""
    return (both[:count] + both[count:]) / 2
