"""A checkpoint file to named tensors. ``LAYOUTS`` is the table: one short entry for each way a repository saves.

Nothing is unpickled but tensors and plain containers (``weights_only=True``), with a short list of inert types beside.
Every tensor remembers where in the file it lay, so that export can put another in its place.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltpost.errors import DataError, UsageError

#: the keys that lead to a tensor in the container
Location = tuple[str, ...]
Container = Mapping[str, Any]

#: what wrapping a model puts before the names of its tensors
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "network.")


@dataclass(frozen=True)
class Layout:
    """One way to save a checkpoint.

    Args:
        name: for messages.
        matches: whether a container is saved so.
        parts: the mappings of tensors in it, as paths of keys; absent ones are skipped.
        rename: patterns and replacements for the names of tensors (after prefixes are stripped); None leaves it out.
        scales: name of the tensor of C factors that multiply the classifier's weight and bias.
        essential: start of names that the model has to use; elsewhere unused tensors are only told.
        refuse: why such a file cannot be used, and what to do.
    """

    name: str
    matches: Callable[[Container], bool]
    parts: tuple[Location, ...] = ()
    rename: tuple[tuple[str, str | None], ...] = ()
    scales: str | None = None
    essential: str | None = None
    refuse: str | None = None


def _at(container: Any, *keys: str) -> Any:
    for key in keys:
        container = container.get(key) if isinstance(container, Mapping) else None
    return container


def _has(*keys: str, at: Location = ()) -> Callable[[Container], bool]:
    """Whether all ``keys`` (under ``at``) hold tensors."""
    return lambda container: all(_is_state(_at(container, *at, key)) for key in keys)


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(tensor, Tensor) for tensor in value.values())


def _names(pattern: str, *at: str) -> Callable[[Container], bool]:
    """Whether a tensor under ``at`` has a name that the pattern finds."""
    return lambda container: any(re.search(pattern, str(name)) for name in _at(container, *at) or ())


def _headless(*at: str) -> Callable[[Container], bool]:
    """A classifier of KaihuaTang/LT.pytorch or OLTR that is a bare ``weight``: cosine or causal."""

    def matches(container: Container) -> bool:
        classifier = _at(container, *at, "classifier")
        return _is_state(classifier) and {name.removeprefix("module.") for name in classifier} == {"weight"}

    return matches


def _either(*matches: Callable[[Container], bool]) -> Callable[[Container], bool]:
    return lambda container: any(match(container) for match in matches)


#: the names of cvpods and detectron2, as torchvision calls them
_CVPODS = (
    (r"^stem\.conv1\.norm\.", "bn1."),
    (r"^stem\.", ""),
    *((rf"^res{stage + 1}\.", f"layer{stage}.") for stage in range(1, 5)),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"^linear\.", "fc."),
    (r"^pixel_(mean|std)$", None),
)
_COSINE = (
    "its classifier is a cosine or causal one (a bare 'weight', no 'fc'), whose scale and statistics are not linear in "
    "the features or not in the file; there is no linear classifier to take"
)

LAYOUTS: tuple[Layout, ...] = (
    Layout("CausalNorm or cosine classifier (KaihuaTang, OLTR)",
           _either(_headless("state_dict_best"), _headless("state_dict")), refuse=_COSINE),
    Layout("classifier-balancing, best epoch", _has("feat_model", "classifier", at=("state_dict_best",)),
           (("state_dict_best", "feat_model"), ("state_dict_best", "classifier")), scales="scales"),
    Layout("classifier-balancing, latest epoch", _has("feat_model", "classifier", at=("state_dict",)),
           (("state_dict", "feat_model"), ("state_dict", "classifier")), scales="scales"),
    Layout("MiSLAS", _has("state_dict_model", "state_dict_classifier"),
           (("state_dict_model",), ("state_dict_block",), ("state_dict_classifier",), ("state_dict_lws_model",)),
           scales="learned_norm", essential="block."),
    Layout("LIFT", lambda container: {"tuner", "head"} <= set(container),
           refuse="holds only a tuner and a head (LIFT): the CLIP or ViT backbone is not in the file, so no features "
           "can be computed from it"),
    Layout("DisAlign", _names(r"(^|\.)confidence_layer\.weight$", "model"),
           (("model",),), _CVPODS),  # before cvpods: the same, and a gated classifier
    Layout("cvpods", _names(r"(^|\.)stem\.conv1\.weight$", "model"), (("model",),), _CVPODS),
    Layout("PaCo, GPaCo", _names(r"(^|\.)encoder_q\.conv1\.weight$", "state_dict"), (("state_dict",),),
           ((r"^encoder_q\.fc\.", None), (r"^encoder_q\.", ""), (r"^(encoder_k|linear_k)\.|^queue", None),
            (r"^linear\.", "fc."))),
    Layout("RIDE, SADE (several experts)", _names(r"(^|\.)linears\.0\.weight$", "state_dict"),
           refuse="holds several experts (RIDE, SADE), which need --expert"),
    Layout("Lightning", lambda container: "pytorch-lightning_version" in container and _has("state_dict")(container),
           (("state_dict",),), ((r"^(model|net|network|backbone|encoder|module)\.", ""),)),
    *(Layout("timm, averaged weights", _has(key), ((key,),)) for key in ("state_dict_ema", "model_ema")),
    *(Layout(f"a state_dict under '{key}'", _has(key), ((key,),))
      for key in ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params")),
    Layout("a bare state_dict", _is_state, ((),)),
)  # fmt: skip

#: RIDE and SADE: expert e of the shared network, as a network of its own
_EXPERT = (
    (r"^layer(\d)s\.{e}\.", r"layer\1."),
    (r"^linears\.{e}\.", "fc."),
    (r"^(layer\ds|linears|expert_help_pred_\w+|shared_expert_help_pred_\w+)\.", None),
)


def _experts_in(container: Container) -> list[int]:
    found = {int(match[1]) for name in container["state_dict"] if (match := re.search(r"linears\.(\d+)\.", str(name)))}
    return sorted(found)


def _one_expert(container: Container, expert: int) -> Layout:
    experts = _experts_in(container)
    if expert not in experts:
        listed = ", ".join(map(str, experts))
        raise UsageError(f"--expert must be one of {listed} or all for this file, but is {expert}")
    rename = tuple((pattern.replace("{e}", str(expert)), new) for pattern, new in _EXPERT)
    return Layout(f"expert {expert} of {len(experts)} (RIDE, SADE)", _is_state, (("state_dict",),), rename)


def read_experts(path: str | os.PathLike[str]) -> list[Checkpoint]:
    """The experts of a RIDE or SADE checkpoint, each as a checkpoint of its own.

    Raises:
        DataError: it is not one.
    """
    container = read_container(Path(path)) if Path(path).is_file() else {}
    experts = _experts_in(container) if _is_state(container.get("state_dict")) else []
    if not experts:
        raise DataError(f"{path}: has no experts (tensors linears.0.weight, …); leave --expert out")
    return [read_checkpoint(path, expert) for expert in experts]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read.

    Args:
        path: the file.
        state: name to tensor, wrappers' prefixes stripped; factors of the classifier are multiplied in.
        locations: name to where it lay in ``container``.
        container: the file's content.
        layout: how it was saved.
        sha256: of the file.
        arch: what the file itself says of the architecture, if anything.
        scales: where factors that multiply the classifier lay.
        normed: name of a classifier whose weight is (D, C) and, like its input, normalised (LDAM's NormedLinear).
    """

    path: Path
    state: dict[str, Tensor]
    locations: dict[str, Location]
    container: Container = field(repr=False)
    layout: Layout
    sha256: str
    arch: str | None = None
    scales: Location | None = None
    normed: str | None = None

    def module_name(self, head_key: str) -> str:
        """A module as the model calls it, from its name in the file or in the model."""
        wanted = head_key.removesuffix(".weight").removesuffix(".bias")
        for short, location in self.locations.items():
            if location[-1].removesuffix(".weight") == wanted:
                return short.removesuffix(".weight")
        return wanted


