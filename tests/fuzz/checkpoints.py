"""Bad checkpoints: bytes changed, odd containers, hostile pickles, folders of transformers.

A file that is read must give, for every tensor, what lies in the file at the place that ltpost names, and an extraction
with it the features that these tensors stand for. A zip file holds checksums, so one whose bytes were changed must give
the values from before.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ltpost import LtpostError, load
from ltpost.extract import extract_features
from ltpost.extract.checkpoints.checkpoint import number_of_experts, read_checkpoint
from ltpost.extract.networks.inspection import describe
from tests.fuzz.case import Case, refusal, spoil
from tests.fuzz.containers import CHANGES, HOSTILE, MARK

N, D, C = 4, 5, 3
ARCH = "tests.fuzz.checkpoints:Tiny"


class Tiny(nn.Module):
    """(n, 3, 2, 2) to logits (n, C)."""

    def __init__(self, num_classes: int = C):
        super().__init__()
        self.stem, self.norm, self.fc = nn.Linear(12, D), nn.BatchNorm1d(D), nn.Linear(D, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.norm(self.stem(x.flatten(1))).relu())
        return logits


def weights(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    state = Tiny().state_dict()
    state["norm.running_var"] += 0.5
    return state


def containers() -> list[dict[str, Any]]:
    """One state, as different repositories save it."""
    state = weights()
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    last = {name: tensor for name, tensor in state.items() if name.startswith("fc.")}
    optimizer = torch.optim.SGD(Tiny().parameters(), 0.1, momentum=0.9).state_dict()
    more = {"epoch": 3, "best_acc1": torch.tensor(40.5), "optimizer": optimizer, "names": ["a", "b"]}
    experts = body | {f"linears.{e}.{kind}": weights(e)[f"fc.{kind}"] for e in (0, 1) for kind in ("weight", "bias")}
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    balancing = {"feat_model": body, "classifier": {**last, "scales": torch.tensor([1.0, 2.0, 0.5])}}
    return [
        dict(state),
        {"state_dict": wrapped, "arch": "tiny", **more},
        {"model": state, "cls_num_list": np.array([50, 20, 5]), **more},
        {"state_dict_ema": weights(1), "state_dict": state, **more},
        {"state_dict_best": balancing, "state_dict": {"feat_model": body, "classifier": last}, **more},
        {"state_dict_model": body, "state_dict_classifier": last,
         "state_dict_lws_model": {"learned_norm": torch.tensor([[1.0, 2.0, 0.5]])}, **more},
        {"pytorch-lightning_version": "2.1", "state_dict": {f"net.{k}": v for k, v in state.items()}, "loops": {}},
        {"arch": "ResNet32Model", "epoch": 200, "monitor_best": 0.48, "optimizer": optimizer,
         "state_dict": {f"backbone.{name}": tensor for name, tensor in experts.items()}},
        {"model": state | {"confidence_layer.weight": torch.ones(1, D), "confidence_layer.bias": torch.zeros(1),
                           "logit_scale": torch.ones(1, C), "logit_bias": torch.zeros(1, C)}},
    ]  # fmt: skip


@functools.cache
def images() -> Path:
    """A data set of N images, which every case shares."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-images-"))
    pixels = np.random.default_rng(0).integers(0, 256, (N, 2, 2, 3), dtype=np.uint8)
    np.savez(folder / "val.npz", images=pixels, labels=np.arange(N) % C)
    return folder


