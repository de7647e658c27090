"""The ways in which repositories save checkpoints. ``LAYOUTS`` is the table, with one short entry for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

#: the keys that lead to a tensor in the container
Location = tuple[str, ...]


Container = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """One way to save a checkpoint.

    Args:
        name: for messages.
        matches: whether a container is saved so.
        parts: the places of the mappings that hold tensors, as paths of keys; absent ones are skipped.
        rename: patterns and replacements for the names of tensors, without prefixes; None leaves a tensor out.
        scales: name of the tensor of C factors that multiply the classifier's weight and bias.
        essential: prefix of tensors that the model must use; other unused tensors are only reported.
        refuse: the reason why such a file cannot be used, and what to do.
    """

    name: str
    matches: Callable[[Container], bool]
    parts: tuple[Location, ...] = ()
    rename: tuple[tuple[str, str | None], ...] = ()
    scales: str | None = None
    essential: str | None = None
    refuse: str | None = None


def at(container: Any, *keys: str) -> Any:
    """The value below ``keys``, or None."""
    for key in keys:
        container = container.get(key) if isinstance(container, Mapping) else None
    return container


def _has(*keys: str, under: Location = ()) -> Callable[[Container], bool]:
    """A test whether all ``keys`` (below ``under``) hold tensors."""
    return lambda container: all(is_state(at(container, *under, key)) for key in keys)


def is_state(value: Any) -> bool:
    """Whether a value is a mapping with tensors in it."""
    return isinstance(value, Mapping) and any(isinstance(tensor, Tensor) for tensor in value.values())


def _names(pattern: str, *under: str) -> Callable[[Container], bool]:
    """A test whether the pattern matches the name of a tensor below ``under``."""
    return lambda container: any(re.search(pattern, str(name)) for name in _mapping(at(container, *under)))


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def experts_at(container: Container) -> tuple[Location, list[int]] | None:
    """The place of the tensors of several experts (RIDE, SADE, BalPoE), and their numbers; None without experts."""
    for place in ((), *((key,) for key in container)):
        names = _mapping(at(container, *place))
        numbers = {
            int(match[1]) for name in names if (match := re.search(r"(?:^|\.)linears\.(\d+)\.weight$", str(name)))
        }
        if numbers:
            return place, sorted(numbers)
    return None


def _headless(*under: str) -> Callable[[Container], bool]:
    """A test for classifiers of KaihuaTang/LT.pytorch or OLTR that are a bare ``weight``: cosine or causal."""

    def matches(container: Container) -> bool:
        classifier = at(container, *under, "classifier")
        return is_state(classifier) and {str(name).removeprefix("module.") for name in classifier} == {"weight"}

    return matches


def _either(*matches: Callable[[Container], bool]) -> Callable[[Container], bool]:
    return lambda container: any(match(container) for match in matches)


#: the names of cvpods and detectron2, and those of torchvision
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
    "its classifier is a cosine or causal one (a bare 'weight', no 'fc'). It is not linear in the features, or its "
    "scale is not in the file, so ltpost cannot use it"
)


LAYOUTS: tuple[Layout, ...] = (
    Layout("CausalNorm or cosine classifier (KaihuaTang, OLTR)",
           _either(_headless("state_dict_best"), _headless("state_dict")), refuse=_COSINE),
    Layout("classifier-balancing, best epoch", _has("feat_model", "classifier", under=("state_dict_best",)),
           (("state_dict_best", "feat_model"), ("state_dict_best", "classifier")), scales="scales"),
    Layout("classifier-balancing, latest epoch", _has("feat_model", "classifier", under=("state_dict",)),
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
    Layout("RIDE, SADE (several experts)", lambda container: experts_at(container) is not None,
           refuse="holds several experts (RIDE, SADE), which need expert="),
    Layout("Lightning", lambda container: "pytorch-lightning_version" in container and _has("state_dict")(container),
           (("state_dict",),), ((r"^(model|net|network|backbone|encoder|module)\.", ""),)),
    *(Layout("timm, averaged weights", _has(key), ((key,),)) for key in ("state_dict_ema", "model_ema")),
    *(Layout(f"a state_dict under '{key}'", _has(key), ((key,),))
      for key in ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params",
                  "ema", "ema_state_dict", "ema_model", "model_ema_state_dict")),
    Layout("a bare state_dict", is_state, ((),)),
)  # fmt: skip


def layout_of(container: Container) -> Layout | None:
    """The first layout that a container is saved in; None where no layout fits."""
    return next((layout for layout in LAYOUTS if layout.matches(container)), None)
