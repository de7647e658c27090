"""A name to a model and its evaluation transform, and the shapes of a checkpoint to a name.

``BUILDERS`` is the table: the first one that knows a name and whose model fits the checkpoint builds it. A
``module:factory`` of one's own, torch alone, needs neither torchvision nor timm.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ltpost.errors import DataError, UsageError
from ltpost.extract.cifar_resnet import CifarResNet
from ltpost.extract.preprocess import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocess, need

#: block, blocks per stage, groups, width per group
Spec = tuple[str, tuple[int, ...], int, int]

#: the ResNet, ResNeXt and wide ResNet family, with the names of torchvision, timm and classifier-balancing
FAMILY: dict[str, Spec] = {
    "resnet10": ("basic", (1, 1, 1, 1), 1, 64),
    "resnet18": ("basic", (2, 2, 2, 2), 1, 64),
    "resnet34": ("basic", (3, 4, 6, 3), 1, 64),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 1, 64),
    "resnet101": ("bottleneck", (3, 4, 23, 3), 1, 64),
    "resnet152": ("bottleneck", (3, 8, 36, 3), 1, 64),
    "resnext50_32x4d": ("bottleneck", (3, 4, 6, 3), 32, 4),
    "resnext101_32x4d": ("bottleneck", (3, 4, 23, 3), 32, 4),
    "resnext152_32x4d": ("bottleneck", (3, 8, 36, 3), 32, 4),
    "resnext101_32x8d": ("bottleneck", (3, 4, 23, 3), 32, 8),
    "resnext101_64x4d": ("bottleneck", (3, 4, 23, 3), 64, 4),
    "wide_resnet50_2": ("bottleneck", (3, 4, 6, 3), 1, 128),
    "wide_resnet101_2": ("bottleneck", (3, 4, 23, 3), 1, 128),
}
#: what follows the stem cannot be read off the tensors of a network with a 3x3 stem, so both have a name
SMALL_STEMS = {"_cifar": "3x3 stem, no max-pool", "_cifar_pool": "3x3 stem, max-pool"}
_IMAGENET = Preprocess(256, 224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_CIFAR = Preprocess(mean=CIFAR_MEAN, std=CIFAR_STD)


@dataclass(frozen=True)
class Builder:
    """One source of architectures.

    Args:
        name: for messages.
        knows: whether it has an architecture of this name.
        build: (name, number of classes or None for the default) to a model with random weights.
        preprocess: (name, model) to the evaluation transform.
    """

    name: str
    knows: Callable[[str], bool]
    build: Callable[[str, int | None], nn.Module]
    preprocess: Callable[[str, nn.Module], Preprocess]


def _classes(num_classes: int | None) -> dict[str, int]:
    return {} if num_classes is None else {"num_classes": num_classes}


# -- a factory of one's own --------------------------------------------------------------------------------------------


def _factory(name: str) -> Callable[..., Any]:
    """``package.module:factory``, the current folder being importable."""
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except Exception as error:  # noqa: BLE001,RUF100 - whatever the user's module raises
        raise UsageError(f"--arch {name}: cannot be imported ({type(error).__name__}: {error})") from None
    if not callable(factory):
        raise UsageError(f"--arch {name}: must be a function or class that returns a model, but is a {type(factory)}")
    return factory


def _build_own(name: str, num_classes: int | None) -> nn.Module:
    factory = _factory(name)
    parameters = inspect.signature(factory).parameters.values()
    takes = any(p.name == "num_classes" or p.kind is p.VAR_KEYWORD for p in parameters)
    required = any(p.name == "num_classes" and p.default is p.empty for p in parameters)
    try:
        model = factory(**(_classes(num_classes or (1 if required else None)) if takes else {}))
    except Exception as error:  # noqa: BLE001,RUF100
        called = "factory(num_classes=…)" if takes else "factory()"
        raise UsageError(f"--arch {name}: {called} raised {type(error).__name__}: {error}") from None
    if not isinstance(model, nn.Module):
        raise UsageError(f"--arch {name}: must return a torch.nn.Module, but returned a {type(model).__name__}")
    return model


def own_preprocess(model: nn.Module) -> Preprocess:
    """From the model's ``pretrained_cfg`` or ``default_cfg`` (timm's convention), else x/255 and nothing more."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if not config:
        return Preprocess()
    config = config if isinstance(config, Mapping) else vars(config)
    known = {key: tuple(config[key]) for key in ("mean", "std") if config.get(key)}
    if not config.get("input_size"):
        return Preprocess(**known)
    crop, pct = int(config["input_size"][-1]), float(config.get("crop_pct") or 1.0)
    how = config.get("interpolation") or "bilinear"
    return Preprocess(**known).changed(img_size=crop, crop_pct=pct, interpolation=how)