def zipped(container: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(container, stream)
    return stream.getvalue()


def legacy(container: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(container, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def safe(container: Any) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.clone() for name, tensor in container.items()}, {"format": "pt"})


@functools.cache
def good_files() -> list[tuple[str, bytes]]:
    known = containers()
    return [
        *((".pth", zipped(container)) for container in known),
        *((".pth", legacy(container)) for container in known[:8]),
        *((".safetensors", safe(weights(seed))) for seed in range(4)),
    ]


def make(rng: np.random.Generator, folder: Path) -> Case:
    way = rng.random()
    if way < 0.45:
        files = good_files()
        ending, content = files[int(rng.integers(len(files)))]
        path = folder / f"c{ending}"
        spoilt, how = spoil(content, rng)
        path.write_bytes(spoilt)
        return Case(path, f"{'zip' if content[:2] == b'PK' else ending[1:]} {how}", more=content)
    path = folder / "c.pth"
    if way < 0.85:
        known = containers()
        container: Any = known[int(rng.integers(len(known)))]
        change = CHANGES[int(rng.integers(len(CHANGES)))]
        container = change(container, rng)
        path.write_bytes((zipped if rng.random() < 0.6 else legacy)(container))
        return Case(path, change.__name__, more=container)
    if way < 0.95 or not HAS_TRANSFORMERS:
        hostile = HOSTILE[int(rng.integers(len(HOSTILE)))]
        content, refuse = hostile(rng, folder)
        if rng.random() < 0.5:
            content = in_a_zip(zipped(weights()), content)
        path.write_bytes(content)
        return Case(path, hostile.__name__, must_be_refused=refuse, more=())
    return make_folder(rng, folder)


def in_a_zip(good: bytes, content: bytes) -> bytes:
    """A zip file of torch whose pickle is another one."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("data.pkl") else old.read(name))
    return stream.getvalue()


# -- folders of transformers -------------------------------------------------------------------------------------------

HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


@functools.cache
def model_folder() -> Path:
    import transformers

    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], layer_type="basic", num_labels=C
    )
    folder = Path(tempfile.mkdtemp(prefix="fuzz-hf-"))
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    settings = {"size": {"shortest_edge": 32}, "crop_pct": 0.875, "do_normalize": False, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def make_folder(rng: np.random.Generator, folder: Path) -> Case:
    path = folder / "net"
    shutil.copytree(model_folder(), path)
    name = str(rng.choice(["config.json", "preprocessor_config.json", "model.safetensors"]))
    if rng.random() < 0.6:
        content, _ = spoil((path / name).read_bytes(), rng)
        (path / name).write_bytes(content)
        return Case(path, f"folder, {name}")
    if name == "model.safetensors":
        from safetensors.torch import load_file, save_file

        tensors = load_file(path / name)
        key = str(rng.choice(sorted(tensors)))
        tensor = tensors.pop(key)
        if (change := int(rng.integers(3))) == 1:
            tensors[f"{key}x"] = tensor
        elif change == 2:
            tensors[key] = torch.cat([tensor[None], tensor[None]])
        save_file(tensors, path / name, {"format": "pt"})
        return Case(path, "folder, tensors", must_be_refused=not key.endswith("num_batches_tracked"))
    config = json.loads((path / name).read_text())
    key = str(rng.choice(sorted(config)))
    values: list[Any] = [None, -1, 0, 2**40, "x", [], {}, [1, 2, 3], 1e308, {"height": 3, "width": 4}, True]
    config[key] = values[int(rng.integers(len(values)))]
    (path / name).write_text(json.dumps(config))
    return Case(path, f"folder, {name}")


# -- reading -----------------------------------------------------------------------------------------------------------


def check(case: Case) -> str:
    answer = _check_folder(case) if case.path.is_dir() else _check_file(case)
    return "wrong: the file has run code" if (case.path.parent / MARK).exists() else answer


def _check_folder(case: Case) -> str:
    try:
        found = load(extract_features(case.path, images(), "val", case.path.parent / "f", workers=0, device="cpu"))
    except LtpostError as error:
        return refusal(error, case.path.parent)
    if case.must_be_refused:
        return "wrong: was read"
    return "ok" if np.isfinite(found.features[:]).all() and np.isfinite(found.logits[:]).all() else "wrong: not finite"


def _check_file(case: Case) -> str:
    refused = ""
    try:
        describe(case.path)
        experts = number_of_experts(case.path)
        found = read_checkpoint(case.path, experts[0] if experts else None)
    except LtpostError as error:
        return refusal(error, case.path)
    wrong = wrong_tensors(case, found)
    if wrong:
        return wrong
    try:
        path = extract_features(
            case.path, images(), "val", case.path.parent / "f", arch=ARCH, workers=0, device="cpu",
            expert=experts[0] if experts else None,
        )  # fmt: skip
    except LtpostError as error:
        refused = refusal(error)
    if refused:
        return refused
    if case.must_be_refused:
        return "wrong: was read"
    return wrong_rows(load(path), found.state)


def wrong_tensors(case: Case, found: Any) -> str:
    """What differs from the file itself, or from the file before its bytes were changed; "" where nothing does."""
    if isinstance(case.more, bytes):
        good = case.more
        if case.path.suffix == ".safetensors":
            raw: Any = slow_safetensors(case.path.read_bytes())
        elif good[:2] == b"PK":
            raw = torch.load(io.BytesIO(good), weights_only=False)
        else:
            return ""  # bytes of an old file have no checksum: what torch reads is all that is known
    elif isinstance(case.more, dict):
        raw = case.more
    else:
        return ""
    for name, location in found.locations.items():
        tensor = raw
        for key in location:
            tensor = tensor[key]
        if name.startswith("fc.") and found.scales is not None:
            continue
        if tensor.numel() > 2**20:
            continue  # a few bytes, shown many times
        if tensor.dtype != found.state[name].dtype or tensor.shape != found.state[name].shape:
            return f"wrong: type or shape of {name}"
        one, other = (x.detach().contiguous().view(-1).view(torch.uint8) for x in (tensor, found.state[name]))
        if not torch.equal(one, other):
            return f"wrong: {name}"
    return ""


def slow_safetensors(content: bytes) -> dict[str, Tensor]:
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    kinds = {
        "F32": torch.float32, "I64": torch.int64, "F16": torch.float16, "F64": torch.float64, "I32": torch.int32,
        "BF16": torch.bfloat16, "U8": torch.uint8, "I8": torch.int8, "BOOL": torch.bool, "I16": torch.int16,
    }  # fmt: skip
    return {
        name: torch.frombuffer(bytearray(data[slice(*entry["data_offsets"])]), dtype=kinds[entry["dtype"]]).reshape(
            entry["shape"]
        )
        if entry["data_offsets"][0] < entry["data_offsets"][1]
        else torch.zeros(entry["shape"], dtype=kinds[entry["dtype"]])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def wrong_rows(found: Any, state: dict[str, Tensor]) -> str:
    """Features and logits against those by hand."""
    with np.load(images() / "val.npz") as data:
        x = data["images"].transpose(0, 3, 1, 2).reshape(N, -1) / 255
    tensors = {name: tensor.detach().double().numpy() for name, tensor in state.items()}
    with np.errstate(all="ignore"):
        hidden = x @ tensors["stem.weight"].T + tensors["stem.bias"]
        scale = tensors["norm.weight"] / np.sqrt(tensors["norm.running_var"] + 1e-5)
        hidden = np.maximum((hidden - tensors["norm.running_mean"]) * scale + tensors["norm.bias"], 0)
        size = min(1e9, max(float(np.abs(tensor).max(initial=0)) for tensor in tensors.values())) ** 2 + 1
    if not np.isfinite(found.features[:]).all():
        return "wrong: features are not finite"
    if size > 1e6:  # float32 rounds
        return "ok"
    if not np.allclose(found.features[:], hidden, rtol=1e-3, atol=1e-4 * size):
        return "wrong: features"
    if "confidence_layer.weight" in tensors:
        return "ok"
    logits = hidden @ tensors["fc.weight"].T + tensors["fc.bias"]
    return "ok" if np.allclose(found.logits[:], logits, rtol=1e-3, atol=1e-3 * size) else "wrong: logits"
