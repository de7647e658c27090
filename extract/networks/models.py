"""Builds models with the tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ltpost.errors import DataError
from ltpost.extract.messages import some
from ltpost.extract.networks.builders import builders
from ltpost.extract.pixels.preprocess import Preprocess


def misfit(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """The reason why the tensors cannot fill the model, or None. Tensors that the model does not use are allowed."""
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        unknown = [key for key in state if key not in own]
        return (
            f"{len(missing)} of its {len(own)} tensors are not in the checkpoint ({some(missing)})"
            f"{f', which has {some(unknown)} instead' if unknown else ''}"
        )
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if wrong:
        key = wrong[0]
        return f"{key} has shape {tuple(state[key].shape)} in the checkpoint, but {tuple(own[key].shape)} in the model"
    return None


def check_finite(model: nn.Module, path: Path) -> None:
    """Raise DataError where a weight is NaN or infinite, or anything else in the model is NaN."""
    parameters = {name for name, _ in model.named_parameters()}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if tensor.isnan().any() or (name in parameters and tensor.isinf().any()):
            raise DataError(
                f"{path}: '{name}' must be finite, but holds NaN or infinity; the file is damaged, or the training "
                "that wrote it has diverged"
            )


class Normalise(nn.Module):
    """x / ‖x‖."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, D) to (n, D)."""
        return nn.functional.normalize(x, dim=1)


class Gated(nn.Module):
    """DisAlign's classifier: z = W x + b, then (1 + c s) z + c t with c = sigmoid(v x + u).

    Source: Zhang et al., "Distribution Alignment", CVPR 2021, Section 3.3. s and t are (C,), v is (1, D).
    """

    def __init__(self, linear: nn.Linear, state: Mapping[str, Tensor]):
        super().__init__()
        self.linear = linear
        self.confidence = nn.Linear(linear.in_features, 1)
        confidence = {kind: state[f"confidence_layer.{kind}"] for kind in ("weight", "bias")}
        self.confidence.load_state_dict(confidence)
        self.register_buffer("scale", state["logit_scale"].flatten())
        self.register_buffer("offset", state["logit_bias"].flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, D) to logits (n, C)."""
        logits: Tensor = self.linear(x)
        confidence = self.confidence(x).sigmoid()
        return (1 + confidence * self.scale) * logits + confidence * self.offset


def build_gated(arch: str, state: Mapping[str, Tensor]) -> tuple[nn.Module, Preprocess]:
    """A ResNet whose ``fc`` is :class:`Gated`."""
    weight = state.get("fc.weight")
    shape = tuple(weight.shape) if weight is not None and weight.ndim == 2 else (0, 0)
    gate = {"confidence_layer.weight": shape[1:], "confidence_layer.bias": (1,)}
    for name, sizes in (gate | dict.fromkeys(("logit_scale", "logit_bias"), shape[:1])).items():
        if name not in state or state[name].numel() != sizes[0]:
            raise DataError(f"must have '{name}' with {sizes[0]} numbers, as its classifier (DisAlign) is gated by it")
    model, preprocess = build(arch, state, shape[0])
    linear = model.get_submodule("fc")
    assert isinstance(linear, nn.Linear)
    model.set_submodule("fc", Gated(linear, state))
    return model, preprocess


def build_normed(arch: str, state: Mapping[str, Tensor], name: str, scale: float) -> tuple[nn.Module, Preprocess]:
    """A model with LDAM's NormedLinear, z_c = s cos(w_c, x): a normalisation, then a linear layer of norm-s rows.

    Args:
        arch: as for :func:`build`.
        state: with ``<name>.weight`` (D, C).
        name: of the classifier.
        scale: s, which is a setting of the loss and in no file.
    """
    weight = scale * nn.functional.normalize(state[f"{name}.weight"].float(), dim=0).T  # (C, D)
    linear = {f"{name}.weight": weight, f"{name}.bias": weight.new_zeros(len(weight))}
    model, preprocess = build(arch, {**state, **linear}, len(weight))
    classifier = nn.Linear(weight.shape[1], len(weight), bias=False)
    classifier.weight.data.copy_(weight)
    model.set_submodule(name, nn.Sequential(Normalise(), classifier))
    return model, preprocess


def build(arch: str, state: Mapping[str, Tensor], num_classes: int | None) -> tuple[nn.Module, Preprocess]:
    """The model called ``arch``, filled with ``state``, and its evaluation transform.

    Args:
        arch: as for :func:`ltpost.extract.extract_features`.
        state: the tensors, prefixes stripped.
        num_classes: C, or None; then it is the size of the tensors that differ from the model with its default classes.

    Raises:
        UsageError: no such architecture.
        DataError: the tensors do not fill it.
    """
    reasons: dict[str, list[str]] = {}
    for builder in builders(arch):
        model = builder.build(arch, num_classes)
        differences = _differing_classes(model, state)
        if differences is not None and differences != num_classes:
            model = builder.build(arch, differences)
        reason = misfit(model, state)
        if reason is None:
            own = model.state_dict()  # it has a version, which MNASNet needs
            own.update({key: state[key] for key in own if key in state})
            model.load_state_dict(own)
            return model, builder.preprocess(arch, model)
        reasons.setdefault(reason, []).append(builder.name)
    raise DataError("; ".join(f"{arch} of {', '.join(names)}: {reason}" for reason, names in reasons.items()))


def _differing_classes(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """C, where model and checkpoint differ only in the first axis of some tensors, and all to the same size."""
    own = model.state_dict()
    differing = {
        key: (own[key].shape, state[key].shape) for key in own if key in state and own[key].shape != state[key].shape
    }
    sizes = {theirs[0] for ours, theirs in differing.values() if ours[1:] == theirs[1:] and len(theirs)}
    return sizes.pop() if len(sizes) == 1 else None
