"""Builds a model and its evaluation transform from the name of an architecture.

``BUILDERS`` is the table. The first builder that has the name, and whose model fits the checkpoint, builds the model.
A ``module:factory`` of the user needs neither torchvision nor timm.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ltpost.errors import UsageError
from ltpost.extract.messages import need
from ltpost.extract.networks.cifar_resnet import CifarResNet
from ltpost.extract.networks.recognition import FAMILY, SMALL_STEMS
from ltpost.extract.pixels.preprocess import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocess

_IMAGENET = Preprocess(256, 224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_CIFAR = Preprocess(mean=CIFAR_MEAN, std=CIFAR_STD)


@dataclass(frozen=True)
class Builder:
    """One source of architectures.

    Args:
        name: for messages.
        knows: whether it has an architecture of this name.
        build: takes (name, number of classes or None for the default), gives a model whose weights are arbitrary.
        preprocess: takes (name, model), gives the evaluation transform.
    """

    name: str
    knows: Callable[[str], bool]
    build: Callable[[str, int | None], nn.Module]
    preprocess: Callable[[str, nn.Module], Preprocess]


def _classes(num_classes: int | None) -> dict[str, int]:
    return {} if num_classes is None else {"num_classes": num_classes}


# -- a factory of the user ---------------------------------------------------------------------------------------------


def _factory(name: str) -> Callable[..., Any]:
    """The function or class behind ``package.module:factory``. Modules of the current folder can be imported."""
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except Exception as error:  # noqa: BLE001,RUF100 - whatever the user's module raises
        raise UsageError(f"arch={name}: cannot be imported ({type(error).__name__}: {error})") from None
    if not callable(factory):
        raise UsageError(f"arch={name}: must be a function or class that returns a model, but is a {type(factory)}")
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
        raise UsageError(f"arch={name}: {called} raised {type(error).__name__}: {error}") from None
    if not isinstance(model, nn.Module):
        raise UsageError(f"arch={name}: must return a torch.nn.Module, but returned a {type(model).__name__}")
    return model


def own_preprocess(model: nn.Module) -> Preprocess:
    """The transform in the model's ``pretrained_cfg`` or ``default_cfg`` (timm's convention); else only x/255."""
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


#: what fills a tensor with random numbers in the constructors of models
_DRAWS = {
    nn.init.uniform_,
    nn.init.normal_,
    nn.init.kaiming_uniform_,
    nn.init.kaiming_normal_,
    torch.Tensor.uniform_,
    torch.Tensor.normal_,
}


class _Unfilled(TorchFunctionMode):
    """Models are built without random weights: a checkpoint replaces all of them, and to draw them takes long.

    Source: PyTorch's recipe "Skipping Module Parameter Initialization".
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What a function of torch gives; the tensor as it is where the function would fill it."""
        kwargs = kwargs or {}
        if function in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def _unfilled(build: Callable[[str, int | None], nn.Module]) -> Callable[[str, int | None], nn.Module]:
    """``build``, which then draws no random weights."""

    def built(name: str, num_classes: int | None) -> nn.Module:
        with _Unfilled():
            return build(name, num_classes)

    return built


@_unfilled
def _build_cifar(name: str, num_classes: int | None) -> nn.Module:
    try:
        return CifarResNet(int(name.removeprefix("cifar_resnet")), **_classes(num_classes))
    except ValueError as error:
        raise UsageError(f"arch={name}: {error}") from None


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


@_unfilled
def _build_torchvision(name: str, num_classes: int | None) -> nn.Module:
    model: nn.Module = _torchvision().get_model(name, weights=None, **_classes(num_classes))
    return model


def _torchvision_preprocess(name: str, _: nn.Module) -> Preprocess:
    """The transform of the first published weights.

    NOTE[DIFF] torchvision's newest weights have another one (resnet50: resize 232); long-tail code resizes to 256.
    """
    preset = next(iter(_torchvision().get_model_weights(name))).transforms()
    for key in ("crop_size", "resize_size"):
        if not hasattr(preset, key):
            raise UsageError(f"arch={name}: is not an image classifier of torchvision")
    return Preprocess(
        resize=preset.resize_size[0],
        crop=preset.crop_size[0],
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


@_unfilled
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


@_unfilled
def _build_timm(name: str, num_classes: int | None) -> nn.Module:
    model: nn.Module = _timm().create_model(name.removeprefix("timm:"), pretrained=False, **_classes(num_classes))
    return model


def _timm_preprocess(name: str, model: nn.Module) -> Preprocess:
    config = _timm().data.resolve_data_config({}, model=model)
    height, width = config["input_size"][-2:]
    mode = config.get("crop_mode", "center")
    if height != width or mode not in ("center", "squash"):
        raise UsageError(f"arch={name}: input {height}x{width} with crop mode '{mode}' is not supported")
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
        _build_torchvision,
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


def builders(arch: str) -> Iterator[Builder]:
    """Every builder that knows ``arch``, best first. The others are not asked, and their package is not imported.

    Raises:
        UsageError: no builder has it; the message lists similar names, or the missing package.
    """
    found = False
    for builder in BUILDERS:
        if builder.knows(arch):
            found = True
            yield builder
            if ":" in arch:  # it names its builder
                return
    if found:
        return
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
        f"arch={arch}: no such architecture in torchvision, timm or ltpost"
        f"{'; did you mean ' + ', '.join(near) + '?' if near else ''}"
        " (a model of your own is package.module:factory)"
    )