# -- CIFAR ResNets, torchvision, timm ----------------------------------------------------------------------------------


def _build_cifar(name: str, num_classes: int | None) -> nn.Module:
    try:
        return CifarResNet(int(name.removeprefix("cifar_resnet")), **_classes(num_classes))
    except ValueError as error:
        raise UsageError(f"--arch {name}: {error}") from None


def _torchvision() -> Any:
    try:
        import torchvision
    except ImportError:
        raise need("torchvision", "this architecture") from None
    return torchvision.models


def _in_torchvision(name: str) -> bool:
    try:
        return name in _torchvision().list_models()
    except UsageError:
        return False


def _torchvision_preprocess(name: str, _: nn.Module) -> Preprocess:
    """The preset of the first published weights.

    NOTE[DIFF] Not of torchvision's newest weights (resnet50: resize 232): long-tail code resizes to 256.
    """
    preset = next(iter(_torchvision().get_model_weights(name))).transforms()
    for key in ("crop_size", "resize_size"):
        if not hasattr(preset, key):
            raise UsageError(f"--arch {name}: is not an image classifier of torchvision")
    return Preprocess(
        resize=preset.resize_size[0],
        crop=preset.crop_size[0],
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _build_family(name: str, num_classes: int | None) -> nn.Module:
    resnet = _torchvision().resnet
    stem = next((suffix for suffix in sorted(SMALL_STEMS, key=len)[::-1] if name.endswith(suffix)), "")
    block, layers, groups, width = FAMILY[name.removesuffix(stem)]
    kind = resnet.BasicBlock if block == "basic" else resnet.Bottleneck
    model: nn.Module = resnet.ResNet(kind, list(layers), groups=groups, width_per_group=width, **_classes(num_classes))
    if stem:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        if stem == "_cifar":
            model.maxpool = nn.Identity()
    return model


def _knows_family(name: str) -> bool:
    return any(name == base + stem for base in FAMILY for stem in ("", *SMALL_STEMS))


def _timm() -> Any:
    try:
        import timm
        import timm.data
    except ImportError:
        raise need("timm", "this architecture") from None
    return timm


def _in_timm(name: str) -> bool:
    try:
        return bool(_timm().is_model(name.removeprefix("timm:").split(".")[0]))
    except UsageError:
        return False


def _build_timm(name: str, num_classes: int | None) -> nn.Module:
    model: nn.Module = _timm().create_model(name.removeprefix("timm:"), pretrained=False, **_classes(num_classes))
    return model


def _timm_preprocess(name: str, model: nn.Module) -> Preprocess:
    config = _timm().data.resolve_data_config({}, model=model)
    height, width = config["input_size"][-2:]
    mode = config.get("crop_mode", "center")
    if height != width or mode not in ("center", "squash"):
        raise UsageError(f"--arch {name}: input {height}x{width} with crop mode '{mode}' is not supported")
    how = config["interpolation"]
    return Preprocess(
        squash=mode == "squash", mean=tuple(config["mean"]), std=tuple(config["std"]), crop=height, resize=height
    ).changed(crop_pct=config["crop_pct"], interpolation=how if how != "random" else "bilinear")


BUILDERS: tuple[Builder, ...] = (
    Builder("timm", lambda name: name.startswith("timm:") and _in_timm(name), _build_timm, _timm_preprocess),
    Builder("your own", lambda name: ":" in name, _build_own, lambda _, model: own_preprocess(model)),
    Builder(
        "ltpost",
        lambda name: re.fullmatch(r"cifar_resnet\d+", name) is not None,
        _build_cifar,
        lambda *_: _CIFAR,
    ),
    Builder(
        "torchvision",
        _in_torchvision,
        lambda name, num_classes: _torchvision().get_model(name, weights=None, **_classes(num_classes)),
        _torchvision_preprocess,
    ),
    Builder(
        "the ResNet family",
        _knows_family,
        _build_family,
        lambda name, _: _CIFAR if "_cifar" in name else _IMAGENET,
    ),
    Builder("timm", _in_timm, _build_timm, _timm_preprocess),
)


def known(arch: str) -> bool:
    """Whether any builder has an architecture of this name."""
    return any(builder.knows(arch) for builder in BUILDERS)


def builders(arch: str) -> list[Builder]:
    """Every builder that knows ``arch``, best first.

    Raises:
        UsageError: none does; near names are listed, and the package that is missing.
    """
    found = [builder for builder in BUILDERS if builder.knows(arch)]
    if found:
        return found if ":" not in arch else found[:1]
    _torchvision(), _timm()  # a missing package is the more useful message
    import difflib

    names = [
        *_torchvision().list_models(),
        *_timm().list_models(),
        *FAMILY,
        *(f"cifar_resnet{n}" for n in (20, 32, 56)),
    ]
    near = difflib.get_close_matches(arch, sorted(set(names)), n=5, cutoff=0.5)
    raise UsageError(
        f"--arch {arch}: no such architecture in torchvision, timm or ltpost"
        f"{'; did you mean ' + ', '.join(near) + '?' if near else ''}"
        " (a model of your own is package.module:factory)"
    )


# -- from shapes to a name ---------------------------------------------------------------------------------------------


def candidates(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the architectures whose tensors have these names and shapes; empty where they cannot be told."""
    stem, first = state.get("conv1.weight"), state.get("layer1.0.conv1.weight")
    if stem is None or first is None or stem.ndim != 4:
        return []
    if tuple(stem.shape) == (16, 3, 3, 3) and "layer4.0.conv1.weight" not in state:
        depth = 2 + 2 * sum(_stages(state))
        return [f"cifar_resnet{depth}"] if (depth - 2) % 6 == 0 else []
    spec = _spec(state)
    names = [name for name, known in FAMILY.items() if known == spec]
    if tuple(stem.shape) == (64, 3, 7, 7):
        return names
    if tuple(stem.shape) == (64, 3, 3, 3):
        return [name + suffix for name in names for suffix in SMALL_STEMS]
    return []


def _stages(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks per stage, from layer<stage>.<block>."""
    blocks: dict[int, set[int]] = {}
    for key in state:
        if match := re.match(r"layer(\d+)\.(\d+)\.", key):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def _spec(state: Mapping[str, Tensor]) -> Spec:
    if "layer1.0.conv3.weight" not in state:
        return "basic", _stages(state), 1, 64
    width, per_group = state["layer1.0.conv2.weight"].shape[:2]  # groups * per_group = width
    return "bottleneck", _stages(state), width // per_group, per_group


def misfit(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """What keeps the model from being filled by the tensors, or None. Tensors that the model has no use for may be."""
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


def some(keys: list[str]) -> str:
    """The first few of many names."""
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")


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
    model, preprocess = build(arch, state, len(state["fc.weight"]))
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
        scale: s, which lives in the loss and is in no file.
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
        arch: see ``--arch``.
        state: the tensors, prefixes stripped.
        num_classes: C where known; else it is the size of what differs from the model with its default classes.

    Raises:
        UsageError: no such architecture.
        DataError: the tensors do not fill it.
    """
    reasons: dict[str, list[str]] = {}
    for builder in builders(arch):
        model = builder.build(arch, num_classes)
        found = _differing_classes(model, state)
        if found is not None and found != num_classes:
            model = builder.build(arch, found)
        reason = misfit(model, state)
        if reason is None:
            own = model.state_dict()  # with its version, which MNASNet asks for
            own.update({key: state[key] for key in own if key in state})
            model.load_state_dict(own)
            return model, builder.preprocess(arch, model)
        reasons.setdefault(reason, []).append(builder.name)
    raise DataError("; ".join(f"{arch} of {', '.join(names)}: {reason}" for reason, names in reasons.items()))


def _differing_classes(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """C, where exactly the first axis of the last tensors differs between model and checkpoint."""
    own = model.state_dict()
    differing = {
        key: (own[key].shape, state[key].shape) for key in own if key in state and own[key].shape != state[key].shape
    }
    sizes = {theirs[0] for ours, theirs in differing.values() if ours[1:] == theirs[1:] and len(theirs)}
    return sizes.pop() if len(sizes) == 1 else None