def read_checkpoint(path: str | os.PathLike[str], expert: int | None = None) -> Checkpoint:
    """Read a checkpoint of any layout in ``LAYOUTS``.

    Args:
        path: the file.
        expert: which expert of a network of several.

    Raises:
        DataError: no such file, not a checkpoint, one that holds more than tensors and plain data, or one whose
            classifier is not linear.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: no such checkpoint file{_near(source)}; name it with --ckpt")
    container = read_container(source)
    layout = next((layout for layout in LAYOUTS if layout.matches(container)), None)
    if layout is None:
        keys = ", ".join(list(map(str, container))[:8])
        raise DataError(f"{source}: holds no tensors that ltpost knows to find; its keys are {keys or 'none'}")
    if expert is not None:
        if not layout.name.startswith("RIDE"):
            raise UsageError(f"--expert {expert}: {source} has no experts (tensors linears.0.weight, …); leave it out")
        layout = _one_expert(container, expert)
    if layout.refuse:
        raise DataError(f"{source}: {layout.refuse}")
    state, locations = _collect(container, layout)
    scales = locations.pop(layout.scales, None) if layout.scales else None
    if scales is not None:
        _multiply(state, state.pop(str(layout.scales)).flatten(), source)
    _canonical_head(state, locations)
    arch = container.get("arch")
    arch = arch if isinstance(arch, str) else None
    normed = _normed_head(state)
    return Checkpoint(source, state, locations, container, layout, sha256_of_file(source), arch, scales, normed)


def _collect(container: Container, layout: Layout) -> tuple[dict[str, Tensor], dict[str, Location]]:
    state: dict[str, Tensor] = {}
    locations: dict[str, Location] = {}
    for part in layout.parts:
        tensors = _at(container, *part) or {}
        names = {str(name): tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
        for short, name in _stripped(list(names)).items():
            new = _renamed(short, layout.rename)
            if new is not None:
                new = new if part != ("state_dict_block",) else f"block.{new}"
                state[new], locations[new] = names[name], (*part, name)
    return state, locations


def _stripped(names: list[str]) -> dict[str, str]:
    """Short name to name: prefixes that all names share are taken off."""
    short = {name: name for name in names}
    while prefix := next((p for p in PREFIXES if names and all(name.startswith(p) for name in short)), None):
        short = {name.removeprefix(prefix): full for name, full in short.items()}
    return short


def _renamed(name: str, rename: tuple[tuple[str, str | None], ...]) -> str | None:
    for pattern, new in rename:
        if new is None and re.search(pattern, name):
            return None
        name = re.sub(pattern, new or "", name) if new is not None else name
    return name


def _multiply(state: dict[str, Tensor], scales: Tensor, source: Path) -> None:
    """LWS and MiSLAS: s_c multiplies w_c and b_c."""
    weight = state.get("fc.weight")
    if weight is None or len(weight) != len(scales):
        raise DataError(f"{source}: has {len(scales)} factors for its classifier, but no 'fc.weight' with as many rows")
    state["fc.weight"] = weight * scales[:, None].to(weight)
    if "fc.bias" in state:
        state["fc.bias"] = state["fc.bias"] * scales.to(weight)


def _canonical_head(state: dict[str, Tensor], locations: dict[str, Location]) -> None:
    """A ResNet's classifier is ``fc``, a CIFAR ResNet's ``linear``, whatever the file calls it."""
    if "layer3.0.conv1.weight" not in state:
        return
    right, other = ("fc", "linear") if "layer4.0.conv1.weight" in state else ("linear", "fc")
    if f"{right}.weight" in state:
        return
    for kind in ("weight", "bias"):
        if f"{other}.{kind}" in state:
            state[f"{right}.{kind}"] = state.pop(f"{other}.{kind}")
            locations[f"{right}.{kind}"] = locations.pop(f"{other}.{kind}")


def is_gated(state: Mapping[str, Tensor]) -> bool:
    """DisAlign: logits are (1 + c s) z + c b, with the confidence c of each image; not linear in the features."""
    return "confidence_layer.weight" in state


def _normed_head(state: Mapping[str, Tensor]) -> str | None:
    """LDAM's NormedLinear is (D, C) without a bias, where a linear layer is (C, D)."""
    norms = [tensor for key, tensor in state.items() if re.search(r"layer\d\.\d+\.bn\d\.weight$", key)]
    for name in ("fc", "linear"):
        weight = state.get(f"{name}.weight")
        if weight is not None and norms and f"{name}.bias" not in state:
            dimension = len(norms[-1])
            if weight.shape[0] == dimension != weight.shape[1]:
                return name
    return None


