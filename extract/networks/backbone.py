"""A model with its classifier, which turns images into features and logits.

The features are the input of the classifier module, which a forward pre-hook keeps. Before anything is written,
``verify`` shows that the classifier is linear in them and is the last step, z = x Wᵀ + b.

Some networks of timm (distilled ones, CrossViT) have several classifiers, each on features of its own, and average
their logits. This equals one classifier over their features side by side, as with experts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ltpost.errors import DataError, UsageError
from ltpost.extract.joint import joined
from ltpost.extract.messages import first_line
from ltpost.extract.networks.taps import Taps
from ltpost.heads import LinearHead

#: names of the classifiers of usual architectures, or of the block whose last layer they are
USUAL_NAMES = ("fc", "linear", "classifier", "head", "heads", "last_linear")
#: words in torch's error when a process that decodes images has died
WORKER_DIED = "DataLoader worker"
AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Outputs(NamedTuple):
    """What a network gives for n images, all float32.

    Attributes:
        features: (n, D), what enters the classifier.
        logits: (n, C).
        layers: name of each tap to (n, D_l).
    """

    features: Tensor
    logits: Tensor
    layers: dict[str, Tensor]


class Backbone:
    """A model in eval mode whose classifier is known.

    ``head`` is its joint classifier, (C, D). ``taps``, which may be set later, are the layers that ``outputs`` gives.

    Args:
        model: takes images (n, channels, h, w), gives logits (n, C).
        head_key: name of its classifier module, an nn.Linear, or several with commas between; None finds it.
        device: the device that it runs on.
        amp: "off", "bf16" or "fp16".
        gated: whether the logits are known not to be linear in the features.
        compiled: whether to run it through torch.compile.

    Raises:
        UsageError: no classifier is possible, or several are; the message lists them.
    """

    def __init__(
        self,
        model: nn.Module,
        head_key: str | None = None,
        *,
        device: str | torch.device = "cpu",
        amp: str = "off",
        gated: bool = False,
        compiled: bool = False,
    ):
        if amp not in AMP_DTYPES:
            raise UsageError(f"amp= must be off, bf16 or fp16, but is '{amp}'")
        self.model = model.eval().to(device)
        if any(module.training for module in model.modules()):
            raise DataError(f"{type(model).__name__}: model.eval() leaves a part of it in training mode")
        self.device = torch.device(device)
        self.amp = AMP_DTYPES[amp]
        self.gated = gated
        self.taps = Taps(model, [])
        self.head_key = head_key_of(model, head_key)
        self.classifiers: list[nn.Linear] = [model.get_submodule(key) for key in keys_of(self.head_key)]  # type: ignore[misc]
        self._heads = [
            LinearHead(layer.weight.detach().float().cpu().numpy(), _bias_of(layer)) for layer in self.classifiers
        ]
        if len({head.num_classes for head in self._heads}) > 1:
            raise DataError(f"classifiers '{self.head_key}' must have equally many outputs; choose one with head_key=")
        self.head = joined(self._heads)
        self._weight = torch.from_numpy(self.head.weight).to(device)
        self._bias = None if self.head.bias is None else torch.from_numpy(self.head.bias).to(device)
        self._inputs: list[list[Tensor]] = [[] for _ in self.classifiers]
        self._hooks = [lambda _, args, kept=kept: kept.append(args[0]) for kept in self._inputs]
        self._compiled = torch.compile(self._forward, dynamic=False) if compiled else None
        self._compiled_for = 0  # images

    @property
    def num_experts(self) -> int:
        """The number of classifiers, where each has equally many columns of the features; else 1."""
        return len(self.classifiers) if len({layer.in_features for layer in self.classifiers}) == 1 else 1

    @property
    def expert_bias(self) -> NDArray[np.float32] | None:
        """The bias of each expert, (E, C); None for one classifier."""
        if self.num_experts == 1 or self.head.bias is None:
            return None
        zero = np.zeros_like(self.head.bias)
        return np.stack([zero if head.bias is None else head.bias for head in self._heads])

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, channels, h, w) on the device to features (n, D) and logits (n, C); see :meth:`outputs`."""
        return self.outputs(images)[:2]

    def outputs(self, images: Tensor) -> Outputs:
        """Images (n, channels, h, w) on the device to features, logits and layers, in one forward pass.

        Raises:
            DataError: the model cannot take the images, or does not use its classifier once per batch.
        """
        if self._compiled is None:
            return self.eager(images)
        if self._compiled_for:
            short = max(0, self._compiled_for - len(images))  # another size would be compiled anew
            filled = nn.functional.pad(images, (0, 0, 0, 0, 0, 0, 0, short))
            features, logits, layers = self._run(self._compiled, filled)
            some = slice(0, len(images))
            return Outputs(features[some], logits[some], {name: layer[some] for name, layer in layers.items()})
        return self._compile(images, self.eager(images))

    def eager(self, images: Tensor) -> Outputs:
        """As :meth:`outputs`, without torch.compile."""
        try:
            return self._run(self._forward, images)
        except torch.cuda.OutOfMemoryError:
            raise DataError(f"{self.device}: not enough memory for {len(images)} images; lower batch_size=") from None
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            if WORKER_DIED in str(error):  # torch raises it at any line
                raise
            raise DataError(
                f"the model cannot take images of shape {tuple(images.shape[1:])} ({first_line(error)})"
            ) from None

    def _run(self, forward: Callable[[Tensor], Any], images: Tensor) -> Outputs:
        for kept in self._inputs:
            kept.clear()
        with contextlib.ExitStack() as stack:
            for layer, hook in zip(self.classifiers, self._hooks, strict=True):
                stack.callback(layer.register_forward_pre_hook(hook).remove)
            stack.enter_context(self.taps.kept(len(images)))
            stack.enter_context(torch.inference_mode())
            stack.enter_context(torch.autocast(self.device.type, self.amp) if self.amp else contextlib.nullcontext())
            inputs, layers, output = forward(images)
        for key, layer, seen in zip(keys_of(self.head_key), self.classifiers, inputs, strict=True):
            if len(seen) != 1 or seen[0].shape != (len(images), layer.in_features):
                shapes_seen = f"with shapes {[tuple(x.shape) for x in seen]}" if seen else "never"
                raise DataError(
                    f"classifier '{key}' must be called once with (n, {layer.in_features}), but was "
                    f"called {shapes_seen}; name another with head_key="
                )
        features = torch.cat([seen[0] for seen in inputs], dim=1)
        return Outputs(features.float(), logits_of(output).float(), self.taps.complete(layers))

    def _forward(self, images: Tensor) -> tuple[list[list[Tensor]], dict[str, Tensor], Any]:
        """The inputs of each classifier, what the taps gave, and the output of the model."""
        output = self.model(images)
        return [list(kept) for kept in self._inputs], dict(self.taps.now), output

    def _compile(self, images: Tensor, eager: Outputs) -> Outputs:
        """Run the first batch again with the compiled model, and compare the results.

        Raises:
            UsageError: torch.compile cannot compile the model, or the compiled model gives other results.
        """
        assert self._compiled is not None
        try:
            ours = self._run(self._compiled, images)
        except Exception as error:  # noqa: BLE001,RUF100 - a compiler's errors are of any kind
            raise UsageError(
                f"compile=: torch.compile cannot compile this model here ({first_line(error)}); leave the option out"
            ) from None
        pairs = {"features": ours.features, "logits": ours.logits, **ours.layers}
        for (name, one), other in zip(
            pairs.items(), (eager.features, eager.logits, *eager.layers.values()), strict=True
        ):
            difference = float((one - other).abs().max())
            if not difference <= (0.05 if self.amp else 1e-3) * max(1.0, float(other.abs().max())):
                raise UsageError(
                    f"compile=: the compiled model gives other {name} than the model (by {difference:.3g}); leave the "
                    "option out"
                )
        self._compiled_for = len(images)
        return ours

    def linear(self, features: Tensor) -> Tensor:
        """Logits x Wᵀ + b in float32. A reader of the file computes the same."""
        with torch.inference_mode():
            return torch.nn.functional.linear(features, self._weight, self._bias)

    def verify(self, features: Tensor, logits: Tensor) -> None:
        """Check on a batch that the classifier is linear in the features and the model's last step.

        Raises:
            DataError: the features are not finite, or x Wᵀ + b is not the logits.
        """
        if not torch.isfinite(features).all():
            raise DataError("the features must be finite, but some are NaN or infinite; try amp=off")
        if self.gated:
            return
        ours = self.linear(features)
        if ours.shape != logits.shape:
            raise DataError(
                f"classifier '{self.head_key}' has {ours.shape[1]} outputs, but the model gives logits of shape "
                f"{tuple(logits.shape)}; name another with head_key="
            )
        tolerance = (0.05 if self.amp else 1e-3) * max(1.0, float(logits.abs().max()))
        difference = float((ours - logits).abs().max())
        if not difference <= tolerance:
            raise DataError(
                f"features @ W.T + b of classifier '{self.head_key}' must reproduce the model's logits, but differ "
                f"by {difference:.3g}: the model scales, normalises or averages its logits, or this is not its last "
                "layer; name another with head_key="
            )


