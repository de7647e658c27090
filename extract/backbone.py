"""A model and its classifier: images to features and logits.

The features are what enters the classifier module (a forward pre-hook on it); ``verify`` shows that the classifier is
linear in them and is the last step, z = x Wᵀ + b, before anything is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ltpost.errors import DataError, UsageError
from ltpost.head import LinearHead

#: how the classifiers of the usual architectures are called, or the block whose last layer they are
USUAL_NAMES = ("fc", "linear", "classifier", "head", "heads", "last_linear")
AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Backbone:
    """A model in eval mode whose classifier is known.

    Args:
        model: takes images (n, channels, h, w), gives logits (n, C).
        head_key: name of its classifier module, an nn.Linear; found where None.
        device: where it runs.
        amp: "off", "bf16" or "fp16".
        gated: whether the logits are known not to be linear in the features.

    Raises:
        UsageError: no or several classifiers are possible; the message has the table.
    """

    def __init__(
        self,
        model: nn.Module,
        head_key: str | None = None,
        *,
        device: str | torch.device = "cpu",
        amp: str = "off",
        gated: bool = False,
    ):
        if amp not in AMP_DTYPES:
            raise UsageError(f"--amp must be off, bf16 or fp16, but is '{amp}'")
        self.model = model.eval().to(device)
        if any(module.training for module in model.modules()):
            raise DataError(f"{type(model).__name__}: model.eval() leaves a part of it in training mode")
        self.device = torch.device(device)
        self.amp = AMP_DTYPES[amp]
        self.gated = gated
        self.head_key = head_key_of(model, head_key)
        self.classifier: nn.Linear = model.get_submodule(self.head_key)  # type: ignore[assignment]

    @property
    def head(self) -> LinearHead:
        """The joint classifier, (C, D)."""
        bias = self.classifier.bias
        weight = self.classifier.weight.detach().float().cpu().numpy()
        return LinearHead(weight, None if bias is None else bias.detach().float().cpu().numpy())

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, channels, h, w) on the device to features (n, D) and logits (n, C), float32.

        Raises:
            DataError: the model cannot take the images, or does not use its classifier once per batch.
        """
        inputs: list[Tensor] = []
        hook = self.classifier.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        amp = torch.autocast(self.device.type, self.amp) if self.amp else contextlib.nullcontext()
        try:
            with torch.inference_mode(), amp:
                output = self.model(images)
        except torch.cuda.OutOfMemoryError:
            raise DataError(f"{self.device}: not enough memory for {len(images)} images; lower --batch-size") from None
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"the model cannot take images of shape {tuple(images.shape[1:])} ({reason})") from None
        finally:
            hook.remove()
        if len(inputs) != 1 or inputs[0].shape != (len(images), self.classifier.in_features):
            found = f"with shapes {[tuple(x.shape) for x in inputs]}" if inputs else "never"
            raise DataError(
                f"classifier '{self.head_key}' must be called once with (n, {self.classifier.in_features}), but was "
                f"called {found}; name another with --head-key"
            )
        return inputs[0].float(), _logits_of(output).float()

    def linear(self, features: Tensor) -> Tensor:
        """Logits x Wᵀ + b in float32, the logits that a reader of the file computes."""
        bias = self.classifier.bias
        with torch.inference_mode():
            return torch.nn.functional.linear(
                features, self.classifier.weight.float(), None if bias is None else bias.float()
            )

    def verify(self, features: Tensor, logits: Tensor) -> None:
        """Check on a batch that the classifier is linear in the features and the model's last step.

        Raises:
            DataError: the features are not finite, or x Wᵀ + b is not the logits.
        """
        if not torch.isfinite(features).all():
            raise DataError("the features must be finite, but some are NaN or infinite; try --amp off")
        if self.gated:
            return
        ours = self.linear(features)
        if ours.shape != logits.shape:
            raise DataError(
                f"classifier '{self.head_key}' has {ours.shape[1]} outputs, but the model gives logits of shape "
                f"{tuple(logits.shape)}; name another with --head-key"
            )
        tolerance = (0.05 if self.amp else 1e-3) * max(1.0, float(logits.abs().max()))
        difference = float((ours - logits).abs().max())
        if not difference <= tolerance:
            raise DataError(
                f"features @ W.T + b of classifier '{self.head_key}' must reproduce the model's logits, but differ "
                f"by {difference:.3g}: the model scales, normalises or averages its logits, or this is not its last "
                "layer; name another with --head-key"
            )


def _logits_of(output: Any) -> Tensor:
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor) or output.ndim != 2:
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise DataError(f"the model must return logits (n, C) or something with .logits, but returns {found}")
    return output


def head_key_of(model: nn.Module, head_key: str | None) -> str:
    """Name of the classifier module; see :class:`Backbone`."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if head_key is not None:
        wanted = head_key.removesuffix(".weight").removesuffix(".bias")
        if wanted not in linear:
            raise UsageError(f"--head-key {head_key}: the model has no such nn.Linear; {_table(linear)}")
        return wanted
    if not linear:
        raise UsageError("the model has no nn.Linear that could be its classifier (a convolution or cosine head?)")
    declared = getattr(model, "pretrained_cfg", None) or {}
    declared = declared.get("classifier") if isinstance(declared, Mapping) else None
    if isinstance(declared, str) and declared in linear:
        return declared
    if len(linear) == 1:
        return next(iter(linear))
    usual = {name.split(".")[0]: name for name in linear if name.split(".")[0] in USUAL_NAMES}  # the last of a block
    if len(usual) == 1:
        return next(iter(usual.values()))
    raise UsageError(f"the model has several possible classifiers; choose one with --head-key; {_table(linear)}")


def _table(linear: Mapping[str, nn.Linear]) -> str:
    rows = [
        f"  {name}  {module.out_features} x {module.in_features}{'' if module.bias is not None else ', no bias'}"
        for name, module in linear.items()
    ]
    return "candidates (name, outputs x inputs):\n" + "\n".join(rows[-12:])


def choose_device(device: str, local: int | None = None) -> torch.device:
    """``auto`` is the CUDA device of this process's number on its machine, Apple's, or the CPU."""
    if device == "auto" and torch.cuda.is_available():
        device = f"cuda:{(local or 0) % torch.cuda.device_count()}"
    elif device == "auto":
        device = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UsageError(f"--device must be auto, cpu, cuda, cuda:1, …, but is '{device}'") from None
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices here")
    return chosen
