"""Writes a head alone, or a model with it, for other programs: safetensors, a torch state_dict, ONNX."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, UsageError, first_line
from ltpost.extract.export.properties import properties_of
from ltpost.extract.joint import parted
from ltpost.extract.networks.backbone import Backbone
from ltpost.extract.networks.classifier import keys_of
from ltpost.extract.networks.opening import open_network
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.heads import LinearHead
from ltpost.output import replacing, signals_held_back

SUFFIXES = {"safetensors": ".safetensors", "torch-head": ".pth", "onnx": ".onnx"}
_OPSET = 17


def write(
    head: LinearHead,
    target: Path,
    format: str,
    head_key: str | None,
    ckpt: str | os.PathLike[str] | torch.nn.Module | None,
    arch: str | None,
    feature_set: FeatureSet | None,
) -> Path:
    """Write ``head`` as ``fc.weight`` (C, D) and ``fc.bias``, or another ``head_key``, or as ONNX; see export_head."""
    name = head_key or "fc"
    tensors = {f"{name}.weight": torch.from_numpy(head.weight)}
    if head.bias is not None:
        tensors[f"{name}.bias"] = torch.from_numpy(head.bias)
    with replacing(target, "out=", keep_ending=True) as partial:
        if format != "onnx":
            save(tensors, partial, safe=format == "safetensors")
        elif ckpt is None:
            _write_onnx_head(head, partial, properties_of(head, feature_set, None))
        else:
            _write_onnx_model(head, partial, ckpt, arch, head_key, feature_set)
    return target


def save(
    content: Any,
    path: Path,
    *,
    safe: bool | None = None,
    metadata: dict[str, str] | None = None,
    zipped: bool = True,
) -> None:
    """Write tensors as safetensors (by default where the name ends so) or as torch does.

    Raises:
        OSError: the file cannot be written, for example on a full disk.
    """
    try:
        if path.suffix == ".safetensors" if safe is None else safe:
            from safetensors.torch import save_file

            save_file(dict(content), path, metadata=metadata)
        else:
            with path.open("wb") as file:
                torch.save(content, file, _use_new_zipfile_serialization=zipped)
    except (RuntimeError, SafetensorError) as error:
        raise _first_cause(error) from None


def _first_cause(error: BaseException) -> BaseException:
    """The first of a chain of errors: after a full disk or a signal, torch closes its file and raises another error."""
    cause = error.__context__
    while cause is not None and not isinstance(cause, (OSError, KeyboardInterrupt, SystemExit)):
        cause = cause.__context__
    return OSError(str(error)) if cause is None else cause


def _onnx() -> Any:
    try:
        with signals_held_back():
            import onnx
    except ImportError:
        raise UsageError("format=onnx needs onnx; install it with: pip install onnx onnxscript") from None
    return onnx


def _write_onnx_head(head: LinearHead, path: Path, properties: dict[str, str]) -> None:
    """Write one Gemm, from features (N, D) to logits (N, C)."""
    onnx = _onnx()
    helper, numpy_helper, kind = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
    bias = np.zeros(head.num_classes, np.float32) if head.bias is None else head.bias
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"], transB=1)],
        "ltpost-head",
        [helper.make_tensor_value_info("features", kind, ["N", head.num_features])],
        [helper.make_tensor_value_info("logits", kind, ["N", head.num_classes])],
        [numpy_helper.from_array(head.weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _write_onnx_model(
    head: LinearHead, path: Path, ckpt: Any, arch: str | None, head_key: str | None, feature_set: FeatureSet | None
) -> None:
    """Write the whole model, from preprocessed images (N, channels, height, width) to logits (N, C)."""
    _onnx()
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError("format=onnx of a model needs onnxscript; install it with: pip install onnxscript") from None
    backbone, preprocess = _network(ckpt, head, arch, head_key, feature_set)
    model = backbone.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    widths = [layer.in_features for layer in backbone.classifiers]
    if (head.num_classes, head.num_features) != (backbone.classifiers[0].out_features, sum(widths)):
        raise DataError(
            f"{path.name}: the classifier of the model is {backbone.head.shape} (C, D), but the head is {head.shape}"
        )
    old = {key: model.get_submodule(key) for key in keys_of(backbone.head_key)}
    for key, (_, part) in zip(old, parted(head, widths), strict=True):
        model.set_submodule(key, _layer(part))
    images = torch.zeros(2, _channels(model, preprocess), *[preprocess.crop or 32] * 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's exporter and transformers are full of them
            program = torch.onnx.export(
                _LogitsOnly(model).eval(), (images,), dynamo=True, verbose=False, input_names=["images"],
                output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("N")},),
            )  # fmt: skip
    except RuntimeError as error:
        raise UsageError(f"format=onnx: torch cannot export this model ({first_line(error)})") from None
    finally:
        for key, layer in old.items():
            model.set_submodule(key, layer)
    assert program is not None
    program.model.metadata_props.update(properties_of(head, feature_set, preprocess))
    program.save(str(path), external_data=False)


def _network(
    ckpt: Any, head: LinearHead, arch: str | None, head_key: str | None, feature_set: FeatureSet | None
) -> tuple[Backbone, Preprocess]:
    """The network of a checkpoint, of a model folder or in memory, and the transform of the features."""
    from ltpost.extract.export.model_folder import head_key_in, without_origin
    from ltpost.extract.export.parts import parts_in
    from ltpost.extract.export.proof import backbone_of

    if not isinstance(ckpt, torch.nn.Module) and not Path(ckpt).is_dir():
        return backbone_of(Path(ckpt), parts_in(Path(ckpt), head, head_key, feature_set), arch, feature_set)
    if not isinstance(ckpt, torch.nn.Module):
        without_origin(feature_set, Path(ckpt))
    network = open_network(ckpt, arch, head_key_in(feature_set, head_key))
    attrs = {} if feature_set is None else feature_set.attrs
    stored = Preprocess.from_json(json.loads(attrs["transform"])) if "transform" in attrs else None
    return Backbone(network.model, network.head_key), network.preprocess if stored is None else stored


class _LogitsOnly(torch.nn.Module):
    """A model whose only output is its logits."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images to logits (n, C)."""
        output = self.model(images)
        logits: torch.Tensor = output if isinstance(output, torch.Tensor) else output["logits"]
        return logits


def _channels(model: torch.nn.Module, preprocess: Preprocess) -> int:
    """Of the images: those of the first convolution, else of the mean."""
    first = next((layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)), None)
    if first is not None:
        return first.in_channels
    return len(preprocess.mean) if len(preprocess.mean) > 1 else 3


def _layer(head: LinearHead) -> torch.nn.Linear:
    layer = torch.nn.Linear(head.num_features, head.num_classes, bias=head.bias is not None)
    layer.weight.data = torch.from_numpy(head.weight)
    if head.bias is not None:
        layer.bias.data = torch.from_numpy(head.bias)
    return layer
