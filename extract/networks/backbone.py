"""A model with its classifier, which turns inputs into features and logits.

The features are the input of the classifier module, which a forward pre-hook keeps. Before anything is written,
``verify`` shows that the classifier is linear in them and is the last step, z = x Wᵀ + b. A language model
may apply its classifier to every token and answer with one of them; the features are those of that token.

Some networks of timm (distilled ones, CrossViT) have several classifiers, each on features of its own, and average
their logits. This equals one classifier over their features side by side, as with experts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ltpost.data.tensors import find_device
from ltpost.errors import DataError, UsageError, first_line
from ltpost.extract.data.batches import Arguments
from ltpost.extract.joint import joined
from ltpost.extract.networks.classifier import head_key_of, keys_of, logits_of, rows_of_tokens
from ltpost.extract.networks.taps import Taps
from ltpost.heads import LinearHead

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
        model: gives logits (n, C).
        head_key: name of its classifier module, or of several with commas between; None finds it.
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
        self.classifiers = [model.get_submodule(key) for key in keys_of(self.head_key)]
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
        self._compiled = torch.compile(self._forward) if compiled else None
        self._compiled_for = 0  # rows

    @property
    def num_experts(self) -> int:
        """The number of classifiers, where each has equally many columns of the features; else 1."""
        return len(self.classifiers) if len({head.num_features for head in self._heads}) == 1 else 1

    @property
    def expert_bias(self) -> NDArray[np.float32] | None:
        """The bias of each expert, (E, C); None for one classifier."""
        if self.num_experts == 1 or self.head.bias is None:
            return None
        zero = np.zeros_like(self.head.bias)
        return np.stack([zero if head.bias is None else head.bias for head in self._heads])

    def __call__(self, inputs: Tensor | Arguments) -> tuple[Tensor, Tensor]:
        """Inputs on the device (n, …) to features (n, D) and logits (n, C), float32; see :meth:`outputs`."""
        return self.outputs(Arguments.of(inputs) if isinstance(inputs, Tensor) else inputs)[:2]

    def outputs(self, inputs: Arguments) -> Outputs:
        """Inputs on the device to features, logits and layers, in one forward pass.

        Raises:
            DataError: the model cannot take the inputs, or does not use its classifier once per batch.
        """
        if self._compiled is None:
            return self.eager(inputs)
        if self._compiled_for:
            longest = max(self._compiled_for, inputs.rows)  # a smaller batch would be compiled anew
            features, logits, layers = self._run(self._compiled, inputs.filled(longest))
            some = slice(0, inputs.rows)
            return Outputs(features[some], logits[some], {name: layer[some] for name, layer in layers.items()})
        return self._compile(inputs, self.eager(inputs))

    def eager(self, inputs: Arguments) -> Outputs:
        """As :meth:`outputs`, without torch.compile."""
        try:
            return self._run(self._forward, inputs)
        except torch.cuda.OutOfMemoryError:
            raise DataError(f"{self.device}: not enough memory for {inputs.rows} rows; lower batch_size=") from None
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            if WORKER_DIED in str(error):  # torch raises it at any line
                raise
            raise DataError(f"the model cannot take {inputs} ({first_line(error)})") from None

    def _run(self, forward: Callable[..., Any], inputs: Arguments) -> Outputs:
        for kept in self._inputs:
            kept.clear()
        with contextlib.ExitStack() as stack:
            for layer, hook in zip(self.classifiers, self._hooks, strict=True):
                stack.callback(layer.register_forward_pre_hook(hook).remove)
            stack.enter_context(self.taps.kept(inputs.rows))
            stack.enter_context(torch.no_grad())  # not inference mode: what a model keeps of it could not be trained on
            stack.enter_context(torch.autocast(self.device.type, self.amp) if self.amp else contextlib.nullcontext())
            entered, layers, output = forward(*inputs.args, **inputs.kwargs)
        logits = logits_of(output, self.head.num_classes).float()
        features = []
        for key, head, seen in zip(keys_of(self.head_key), self._heads, entered, strict=True):
            wanted = (inputs.rows, head.num_features)
            if len(seen) == 1 and seen[0].ndim == 3 and seen[0].shape[::2] == wanted and len(self._heads) == 1:
                seen = [rows_of_tokens(seen[0].float(), logits, self.linear)]
            if len(seen) != 1 or seen[0].shape != wanted:
                shapes_seen = f"with shapes {[tuple(x.shape) for x in seen]}" if seen else "never"
                raise DataError(
                    f"classifier '{key}' must be called once with (n, {head.num_features}), but was "
                    f"called {shapes_seen}; name another with head_key="
                )
            features.append(seen[0])
        return Outputs(torch.cat(features, dim=1).float(), logits, self.taps.complete(layers))

    def _forward(self, *args: Any, **kwargs: Any) -> tuple[list[list[Tensor]], dict[str, Tensor], Any]:
        """The inputs of each classifier, what the taps gave, and the output of the model."""
        output = self.model(*args, **kwargs)
        return [list(kept) for kept in self._inputs], dict(self.taps.now), output

    def _compile(self, inputs: Arguments, eager: Outputs) -> Outputs:
        """Run the first batch again with the compiled model, and compare the results.

        Raises:
            UsageError: torch.compile cannot compile the model, or the compiled model gives other results.
        """
        assert self._compiled is not None
        try:
            ours = self._run(self._compiled, inputs)
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
        self._compiled_for = inputs.rows
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


def _bias_of(layer: nn.Module) -> NDArray[np.float32] | None:
    bias = getattr(layer, "bias", None)
    return None if bias is None else bias.detach().float().cpu().numpy()


def choose_device(device: str, local: int | None = None) -> torch.device:
    """The device to run on. ``auto`` is the CUDA device of this process's number, else Apple's or the CPU."""
    if device == "auto" and torch.cuda.is_available():
        device = f"cuda:{(local or 0) % torch.cuda.device_count()}"
    elif device == "auto":
        device = "mps" if torch.backends.mps.is_available() else "cpu"
    return find_device(device)