@dataclass(frozen=True)
class HeadCandidate:
    """A tensor that may be a classifier's weight: ``name`` without ``.weight``, its shape, whether it has a bias."""

    name: str
    shape: tuple[int, int]
    bias: bool


def head_candidates(state: Mapping[str, Tensor]) -> list[HeadCandidate]:
    """The 2-D weights that do not look like a part of the backbone's blocks."""
    found = []
    for key, tensor in state.items():
        name = key.removesuffix(".weight")
        if tensor.ndim == 2 and key.endswith(".weight") and not re.search(r"(block|layer|stage)s?[._]?\d", name):
            found.append(HeadCandidate(name, (len(tensor), tensor.shape[1]), f"{name}.bias" in state))
    return found


def _near(source: Path) -> str:
    folder = source.parent
    others = sorted(p.name for p in folder.iterdir() if p.suffix in SUFFIXES) if folder.is_dir() else []
    return f" ({folder} has {', '.join(others[:5])})" if others else ""


SUFFIXES = (".pth", ".pt", ".th", ".tar", ".ckpt", ".bin", ".safetensors")


def sha256_of_file(source: Path) -> str:
    """Of its bytes."""
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_state(state: Mapping[str, Any]) -> str:
    """Of the names and values of a model's tensors."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# -- files -------------------------------------------------------------------------------------------------------------


def read_container(source: Path) -> Container:
    """The content of a checkpoint file, never unpickled beyond tensors and plain data."""
    content = _read_safetensors(source) if source.suffix == ".safetensors" else _read_torch(source)
    if isinstance(content, torch.nn.Module) or not isinstance(content, Mapping):
        raise DataError(
            f"{source}: must hold a dictionary with tensors, but holds a {type(content).__name__}; "
            "save model.state_dict() instead"
        )
    return content


def _read_safetensors(source: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(source)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{source}: not a readable safetensors file ({error})") from None


def _inert_types() -> list[Any]:
    """What a checkpoint may hold beside tensors: numpy arrays and scalars, and argparse's options. None runs code."""
    reconstruct = np.zeros(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")}
    old, new = "numpy.core.multiarray", "numpy._core.multiarray"
    scalar = np.float64(0).__reduce__()[0]
    numpy_names = [(thing, f"{module}.{thing.__name__}") for thing in (reconstruct, scalar) for module in (old, new)]
    return [*numpy_names, np.ndarray, np.dtype, *dtypes, argparse.Namespace]


def _read_torch(source: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_inert_types()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the pickle's protocol
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = _refused(source, str(error))
        if not names:
            raise DataError(f"{source}: is not a checkpoint that torch can read, or it is damaged") from None
        raise DataError(
            f"{source}: holds pickled {', '.join(names)}, and ltpost never runs pickled code. If you trust the file, "
            f"write its tensors anew: python -c \"import torch; c = torch.load('{source.name}', weights_only=False, "
            "map_location='cpu'); torch.save(c.get('state_dict', c) if isinstance(c, dict) else c.state_dict(), "
            "'clean.pth')\""
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{source}: is not a checkpoint that torch can read, or it is damaged ({reason})") from None


def _refused(source: Path, message: str) -> list[str]:
    """The names that ``weights_only`` refused."""
    return sorted(set(re.findall(r"(?:GLOBAL|global:?|class|type) `?([\w.]+\.[\w.]+)`?", message)) - {"torch.load"})
