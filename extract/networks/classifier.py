"""Which module of a model is its classifier: by name, by its place, or by running the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ltpost.errors import DataError, UsageError
from ltpost.extract.data.batches import Arguments

#: how the classifiers of the usual architectures are called, or the block whose last layer they are
USUAL_NAMES = ("fc", "linear", "classifier", "head", "heads", "last_linear")
#: by which a classifier's output may differ from the model's, relative to the largest logit
_SAME = 1e-3


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel and torch.compile, whose modules can be hooked.

    Under DistributedDataParallel all processes get the buffers of the first one, as in a forward pass of its own: since
    the last step of the training, batch-norm statistics differ from process to process.
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            group, model = model.process_group, model.module
            for buffer in model.buffers():
                dist.broadcast(buffer, dist.get_global_rank(group, 0), group)
        elif isinstance(model, nn.DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def keys_of(head_key: str) -> list[str]:
    """The names in ``head_key``: one, or several with commas between."""
    return [name.strip().removesuffix(".weight").removesuffix(".bias") for name in head_key.split(",")]


def head_key_of(model: nn.Module, head_key: str | None) -> str:
    """Name of the classifier module, or of several; see :class:`~ltpost.extract.networks.backbone.Backbone`."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if head_key is not None:
        wanted = keys_of(head_key)
        named = {name for name, module in model.named_modules() if _weight(module) is not None}
        if not set(wanted) <= named:
            raise UsageError(f"head_key={head_key}: the model has no such nn.Linear; {_table(linear)}")
        return ",".join(wanted)
    if not linear:
        raise UsageError("the model has no nn.Linear that could be its classifier (a convolution or cosine head?)")
    if (certain := certain_head_key(model)) is not None:
        return certain
    usual = {name.split(".")[0]: name for name in linear if name.split(".")[0] in USUAL_NAMES}  # the last of a block
    if len(usual) == 1:
        return next(iter(usual.values()))
    raise UsageError(f"the model has several possible classifiers; choose one with head_key=; {_table(linear)}")


def certain_head_key(model: nn.Module) -> str | None:
    """The classifier that a model of timm declares, or the only linear layer; None where there is neither."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    declared = getattr(model, "pretrained_cfg", None) or {}
    declared = declared.get("classifier") if isinstance(declared, Mapping) else None
    declared = (declared,) if isinstance(declared, str) else tuple(declared or ())
    if declared and set(declared) <= set(linear):
        return ",".join(declared)
    return linear[0] if len(linear) == 1 else None


def head_key_by_running(model: nn.Module, inputs: Arguments) -> str:
    """Name of the one linear layer whose output is the model's logits, for each row as it is or of one of its tokens.

    Args:
        model: in eval mode.
        inputs: some rows, on the model's device.

    Raises:
        UsageError: no layer or several are such.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if not linear:
        return head_key_of(model, None)
    outputs: dict[str, list[Tensor]] = {name: [] for name in linear}
    hooks = [
        module.register_forward_hook(lambda _, args, output, name=name: outputs[name].append(output))
        for name, module in linear.items()
    ]
    try:
        with torch.no_grad():
            answer = model(*inputs.args, **inputs.kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    found = [name for name, seen in outputs.items() if len(seen) == 1 and _gives(seen[0], answer)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"the logits are the output of several layers, {', '.join(found)}; choose one with head_key=")
    raise UsageError(
        "no nn.Linear of the model gives its logits: they are scaled, averaged or normalised after it; name the "
        f"classifier with head_key=; {_table(linear)}"
    )


def _gives(output: Any, answer: Any) -> bool:
    """Whether the output of a layer, (n, C) or (n, T, C), is what the model answered."""
    if not isinstance(output, Tensor) or output.ndim not in (2, 3):
        return False
    try:
        logits = logits_of(answer, output.shape[-1])
    except DataError:
        return False
    if output.shape[-1] != logits.shape[1] or len(output) != len(logits):
        return False
    tokens = output[:, None] if output.ndim == 2 else output
    differences = (tokens - logits[:, None]).abs().amax(dim=2).amin(dim=1)
    return bool((differences <= _SAME * logits.abs().max().clamp(min=1)).all())


def rows_of_tokens(tokens: Tensor, logits: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
    """(n, D): of the features of all tokens, (n, T, D), those of the token whose logits are the model's, (n, C)."""
    differences = (linear(tokens) - logits[:, None]).abs().amax(dim=2)  # (n, T)
    return tokens[torch.arange(len(tokens), device=tokens.device), differences.argmin(dim=1)]


def logits_of(output: Any, num_classes: int | None = None) -> Tensor:
    """The logits (n, C) in what a model returns: a tensor, something with logits, or a tuple with one of C columns.

    Raises:
        DataError: there are none.
    """
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    output = getattr(output, "logits", output)
    if isinstance(output, list | tuple):
        matrices = [x for x in output if isinstance(x, Tensor) and x.ndim == 2]
        output = next((x for x in matrices if num_classes in (None, x.shape[1])), output)
    if not isinstance(output, Tensor) or output.ndim != 2:
        shapes_seen = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise DataError(f"the model must return logits (n, C) or something with .logits, but returns {shapes_seen}")
    return output


def _weight(module: nn.Module) -> Tensor | None:
    """The weight (C, D) of a linear layer, or of a module that has one like it."""
    weight = getattr(module, "weight", None)
    plain = isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)
    return weight if plain else None


def _table(linear: Mapping[str, nn.Linear]) -> str:
    rows = [
        f"  {name}  {module.out_features} x {module.in_features}{'' if module.bias is not None else ', no bias'}"
        for name, module in linear.items()
    ]
    return "candidates (name, outputs x inputs):\n" + "\n".join(rows[-12:])
