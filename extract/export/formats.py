"""Writes a head alone, or a model with it, for other programs: safetensors, a torch state_dict, ONNX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from ltpost.data.features import FeatureSet
from ltpost.errors import UsageError
from ltpost.extract.joint import parted
from ltpost.extract.messages import first_line
from ltpost.extract.networks.classifier import keys_of
from ltpost.heads import LinearHead
from ltpost.output import replacing

SUFFIXES = {"safetensors": ".safetensors", "torch-head": ".pth", "onnx": ".onnx"}
_OPSET = 17


def write(
    head: LinearHead,
    target: Path,
    format: str,
    head_key: str | None,
    ckpt: str | os.PathLike[str] | None,
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
            _write_onnx_head(head, partial)
        else:
            _write_onnx_model(head, partial, Path(ckpt), arch, head_key, feature_set)
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
        import onnx
    except ImportError:
        raise UsageError("format=onnx needs onnx; install it with: pip install onnx onnxscript") from None
    return onnx


def _write_onnx_head(head: LinearHead, path: Path) -> None:
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
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _write_onnx_model(
    head: LinearHead, path: Path, ckpt: Path, arch: str | None, head_key: str | None, feature_set: FeatureSet | None
) -> None:
    """Write the whole model, from preprocessed images (N, channels, height, width) to logits (N, C)."""
    _onnx()
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError("format=onnx of a model needs onnxscript; install it with: pip install onnxscript") from None
    from ltpost.extract.export.parts import parts_in
    from ltpost.extract.export.proof import backbone_of

    parts = parts_in(ckpt, head, head_key, feature_set)
    backbone, preprocess = backbone_of(ckpt, parts, arch, feature_set)
    model = backbone.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    widths = [layer.in_features for layer in backbone.classifiers]
    for key, (_, part) in zip(keys_of(backbone.head_key), parted(head, widths), strict=True):
        model.set_submodule(key, _layer(part))
    side = preprocess.crop or 32
    images = torch.zeros(2, 3, side, side)
    try:
        program = torch.onnx.export(
            model.eval(), (images,), dynamo=True, verbose=False, input_names=["images"], output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
        )  # fmt: skip
    except RuntimeError as error:
        raise UsageError(f"format=onnx: torch cannot export this model ({first_line(error)})") from None
    assert program is not None
    program.save(str(path), external_data=False)


def _layer(head: LinearHead) -> torch.nn.Linear:
    layer = torch.nn.Linear(head.num_features, head.num_classes, bias=head.bias is not None)
    layer.weight.data = torch.from_numpy(head.weight)
    if head.bias is not None:
        layer.bias.data = torch.from_numpy(head.bias)
    return layer