def _bias_of(layer: nn.Linear) -> NDArray[np.float32] | None:
    return None if layer.bias is None else layer.bias.detach().float().cpu().numpy()


def logits_of(output: Any) -> Tensor:
    """The logits (n, C) in what a model returns: a tensor, or something with ``logits``."""
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor) or output.ndim != 2:
        shapes_seen = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise DataError(f"the model must return logits (n, C) or something with .logits, but returns {shapes_seen}")
    return output


def keys_of(head_key: str) -> list[str]:
    """The names in ``head_key``: one, or several with commas between."""
    return [name.strip().removesuffix(".weight").removesuffix(".bias") for name in head_key.split(",")]


def head_key_of(model: nn.Module, head_key: str | None) -> str:
    """The name of the classifier module, or of several; see :class:`Backbone`."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if head_key is not None:
        wanted = keys_of(head_key)
        if not set(wanted) <= set(linear):
            raise UsageError(f"head_key={head_key}: the model has no such nn.Linear; {_table(linear)}")
        return ",".join(wanted)
    if not linear:
        raise UsageError("the model has no nn.Linear that could be its classifier (a convolution or cosine head?)")
    declared = getattr(model, "pretrained_cfg", None) or {}
    declared = declared.get("classifier") if isinstance(declared, Mapping) else None
    declared = (declared,) if isinstance(declared, str) else tuple(declared or ())
    if declared and set(declared) <= set(linear):
        return ",".join(declared)
    if len(linear) == 1:
        return next(iter(linear))
    usual = {name.split(".")[0]: name for name in linear if name.split(".")[0] in USUAL_NAMES}  # the last of a block
    if len(usual) == 1:
        return next(iter(usual.values()))
    raise UsageError(f"the model has several possible classifiers; choose one with head_key=; {_table(linear)}")


def _table(linear: Mapping[str, nn.Linear]) -> str:
    rows = [
        f"  {name}  {module.out_features} x {module.in_features}{'' if module.bias is not None else ', no bias'}"
        for name, module in linear.items()
    ]
    return "candidates (name, outputs x inputs):\n" + "\n".join(rows[-12:])


def choose_device(device: str, local: int | None = None) -> torch.device:
    """The device to run on. ``auto`` is the CUDA device of this process's number, else Apple's or the CPU."""
    if device == "auto" and torch.cuda.is_available():
        device = f"cuda:{(local or 0) % torch.cuda.device_count()}"
    elif device == "auto":
        device = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        if chosen.type == "meta":
            raise RuntimeError("holds no numbers")
    except RuntimeError:
        raise UsageError(f"device= must be auto, cpu, cuda, cuda:1, …, but is '{device}'") from None
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"device={device}: there are {torch.cuda.device_count()} CUDA devices here")
    try:
        torch.zeros(1, device=chosen)
    except Exception as error:  # noqa: BLE001,RUF100 - a device that is not here raises errors of any kind
        raise UsageError(f"device= must be a device of this machine, but is '{device}' ({first_line(error)})") from None
    return chosen
