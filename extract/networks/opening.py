"""Turns a module, a checkpoint file or a model folder into a network that is ready to run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ltpost.errors import DataError, UsageError
from ltpost.extract.checkpoints.checkpoint import Checkpoint, is_gated, read_checkpoint, read_experts
from ltpost.extract.checkpoints.container import sha256_of_state
from ltpost.extract.checkpoints.stored_accuracy import Accuracy, accuracy_of_folder
from ltpost.extract.messages import some, tell
from ltpost.extract.networks.builders import known, own_preprocess
from ltpost.extract.networks.classifier import unwrapped
from ltpost.extract.networks.collating import Sounds, Tokens
from ltpost.extract.networks.experts import side_by_side
from ltpost.extract.networks.hugging_face import is_model_folder, open_model_folder
from ltpost.extract.networks.models import build, build_gated, build_normed, check_finite
from ltpost.extract.networks.recognition import candidates
from ltpost.extract.pixels.preprocess import Preprocess

#: s of LDAM's NormedLinear (kaidic/LDAM-DRW, losses.py); checkpoints do not hold it
HEAD_SCALE = 30.0


@dataclass(frozen=True)
class Network:
    """A model, ready to run.

    Args:
        arch: its name.
        model: gives logits (n, C).
        preprocess: its evaluation transform, where it takes images.
        head_key: name of its classifier, or None where it is not known yet.
        attrs: its provenance, for the feature file.
        gated: whether its logits are not linear in the features; then there is no head to store.
        own: whether it is a module of the user, which stays on its device.
        collate: turns texts or sounds into its inputs; None where it takes images or is the user's.
    """

    arch: str
    model: nn.Module
    preprocess: Preprocess
    head_key: str | None
    attrs: dict[str, Any]
    gated: bool = False
    own: bool = False
    collate: Tokens | Sounds | None = None

    @property
    def found_by_running(self) -> bool:
        """Whether its classifier is looked for by running it, as no checkpoint names it."""
        return self.own or self.collate is not None


def open_network(
    model: nn.Module | str | os.PathLike[str],
    arch: str | None = None,
    head_key: str | None = None,
    *,
    expert: int | str | None = None,
    head_scale: float = HEAD_SCALE,
    weights: str | None = None,
    max_length: float | None = None,
) -> Network:
    """Open a module, a checkpoint file or a model folder of transformers; arguments as for :func:`extract_features`.

    A module that is wrapped (DataParallel, DistributedDataParallel, torch.compile) is taken out.
    """
    if isinstance(model, nn.Module):
        model = unwrapped(model)
        attrs = {"model_sha256": sha256_of_state(model.state_dict())}
        return Network(type(model).__name__, model, own_preprocess(model), head_key, attrs, own=True)
    if is_model_folder(Path(model)):
        arch, module, prepare, sha256 = open_model_folder(Path(model), max_length)
        attrs = {"checkpoint": Path(model).name, "checkpoint_sha256": sha256}
        attrs |= _accuracy_attrs(accuracy_of_folder(Path(model)))
        if isinstance(prepare, Preprocess):
            return Network(arch, module, prepare, head_key, attrs)
        return Network(arch, module, Preprocess(), head_key, attrs, collate=prepare)
    if isinstance(expert, str) and expert != "all" and re.fullmatch(r"[0-9]{1,9}", expert) is None:
        raise UsageError(f"expert= must be a number, or all, but is '{expert}'")
    if not 0 < head_scale < float("inf"):
        raise UsageError(f"head_scale= must be positive, but is {head_scale}")
    gated = False
    extra: dict[str, Any] = {} if expert is None else {"expert": str(expert)}
    if expert == "all":
        experts = read_experts(model, weights)
        checkpoint, head_key = experts[0], "fc"
        models = []
        for one in experts:
            arch, module, preprocess = open_model(one, arch, None, head_scale)
            models.append(module)
        module = side_by_side(models, [one.normed for one in experts])
        extra["experts"] = len(experts)
    else:
        checkpoint = read_checkpoint(model, None if expert is None else int(expert), weights)
        head_key = None if head_key is None else checkpoint.module_name(head_key)
        arch, module, preprocess = open_model(checkpoint, arch, head_key, head_scale)
        head_key = f"{checkpoint.normed}.1" if checkpoint.normed else head_key
        if gated := is_gated(checkpoint.state):
            head_key = "fc.linear"
            tell(
                f"{checkpoint.path}: its logits are gated by a confidence of each image (DisAlign). They are stored "
                "without a linear head, so only methods that work on logits can run"
            )
    if checkpoint.normed:
        extra["head_scale"] = head_scale
    if checkpoint.weights is not None:
        extra["weights"] = checkpoint.weights
    if expert is None or expert == "all":  # the accuracy of a network is not that of one of its experts
        extra |= _accuracy_attrs(checkpoint.accuracy)
    origin = {
        "layout": checkpoint.layout.name,
        "checkpoint": checkpoint.path.name,
        "checkpoint_sha256": checkpoint.sha256,
    }
    return Network(arch, module, preprocess, head_key, origin | extra, gated)


def _accuracy_attrs(accuracy: Accuracy | None) -> dict[str, Any]:
    return {} if accuracy is None else {"stored_accuracy_key": accuracy[0], "stored_accuracy": accuracy[1]}


def open_model(
    checkpoint: Checkpoint, arch: str | None = None, head_key: str | None = None, head_scale: float = HEAD_SCALE
) -> tuple[str, nn.Module, Preprocess]:
    """The name of the architecture, the model with the checkpoint's tensors, and its evaluation transform.

    Raises:
        UsageError: the tensors fit no known architecture, or several; the message lists the candidates.
        DataError: the tensors do not fill the architecture.
    """
    weight = checkpoint.state.get(f"{head_key}.weight")
    num_classes = None if weight is None else len(weight)
    if arch is None:
        names = candidates(checkpoint.state)
        if not names and checkpoint.arch is not None and known(checkpoint.arch):
            names = [checkpoint.arch]
        if len(names) > 1:
            raise UsageError(
                f"{checkpoint.path}: its tensors fit several architectures ({', '.join(names)}); choose with arch="
            )
        if not names:
            hint = f"; the file names '{checkpoint.arch}'" if checkpoint.arch else ""
            raise UsageError(
                f"{checkpoint.path}: its tensors do not show its architecture{hint}; name it with arch= "
                "(of torchvision, timm, cifar_resnet32, …, or your own package.module:factory)"
            )
        arch = names[0]
    try:
        if is_gated(checkpoint.state):
            model, preprocess = build_gated(arch, checkpoint.state)
        elif checkpoint.normed:
            model, preprocess = build_normed(arch, checkpoint.state, checkpoint.normed, head_scale)
        else:
            model, preprocess = build(arch, checkpoint.state, num_classes)
    except DataError as error:
        raise DataError(f"{checkpoint.path}: {error}") from None
    check_finite(model, checkpoint.path)
    used = {*model.state_dict(), f"{checkpoint.normed}.weight"}
    gate = ("fc.", "confidence_layer.", "logit_") if is_gated(checkpoint.state) else ()
    unused = [key for key in checkpoint.state if key not in used and not key.startswith(gate)]
    essential = checkpoint.layout.essential
    if essential and any(key.startswith(essential) for key in unused):
        raise DataError(
            f"{checkpoint.path}: {checkpoint.layout.name} has tensors '{essential}…' that {arch} does not have; "
            "give a model that has them as arch=package.module:factory"
        )
    if unused:
        tell(f"{checkpoint.path}: {len(unused)} of its tensors are not used by {arch} ({some(unused)})")
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return arch, model, preprocess
