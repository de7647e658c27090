"""The whole network with a head, as a program that needs neither ltpost nor the network's code: ONNX or torch.export.

For heads of every kind that :class:`~ltpost.extract.WithHead` knows; the network keeps its classifier, and the layers
that the head reads are taken from the same forward pass. What is written is run again and compared with the head.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltpost.data.features import FeatureSet
from ltpost.errors import DataError, UsageError, first_line
from ltpost.extract.data.forms import open_source
from ltpost.extract.data.source import Source, Unreadable
from ltpost.extract.export.properties import properties_of
from ltpost.extract.export.with_head import WithHead, averaged_variants, stored_taps
from ltpost.extract.messages import tell
from ltpost.extract.networks.backbone import Backbone
from ltpost.extract.networks.builders import known
from ltpost.extract.networks.opening import HEAD_SCALE, Network, open_network
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.heads import Head
from ltpost.output import replacing

#: format to the ending of its files
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
_IMAGES = 16
#: of the largest score, by which a program and the head may differ; and where stored rows are rounded to float16
_EXACT, _ROUNDED = 1e-3, 2e-2


def write_network(
    head: Head,
    target: Path,
    format: str,
    ckpt: str | os.PathLike[str],
    *,
    arch: str | None,
    head_key: str | None,
    feature_set: FeatureSet | None,
    data: str | os.PathLike[str] | None,
    split: str,
) -> Path:
    """Write images (N, channels, height, width), preprocessed, to scores (N, C); arguments as for ``export_head``.

    Raises:
        UsageError: a package is missing, or torch cannot export the network.
        DataError: the head does not fit the network, or the program does not give the head's scores.
    """
    run = _runner(format)
    network = _open(ckpt, arch, head_key, feature_set)
    attrs = {} if feature_set is None else feature_set.attrs
    preprocess = Preprocess.from_json(json.loads(attrs["transform"])) if "transform" in attrs else network.preprocess
    tta = averaged_variants(head, attrs)
    if tta == "five-crop":
        tell(f"warning: {target}: takes one image, where the features are means over five crops of it")
    backbone = Backbone(network.model, network.head_key, gated=network.gated)
    model = network.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    module = WithHead(model, head, head_key=backbone.head_key, layers=stored_taps(feature_set), flip=tta == "flip")
    source = None if data is None else open_source(data, split)
    numbers, images = _images(source, preprocess)
    with torch.inference_mode():
        expected = _by_head(head, module, images, backbone)
    with replacing(target, "out=", keep_ending=True) as partial:
        _write(module, images, partial, format, properties_of(head, feature_set, preprocess))
        scores = run(partial, images)
        _compare(target, scores, expected, _EXACT, "what ltpost computes from the network's features")
        proofs = [f"{len(images)} {'random images' if source is None else f'images of {source.name}'}"]
        stored = None if source is None or tta == "five-crop" else _stored(head, feature_set, source, numbers)
        if stored is not None and feature_set is not None:
            _compare(target, scores, stored, _ROUNDED, f"the head on the stored rows of {feature_set.name}")
            largest = max(1.0, float(np.abs(stored).max()))
            proofs.append(f"stored rows of {feature_set.name} to {np.abs(scores - stored).max() / largest:.1g}")
    tell(f"{target}: run again it gives the head's scores ({', '.join(proofs)}); images are taken as {preprocess}")
    return target


def _open(
    ckpt: str | os.PathLike[str], arch: str | None, head_key: str | None, feature_set: FeatureSet | None
) -> Network:
    """The network that the features came from."""
    attrs = {} if feature_set is None else feature_set.attrs
    stored = str(attrs.get("arch", ""))
    scale = float(attrs.get("head_scale", HEAD_SCALE))
    found_anew = attrs.get("expert") == "all" or "head_scale" in attrs  # their classifiers are made from the checkpoint
    key = head_key or (None if found_anew else attrs.get("head_key"))
    arch = arch or (stored if known(stored) else None)
    which = {"expert": attrs.get("expert"), "weights": attrs.get("weights")}
    network = open_network(ckpt, arch, key, head_scale=scale, **which)
    sha = network.attrs.get("checkpoint_sha256")
    if feature_set is not None and attrs.get("checkpoint_sha256", sha) != sha:
        raise DataError(
            f"{ckpt}: is not the checkpoint that {feature_set.name} was extracted from ({attrs.get('checkpoint')}); "
            "name that one with ckpt=, or the right features="
        )
    return network


def _images(source: Source | None, preprocess: Preprocess) -> tuple[list[int], Tensor]:
    """Row numbers of some images and the images as the network takes them; random ones without a source."""
    if source is None:
        side = preprocess.crop or 32
        return [], torch.rand(_IMAGES, 3, side, side, generator=torch.Generator().manual_seed(0))
    numbers, pixels = [], []
    for number, image in enumerate(source.images.read(slice(0, _IMAGES))):
        cut = None if isinstance(image, Unreadable) else preprocess.cut(image)
        if cut is not None and (not pixels or cut.shape == pixels[0].shape):
            numbers.append(number)
            pixels.append(cut)
    source.images.close()
    if not pixels:
        raise DataError(f"{source.name}: none of the first {_IMAGES} images can be read")
    return numbers, preprocess.normalise(torch.from_numpy(np.stack(pixels)))


# -- writing -----------------------------------------------------------------------------------------------------------


def _write(module: WithHead, images: Tensor, path: Path, format: str, properties: dict[str, str]) -> None:
    any_number: Any = torch.export.Dim("N") if format == "onnx" else torch.export.Dim.AUTO
    shapes = ({0: any_number},)
    two = images[:1].repeat(2, 1, 1, 1)  # one image would fix N
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's exporters are full of them
            if format == "onnx":
                program = torch.onnx.export(
                    module, (two,), dynamo=True, verbose=False, input_names=["images"], output_names=["scores"],
                    dynamic_shapes=shapes,
                )  # fmt: skip
                assert program is not None
                program.model.metadata_props.update(properties)
                program.save(str(path), external_data=False)
            else:
                with path.open("wb") as file:
                    torch.export.save(torch.export.export(module, (two,), dynamic_shapes=shapes), file)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"format={format}: torch cannot export this network ({first_line(error)}); use ltpost.extract.WithHead in "
            "Python"
        ) from None


def _runner(format: str) -> Any:
    """A function of a file and images that runs the written program.

    Raises:
        UsageError: a package is missing.
    """
    if format == "torch-export":
        return _run_exported
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"format=onnx of a network needs {error.name}; install it with: pip install onnx onnxscript onnxruntime"
        ) from None

    def run(path: Path, images: Tensor) -> NDArray[np.float32]:
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"images": images.numpy()})[0])

    return run


def _run_exported(path: Path, images: Tensor) -> NDArray[np.float32]:
    with path.open("rb") as file, torch.inference_mode():
        return np.asarray(torch.export.load(file).module()(images).numpy())


# -- proving -----------------------------------------------------------------------------------------------------------


def _by_head(head: Head, module: WithHead, images: Tensor, backbone: Backbone) -> NDArray[np.float32]:
    """The head's own arithmetic on what the network gives for the images."""
    features, logits, layers = module.inputs(images)
    rows = FeatureSet(
        features.numpy(),
        np.zeros(len(images), np.int64),
        logits=logits.numpy(),
        head=None if backbone.gated else backbone.head,
        layers={name: layer.numpy() for name, layer in layers.items()},
        name="the network",
    )
    return head.reader(rows)(slice(None)).copy()


def _stored(
    head: Head, feature_set: FeatureSet | None, source: Source, numbers: list[int]
) -> NDArray[np.float32] | None:
    """The head's scores on the stored rows of some images; None where rows and images cannot be told to be the same."""
    if feature_set is None or feature_set.has_views or "drawn_from" in feature_set.attrs:
        return None
    same = json.loads(feature_set.attrs.get("dataset", "{}")).get("sha256") == source.fingerprint
    rows = np.flatnonzero(np.isin(feature_set.samples, numbers))
    if not same or len(rows) != len(numbers):
        return None
    return head.reader(feature_set)(rows).copy()


def _compare(
    target: Path, scores: NDArray[np.float32], expected: NDArray[np.float32], share: float, of_what: str
) -> None:
    difference = float(np.abs(scores - expected).max(initial=0.0))
    if not difference <= share * max(1.0, float(np.abs(expected).max(initial=0.0))):
        raise DataError(f"{target}: its scores differ from {of_what} by {difference:.3g}")
