"""Every layout of the field, built small from its key names: extracted, inspected, exported, loaded again."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import ltpost
from ltpost.errors import DataError, UsageError
from ltpost.extract import extract_features
from ltpost.extract.checkpoints.checkpoint import read_checkpoint
from ltpost.extract.command import export, inspect_ckpt
from ltpost.extract.export.checkpoint import export_head
from ltpost.extract.networks.backbone import Backbone
from ltpost.extract.networks.cifar_resnet import CifarResNet
from ltpost.extract.networks.inspection import describe
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.heads import LinearHead

torchvision = pytest.importorskip("torchvision")
C = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Images for networks of any kind, 32 x 32."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, n in (("val", 6), ("train", 10)):
        images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        np.savez(folder / f"{split}.npz", images=images, labels=np.arange(n) % C)
    return folder


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None, num_classes=C).eval()
    model.fc.bias.data.uniform_(-1, 1)
    return model


@pytest.fixture(scope="module")
def cifar() -> nn.Module:
    torch.manual_seed(0)
    return CifarResNet(20, C).eval()


def wrapped(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def parted(state, prefix=""):
    """Backbone and classifier apart."""
    head = {key: value for key, value in state.items() if key.startswith("fc.")}
    return wrapped({key: value for key, value in state.items() if key not in head}, prefix), wrapped(head, prefix)


def balancing(state, **more):
    backbone, head = parted(state, "module.")
    return {"epoch": 1, "state_dict_best": {"feat_model": backbone, "classifier": {**head, **more}}, "best_acc": 0.4}


SCALES = torch.tensor([0.5, 1.0, 2.0, 4.0])


def mislas(state, scaled=False):
    backbone, head = parted(state, "module.")
    container = {"epoch": 1, "state_dict_model": backbone, "state_dict_classifier": head, "its_ece": 0.1}
    return {**container, "state_dict_lws_model": {"module.learned_norm": SCALES[None]}} if scaled else container


def paco(state):
    backbone, head = parted(state, "module.encoder_q.")
    linear = {key.replace("encoder_q.fc", "linear"): value for key, value in head.items()}
    decoys = {"module.encoder_q.fc.0.weight": torch.zeros(8, 512), "module.queue": torch.zeros(9, 8),
              "module.encoder_k.conv1.weight": torch.zeros(64, 3, 7, 7)}  # fmt: skip
    return {"epoch": 1, "arch": "resnet50", "state_dict": {**backbone, **linear, **decoys}}


def cvpods(state):
    def name(key: str) -> str:
        for stage in range(1, 5):
            key = key.replace(f"layer{stage}.", f"res{stage + 1}.")
        stem = key.startswith(("conv1", "bn1"))
        for number in (1, 2, 3):
            key = key.replace(f"bn{number}.", f"conv{number}.norm.")
        key = key.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        return "network." + ("stem." if stem else "") + key.replace("fc.", "linear.")

    return {"model": {name(key): value for key, value in state.items()}, "optimizer": {}}


#: name to (container from a state_dict, whether it is LWS-scaled)
LAYOUTS = {
    "torchvision": (lambda state: state, False),
    "distributed": (lambda state: {"state_dict": wrapped(state, "module."), "epoch": 3, "optimizer": {}}, False),
    "compiled": (lambda state: {"model": wrapped(state, "_orig_mod.module.")}, False),
    "timm ema": (
        lambda state: {
            "state_dict": {key: torch.zeros_like(value) for key, value in state.items()},
            "state_dict_ema": state,
            "arch": "resnet18",
        },
        False,
    ),
    "lightning": (
        lambda state: {
            "state_dict": {**wrapped(state, "model."), "loss.weight": torch.ones(C)},
            "pytorch-lightning_version": "2.4.0",
            "hyper_parameters": {"lr": 0.1},
        },
        False,
    ),
    "classifier-balancing": (balancing, False),
    "classifier-balancing, latest": (
        lambda state: {"epoch": 1, "state_dict": balancing(state)["state_dict_best"]},
        False,
    ),
    "classifier-balancing, LWS": (lambda state: balancing(state, **{"module.scales": SCALES}), True),
    "KaihuaTang": (lambda state: {**balancing(state), "embed": np.zeros(512, np.float32)}, False),
    "MiSLAS": (mislas, False),
    "MiSLAS, stage 2": (lambda state: mislas(state, scaled=True), True),
    "LTR-weight-balancing": (lambda state: wrapped(state, "encoder."), False),
    "PaCo": (paco, False),
    "cvpods": (cvpods, False),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_in_and_out_again(name, data, resnet, tmp_path):
    make, scaled = LAYOUTS[name]
    zipped = name not in ("KaihuaTang", "torchvision")
    factor = SCALES if scaled else torch.ones(C)
    file = tmp_path / "c.pth"
    torch.save(make(resnet.state_dict()), file, _use_new_zipfile_serialization=zipped)
    path = extract_features(file, data, "val", tmp_path, img_size=32, crop_pct=1.0)
    found = ltpost.load(path)
    images = torch.from_numpy(np.load(data / "val.npz")["images"]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(json.loads(found.attrs["transform"])[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        logits = resnet((images - mean) / std) * factor
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-5)
    assert (found.attrs["arch"], found.attrs["head_key"]) == ("resnet18", "fc")

    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(C, 512)), rng.normal(size=C))
    out = export_head(head, file, tmp_path / "new.pth", features=path, data=data)
    old, new = (torch.load(f, weights_only=True) if name != "KaihuaTang" else None for f in (file, out))
    assert zipfile.is_zipfile(out) == zipped
    back = read_checkpoint(out)
    np.testing.assert_array_equal(back.state["fc.weight"], head.weight)
    np.testing.assert_array_equal(back.state["fc.bias"], head.bias)
    if old is not None:
        assert [*leaves(old)] == [*leaves(new)]
        changed = [key for key, value in leaves(old).items() if not same(value, leaves(new)[key])]
        assert all(key[-1].endswith(("fc.weight", "fc.bias", "linear.weight", "linear.bias", "scales", "learned_norm"))
                   for key in changed)  # fmt: skip
        assert len(changed) == (3 if scaled else 2)
    again = ltpost.load(extract_features(out, data, "val", tmp_path / "again", img_size=32, crop_pct=1.0))
    np.testing.assert_array_equal(again.features, found.features)
    np.testing.assert_allclose(again.logits, head.logits(found.features), rtol=1e-4, atol=1e-4)


def leaves(container, at=()):
    """Every value of nested dictionaries, by the keys that lead to it."""
    if isinstance(container, dict):
        return {path: leaf for key, value in container.items() for path, leaf in leaves(value, (*at, key)).items()}
    return {at: container}


def same(one, other):
    return torch.equal(one, other) and one.dtype == other.dtype if isinstance(one, torch.Tensor) else one == other


def test_exported_checkpoint_loads_strictly_in_torchvision(tmp_path):
    """The whole way: a checkpoint, JPEGs, extract, tau-norm, export, torchvision's own loading and predictions."""
    image = pytest.importorskip("PIL.Image")
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=C).state_dict(), tmp_path / "r18.pth")
    rng = np.random.default_rng(0)
    for split, counts in {"train": (7, 5, 2, 1), "val": (3, 3, 3, 3)}.items():
        for label, count in enumerate(counts):
            (tmp_path / "data" / split / f"class {label}").mkdir(parents=True)
            for number in range(count):
                pixels = image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
                pixels.save(tmp_path / "data" / split / f"class {label}" / f"{number}.jpg")
    found = ltpost.load(extract_features(tmp_path / "r18.pth", tmp_path / "data", "val", tmp_path / "features"))
    head = ltpost.tau_norm(found.head).head(0.7)
    head.save(tmp_path / "heads" / "tnorm.safetensors")
    arguments = ["--head", "heads/tnorm.safetensors", "--ckpt", "r18.pth", "--data", "data"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = CliRunner().invoke(export, arguments, catch_exceptions=False)
    assert "wrote r18-tnorm.pth" in result.stderr
    model = torchvision.models.resnet18(weights=None, num_classes=C).eval()
    model.load_state_dict(torch.load(tmp_path / "r18-tnorm.pth", weights_only=True), strict=True)
    preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    images = torch.stack([preset(image.open(tmp_path / "data" / path)) for path in found.paths])
    with torch.inference_mode():
        logits = model(images).numpy()
    np.testing.assert_allclose(logits, head.logits(found.features), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(logits.argmax(1), head.logits(found.features).argmax(1))


def test_ldam_normed_classifier(data, cifar, tmp_path):
    state = cifar.state_dict()
    weight = torch.randn(64, C)
    del state["linear.bias"]
    torch.save({"arch": "resnet20", "state_dict": {**wrapped(state, "module."), "module.linear.weight": weight}},
               tmp_path / "ldam.pth.tar")  # fmt: skip
    path = extract_features(tmp_path / "ldam.pth.tar", data, "val", tmp_path, head_scale=20.0)
    found = ltpost.load(path)
    np.testing.assert_allclose(np.linalg.norm(found.features, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.head.norms(), 20, rtol=1e-5)
    plain = CifarResNet(20, C).eval()
    plain.load_state_dict({**cifar.state_dict(), "linear.weight": nn.functional.normalize(weight, dim=0).T})
    other = ltpost.load(extract_features(plain, data, "val", tmp_path / "p", mean=(0.4914, 0.4822, 0.4465),
                                         std=(0.2023, 0.1994, 0.2010)))  # fmt: skip
    cosines = other.features @ plain.linear.weight.detach().numpy().T
    cosines /= np.linalg.norm(other.features, axis=1, keepdims=True)
    np.testing.assert_allclose(found.logits, 20 * cosines, atol=1e-4)
    with pytest.raises(DataError, match="keeps directions only, so norms and a bias cannot be written"):
        export_head(LinearHead(np.random.default_rng(0).normal(size=(C, 64))), tmp_path / "ldam.pth.tar", features=path)
    directions = nn.functional.normalize(torch.randn(C, 64)).numpy()
    out = export_head(
        LinearHead(directions), tmp_path / "ldam.pth.tar", tmp_path / "o.pth.tar", features=path, data=data
    )
    new = torch.load(out, weights_only=True)["state_dict"]["module.linear.weight"]
    np.testing.assert_allclose(new.T, directions)
    assert "normalised (D x C); its scale is not in the file" in describe(tmp_path / "ldam.pth.tar")


def test_one_expert_of_several(data, tmp_path):
    torch.manual_seed(0)
    experts = [torchvision.models.resnet18(weights=None, num_classes=C).eval() for _ in range(3)]
    state = {}
    for number, expert in enumerate(experts):
        for key, value in expert.state_dict().items():
            shared = experts[0].state_dict()[key]
            if key.startswith(("layer3.", "layer4.")):
                stage, rest = key.split(".", 1)
                state[f"module.backbone.{stage}s.{number}.{rest}"] = value
            elif key.startswith("fc."):
                state[f"module.backbone.linears.{number}.{key.removeprefix('fc.')}"] = value
            else:
                state[f"module.backbone.{key}"] = shared
    torch.save({"arch": "ResNet", "epoch": 1, "state_dict": state}, tmp_path / "ride.pth")
    with pytest.raises(DataError, match=r"several experts \(RIDE, SADE\), which need expert="):
        extract_features(tmp_path / "ride.pth", data, "val", tmp_path)
    with pytest.raises(UsageError, match="expert= must be one of 0, 1, 2 or all for this file, but is 3"):
        extract_features(tmp_path / "ride.pth", data, "val", tmp_path, expert=3)
    torch.save(experts[0].state_dict(), tmp_path / "one.pth")
    with pytest.raises(UsageError, match="expert=1: .*one.pth has no experts"):
        extract_features(tmp_path / "one.pth", data, "val", tmp_path, expert=1)
    with pytest.raises(UsageError, match="expert= must be a number, or all, but is 'best'"):
        extract_features(tmp_path / "ride.pth", data, "val", tmp_path, expert="best")
    model = torchvision.models.resnet18(weights=None, num_classes=C).eval()
    own = experts[2].state_dict()
    model.load_state_dict({k: v if k.startswith(("layer3", "layer4", "fc")) else experts[0].state_dict()[k]
                           for k, v in own.items()})  # fmt: skip
    torch.save(model.state_dict(), tmp_path / "one.pth")
    path = extract_features(tmp_path / "ride.pth", data, "val", tmp_path / "a", expert=2, img_size=32)
    found, plain = (
        ltpost.load(path),
        ltpost.load(extract_features(tmp_path / "one.pth", data, "val", tmp_path / "b", img_size=32)),
    )
    np.testing.assert_array_equal(found.features, plain.features)
    head = LinearHead(np.ones((C, 512)), np.arange(C))
    new = torch.load(export_head(head, tmp_path / "ride.pth", tmp_path / "n.pth", features=path), weights_only=True)
    np.testing.assert_array_equal(new["state_dict"]["module.backbone.linears.2.weight"], head.weight)
    np.testing.assert_array_equal(
        new["state_dict"]["module.backbone.linears.1.weight"], state["module.backbone.linears.1.weight"]
    )


@pytest.mark.parametrize("normed", [False, True])
def test_all_experts_are_one_linear_classifier(normed, data, tmp_path):
    """CIFAR experts that share the first stages: the mean of their logits, and back into the file."""
    torch.manual_seed(0)
    experts = [CifarResNet(20, C).eval() for _ in range(2)]
    for key in ("conv1", "bn1", "layer1"):
        experts[1].get_submodule(key).load_state_dict(experts[0].get_submodule(key).state_dict())
    state, directions = {}, [torch.randn(64, C) for _ in range(2)]
    for number, expert in enumerate(experts):
        for key, value in expert.state_dict().items():
            stage, rest = key.split(".", 1)
            split = {"layer2": "layer2s", "layer3": "layer3s", "linear": "linears"}.get(stage)
            if normed and stage == "linear":
                state[f"backbone.linears.{number}.weight"] = directions[number]
            else:
                state[f"backbone.{split}.{number}.{rest}" if split else f"backbone.{key}"] = value
    torch.save({"arch": "RIDE", "state_dict": state}, tmp_path / "ride.pth")
    path = extract_features(tmp_path / "ride.pth", data, "val", tmp_path, expert="all")
    found = ltpost.load(path)
    assert (found.num_features, found.attrs["expert"]) == (128, "all")
    one = ltpost.load(extract_features(tmp_path / "ride.pth", data, "val", tmp_path / "one", expert=1))
    part = found.expert(1)
    np.testing.assert_allclose(part.features, one.features, atol=1e-6)
    np.testing.assert_allclose(part.head.logits(one.features), one.logits, rtol=1e-4, atol=1e-4)
    images = torch.from_numpy(np.load(data / "val.npz")["images"]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(json.loads(found.attrs["transform"])[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        if normed:
            logits = torch.zeros(())
            for expert, weight in zip(experts, directions, strict=True):
                expert.linear = nn.Identity()
                features = nn.functional.normalize(expert((images - mean) / std))
                logits = logits + 30 * features @ nn.functional.normalize(weight, dim=0) / 2
        else:
            logits = (experts[0]((images - mean) / std) + experts[1]((images - mean) / std)) / 2
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-4)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(C, 128))
    if normed:  # it can only keep directions
        weight = (weight.reshape(C, 2, 64) / np.linalg.norm(weight.reshape(C, 2, 64), axis=2, keepdims=True)).reshape(
            C, 128
        )
    head = LinearHead(weight * 15, None if normed else rng.normal(size=C))
    out = export_head(head, tmp_path / "ride.pth", tmp_path / "new.pth", features=path, data=data)
    again = ltpost.load(extract_features(out, data, "val", tmp_path / "again", expert="all"))
    np.testing.assert_allclose(again.logits, head.logits(found.features), rtol=1e-4, atol=1e-4)
    torch.save(experts[0].state_dict(), tmp_path / "one.pth")
    with pytest.raises(DataError, match="has no experts"):
        extract_features(tmp_path / "one.pth", data, "val", tmp_path, expert="all")


@pytest.mark.parametrize(
    ("name", "experts", "keys"),
    [
        ("deit_tiny_distilled_patch16_224", 2, ("head", "head_dist")),
        ("levit_128s", 2, ("head.linear", "head_dist.linear")),
        ("crossvit_tiny_240", 1, ("head.0", "head.1")),  # of 96 and 192 features
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch's exporter is full of them
def test_timm_averages_several_classifiers(name, experts, keys, data, tmp_path):
    """Extracted as one linear classifier, rebalanced, and back into all of them."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=C).eval()
    for key in keys:  # timm begins some with zeros
        nn.init.normal_(model.get_submodule(key).weight)
        nn.init.normal_(model.get_submodule(key).bias)
    torch.save({"state_dict": model.state_dict(), "arch": name}, tmp_path / "c.pth")
    path = extract_features(tmp_path / "c.pth", data, "val", tmp_path / "features")
    found = ltpost.load(path)
    assert (found.attrs["head_key"], found.num_experts) == (",".join(keys), experts)
    assert found.num_features == sum(model.get_submodule(key).in_features for key in keys)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    pixels = np.load(data / "val.npz")["images"]
    images = torch.stack([transform(pytest.importorskip("PIL.Image").fromarray(image)) for image in pixels])
    with torch.inference_mode():
        np.testing.assert_allclose(found.logits, model(images), rtol=1e-4, atol=1e-4)
    if experts > 1:
        layer = model.get_submodule(keys[1])
        np.testing.assert_allclose(found.expert(1).head.weight, layer.weight.detach(), rtol=1e-5)
        np.testing.assert_allclose(found.expert(1).head.bias, layer.bias.detach(), rtol=1e-5)

    head = ltpost.tau_norm(found.head, bias="keep").head(0.7)
    out = export_head(head, tmp_path / "c.pth", features=path, data=data)
    model.load_state_dict(torch.load(out, weights_only=True)["state_dict"], strict=True)
    with torch.inference_mode():
        logits = model(images).numpy()
    expected = head.linear().logits(found.features)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
    with pytest.raises(DataError, match="must reproduce the model's logits"):
        extract_features(tmp_path / "c.pth", data, "val", tmp_path, head_key=keys[0])
    with pytest.raises(DataError, match=r"'head.*weight', 'head.*' is .*, but the head is \(4, 7\)"):
        export_head(LinearHead(np.ones((C, 7))), tmp_path / "c.pth", features=None, head_key=",".join(keys))


def test_a_tuple_that_is_no_mean_is_refused(data, tmp_path):
    """VOLO adds half the maximum over its tokens."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("volo_d1_224", num_classes=C).eval()
    torch.save(model.state_dict(), tmp_path / "v.pth")
    with pytest.raises(DataError, match="classifier 'aux_head' must be called once with"):
        extract_features(tmp_path / "v.pth", data, "val", tmp_path, arch="volo_d1_224")


def test_disalign_stores_logits_and_no_head(data, resnet, tmp_path):
    torch.manual_seed(1)
    gate = {"logit_scale": torch.randn(1, C), "logit_bias": torch.randn(1, C),
            "confidence_layer.weight": torch.randn(1, 512), "confidence_layer.bias": torch.randn(1)}  # fmt: skip
    container = cvpods(resnet.state_dict())
    container["model"] |= wrapped(gate, "network.")
    torch.save(container, tmp_path / "disalign.pth")
    path = extract_features(tmp_path / "disalign.pth", data, "val", tmp_path, img_size=32, crop_pct=1.0)
    found = ltpost.load(path)
    torch.save(resnet.state_dict(), tmp_path / "plain.pth")
    plain = ltpost.load(
        extract_features(tmp_path / "plain.pth", data, "val", tmp_path / "p", img_size=32, crop_pct=1.0)
    )
    np.testing.assert_allclose(found.features, plain.features, atol=1e-6)
    x, z = torch.from_numpy(np.array(plain.features)), torch.from_numpy(np.array(plain.logits))
    c = (x @ gate["confidence_layer.weight"].T + gate["confidence_layer.bias"]).sigmoid()
    np.testing.assert_allclose(found.logits, (1 + c * gate["logit_scale"]) * z + c * gate["logit_bias"], atol=1e-4)
    assert found.head is None
    for index in range(2):
        extract_features(tmp_path / "disalign.pth", data, "val", tmp_path / "s", img_size=32, crop_pct=1.0,
                         batch_size=3, shard=(index, 2))  # fmt: skip
    from ltpost.extract.run.merge import merge_shards

    joined = ltpost.load(merge_shards(tmp_path / "s" / "val.h5"))
    np.testing.assert_allclose(joined.logits, found.logits, atol=1e-5)
    with pytest.raises(DataError, match=r"gated by a confidence of each image \(DisAlign\), so a linear head cannot"):
        export_head(LinearHead(np.ones((C, 512))), tmp_path / "disalign.pth", features=path)


REFUSED = {
    "CausalNorm": (lambda state: {**balancing(state), "state_dict_best": {
        "feat_model": parted(state)[0], "classifier": {"module.weight": torch.zeros(C, 512)}}}, "cosine or causal one"),
    "LIFT": (lambda state: {"tuner": {"a": torch.zeros(2)}, "head": {"weight": torch.zeros(C, 8)}},
             "backbone is not in the file"),
    "Places block of MiSLAS": (
        lambda state: {**mislas(state), "state_dict_block": {"module.conv1.weight": torch.ones(2, 2)}},
        "has tensors 'block.…' that resnet18 does not have"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, data, resnet, tmp_path):
    make, message = REFUSED[name]
    torch.save(make(resnet.state_dict()), tmp_path / "c.pth")
    with pytest.raises(DataError, match=message):
        extract_features(tmp_path / "c.pth", data, "val", tmp_path)


def test_half_precision_checkpoint_stays_so(data, resnet, tmp_path):
    state = resnet.state_dict()
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    torch.save(half, tmp_path / "h.pth")
    head = LinearHead(np.random.default_rng(0).normal(size=(C, 512)))
    out = export_head(head, tmp_path / "h.pth", features=None)
    new = torch.load(out, weights_only=True)
    assert out.name == "h-head.pth"
    assert new["fc.weight"].dtype == torch.float16
    assert not new["fc.bias"].any()  # the head has none, the checkpoint's is zero then


def test_safetensors_in_and_out(data, resnet, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    save_file(resnet.state_dict(), tmp_path / "r.safetensors", metadata={"format": "pt", "by": "me"})
    path = extract_features(tmp_path / "r.safetensors", data, "val", tmp_path, img_size=32)
    out = export_head(
        LinearHead(np.ones((C, 512))), tmp_path / "r.safetensors", tmp_path / "n.safetensors", features=path
    )
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "by": "me"}
        assert bool((file.get_tensor("fc.weight") == 1).all())


@pytest.mark.filterwarnings("ignore")  # torch's exporter is full of them
def test_heads_in_other_formats(tmp_path):
    from safetensors.torch import load_file

    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(C, 512)), rng.normal(size=C))
    rows = rng.normal(size=(5, 512)).astype(np.float32)
    for format, read in (("safetensors", load_file), ("torch-head", torch.load)):
        tensors = read(export_head(head, out=tmp_path / "h", format=format))
        layer = nn.Linear(512, C)
        layer.load_state_dict({key.removeprefix("fc."): value for key, value in tensors.items()})
        np.testing.assert_allclose(layer(torch.from_numpy(rows)).detach(), head.logits(rows), atol=1e-4)
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    session = runtime.InferenceSession(export_head(head, out=tmp_path / "h.onnx", format="onnx"))
    np.testing.assert_allclose(session.run(None, {"features": rows})[0], head.logits(rows), atol=1e-4)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "torchvision:resnet18"])
@pytest.mark.filterwarnings("ignore")  # torch's exporter is full of them
def test_onnx_of_the_whole_model(name, data, tmp_path):
    """By the command: one classifier or two, at the image size of the features."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    package, _, short = name.rpartition(":")
    if package:
        model = torchvision.models.get_model(short, weights=None, num_classes=C).eval()
    else:
        model = pytest.importorskip("timm").create_model(short, num_classes=C).eval()
    torch.save({"state_dict": model.state_dict(), "arch": short}, tmp_path / "c.pth")
    size = {"img_size": 32} if package else {}
    found = ltpost.load(extract_features(tmp_path / "c.pth", data, "val", tmp_path / "features", **size))
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=found.head.shape), rng.normal(size=C))
    head.save(tmp_path / "h.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        arguments = ["--head", "h.safetensors", "--ckpt", "c.pth", "--format", "onnx"]
        CliRunner().invoke(export, arguments, catch_exceptions=False)
    session = runtime.InferenceSession(tmp_path / "h.onnx")
    backbone, preprocess = Backbone(model), Preprocess.from_json(json.loads(found.attrs["transform"]))
    pixels = [preprocess.cut(image) for image in np.load(data / "val.npz")["images"][:3]]
    images = preprocess.normalise(torch.from_numpy(np.stack(pixels))).contiguous()
    expected = head.logits(backbone(images)[0].numpy())
    np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, atol=2e-3)


def test_export_errors(data, resnet, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / "r.pth")
    path = extract_features(tmp_path / "r.pth", data, "val", tmp_path, img_size=32)
    head = LinearHead(np.ones((C, 512)))
    for options, kind, message in (
        ({"ckpt": None}, UsageError, "ckpt= is needed"),
        ({"out": tmp_path / "r.pth"}, UsageError, "is the checkpoint itself"),
        ({"format": "pickle"}, UsageError, "format= must be one of"),
        ({"features": tmp_path / "none"}, UsageError, "features=.*none: no such file or folder"),
        ({"head_key": "nose"}, UsageError, "has no 'nose.weight'"),
        ({"head": LinearHead(np.ones((C, 3)))}, DataError, "has 512 features a row, but the head takes 3"),
        ({"head": LinearHead(np.ones((5, 512)))}, DataError, r"'fc.weight' is \(4, 512\), but the head is \(5, 512\)"),
        ({"head": LinearHead(np.ones((5, 512))), "features": None}, UsageError, "no tensors could be the classifier"),
        ({"head": tmp_path / "none.safetensors"}, DataError, "no such head file"),
        ({"out": tmp_path / "r.pth" / "x.pth"}, DataError, "cannot be written"),
    ):
        options = {"head": head, "ckpt": tmp_path / "r.pth", "out": tmp_path / "o.pth", "features": path, **options}
        with pytest.raises(kind, match=message):
            export_head(**options)
    state = resnet.state_dict()
    state["fc.weight"] = state["fc.weight"] + 1
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(DataError, match=r"is not the checkpoint that .*val.h5 was extracted from \(r.pth\)"):
        export_head(head, tmp_path / "other.pth", tmp_path / "o.pth", features=path)
    del state["fc.bias"]
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(DataError, match="'fc' has no bias, but the head has one"):
        export_head(LinearHead(np.ones((C, 512)), np.ones(C)), tmp_path / "b.pth", features=None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.pth", "other.pth", "r.pth", "val.h5"]


def test_a_full_disk_is_said(resnet, tmp_path):
    """In a process of its own, whose files may not grow."""
    from safetensors.torch import save_file

    state = resnet.state_dict()
    torch.save(state, tmp_path / "c.pth")
    torch.save(state, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "c.safetensors")
    LinearHead(np.ones((C, 512))).save(tmp_path / "h.safetensors")
    before = sorted(tmp_path.iterdir())
    code = """
import resource, signal, sys
from ltpost.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
for name in ("c.pth", "legacy.pth", "c.safetensors"):
    try:
        main(["export", "--head", "h.safetensors", "--ckpt", name])
    except SystemExit as end:
        print(name, end.code)
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.stdout.splitlines() == ["c.pth 1", "legacy.pth 1", "c.safetensors 1"]
    messages = found.stderr.splitlines()
    assert len(messages) == 3
    assert all("cannot be written" in message and "File too large" in message for message in messages)
    assert sorted(tmp_path.iterdir()) == before


def test_a_wrong_file_never_gets_its_name(data, resnet, tmp_path, monkeypatch):
    from ltpost.extract.export import checkpoint as module

    torch.save(resnet.state_dict(), tmp_path / "r.pth")
    right = module._replaced
    monkeypatch.setattr(
        module, "_replaced", lambda checkpoint, key, head: right(checkpoint, key, LinearHead(head.weight * 2))
    )
    with pytest.raises(DataError, match="gives other logits than the head"):
        export_head(LinearHead(np.ones((C, 512))), tmp_path / "r.pth", features=None)
    monkeypatch.setattr(module, "_replaced", lambda checkpoint, key, head: {
        **right(checkpoint, key, head), "conv1.weight": torch.zeros(64, 3, 7, 7)})  # fmt: skip
    with pytest.raises(DataError, match="does not hold the other tensors"):
        export_head(LinearHead(np.ones((C, 512))), tmp_path / "r.pth", features=None)
    assert [p.name for p in tmp_path.iterdir()] == ["r.pth"]


def test_inspect(resnet, tmp_path):
    torch.save(balancing(resnet.state_dict(), **{"module.scales": SCALES}), tmp_path / "c.pth")
    text = CliRunner().invoke(inspect_ckpt, [str(tmp_path / "c.pth")], catch_exceptions=False).output
    assert "layout: classifier-balancing, best epoch" in text
    assert "architecture: resnet18" in text
    assert "fc: 4 x 512, bias  (state_dict_best / classifier / module.fc.weight), multiplied by" in text
    torch.save(paco(resnet.state_dict()), tmp_path / "p.pth")
    text = describe(tmp_path / "p.pth")
    assert "layout: PaCo, GPaCo" in text
    assert "fc: 4 x 512, bias  (state_dict / module.linear.weight)" in text
    torch.save({**resnet.state_dict(), "head2.weight": torch.zeros(3, 512)}, tmp_path / "u.pth")
    assert "unused by resnet18: 1 tensors (head2.weight)" in describe(tmp_path / "u.pth")
    torch.save({"tuner": {}, "head": {}}, tmp_path / "l.pth")
    assert "cannot be used: " in describe(tmp_path / "l.pth")
    with pytest.raises(DataError, match="no such checkpoint file"):
        describe(tmp_path / "none.pth")


SHARED = Path(os.environ.get("LTPOST_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.mark.skipif(not (SHARED / "cifar100lt_resnet32").is_dir(), reason="no shared data")
def test_the_real_checkpoint_gets_a_new_head(tmp_path):
    """Stored rows of the real network: the exported file predicts as the head does."""
    folder = SHARED / "cifar100lt_resnet32"
    stored = np.load(folder / "features.npz")
    with h5py.File(tmp_path / "val.h5", "w") as file:
        file["features"], file["labels"] = stored["feat_test"], stored["y_test"]
        file["head/weight"], file["head/bias"] = stored["weight"], stored["bias"]
    shutil.copy(folder / "resnet32_cifar100lt.pth.tar", tmp_path / "c.pth.tar")
    head = LinearHead(stored["weight"] / np.linalg.norm(stored["weight"], axis=1, keepdims=True) ** 0.85)
    out = export_head(head, tmp_path / "c.pth.tar", features=tmp_path / "val.h5")
    new = torch.load(out, weights_only=True)
    weight, bias = (new["state_dict"][f"module.linear.{kind}"].numpy() for kind in ("weight", "bias"))
    predicted = (stored["feat_test"] @ weight.T + bias).argmax(1)
    np.testing.assert_array_equal(predicted, head.logits(stored["feat_test"]).argmax(1))
    assert new["acc1"] == torch.load(tmp_path / "c.pth.tar", weights_only=True)["acc1"]


# -- as the training code of RIDE, SADE and BalPoE saves ---------------------------------------------------------------


class ConfigParser:
    """In place of parse_config.ConfigParser, which their BaseTrainer pickles beside the tensors."""

    def __init__(self):
        self.config = {"arch": {"type": "ResNet32Model"}, "trainer": {"monitor": "max val_accuracy"}}


def save_as_ride(file: Path, accuracy: float = 0.0, key: str = "state_dict") -> dict[str, torch.Tensor]:
    """Two CIFAR experts, saved as RIDE's ``BaseTrainer._save_checkpoint`` does."""
    torch.manual_seed(0)
    experts = [CifarResNet(20, C).eval() for _ in range(2)]
    state = {}
    for number, expert in enumerate(experts):
        for name, value in expert.state_dict().items():
            stage, rest = name.split(".", 1)
            split = {"layer2": "layer2s", "layer3": "layer3s", "linear": "linears"}.get(stage)
            state[f"backbone.{split}.{number}.{rest}" if split else f"backbone.{name}"] = value
    optimizer = torch.optim.SGD(experts[0].parameters(), lr=0.1, momentum=0.9)
    content = {"arch": "ResNet32Model", "epoch": 200, key: state, "optimizer": optimizer.state_dict(),
               "monitor_best": accuracy, "config": ConfigParser()}  # fmt: skip
    torch.save(content, file)
    return state


def follow_remedy(message: str, folder: Path) -> Path:
    """Run the Python program that a refusal names, and give the file that it writes."""
    code = message.split('python -c "', 1)[1].rsplit('"', 1)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(code, {})
    return folder / "clean.pth"


def test_a_checkpoint_of_ride_as_its_trainer_saves_it(data, tmp_path, capsys):
    state = save_as_ride(tmp_path / "ride.pth", accuracy=0.5)
    with pytest.raises(DataError, match="ConfigParser, and ltpost never runs pickled code.*write a copy") as refusal:
        extract_features(tmp_path / "ride.pth", data, "val", tmp_path, expert="all")
    clean = follow_remedy(str(refusal.value), tmp_path)
    kept = torch.load(clean, weights_only=True)
    assert set(kept) == {"arch", "epoch", "state_dict", "optimizer", "monitor_best"}
    assert kept["optimizer"]["param_groups"][0]["momentum"] == 0.9
    path = extract_features(clean, data, "val", tmp_path / "all", expert="all")
    found = ltpost.load(path)
    assert found.num_experts == 2
    out = export_head(found.head, clean, tmp_path / "new.pth", features=path)
    new = torch.load(out, weights_only=True)
    assert set(new) == set(kept)  # RIDE's test.py reads state_dict
    np.testing.assert_allclose(new["state_dict"]["backbone.linears.1.weight"], state["backbone.linears.1.weight"])
    assert "official forward pass" not in capsys.readouterr().err
    one = extract_features(clean, data, "val", tmp_path / "one", expert=0)
    export_head(ltpost.load(one).head, clean, tmp_path / "one.pth", features=one)
    assert "only expert 0 of" in (told := capsys.readouterr().err)
    assert "the official forward pass averages the logits of all 2 experts" in told


@pytest.mark.parametrize("key", ["model", "state_dict_best", None])
def test_experts_are_found_wherever_they_are(key, data, tmp_path):
    state = save_as_ride(tmp_path / "ride.pth")
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "c.pth")
    with pytest.raises(DataError, match="several experts"):
        extract_features(tmp_path / "c.pth", data, "val", tmp_path)
    found = ltpost.load(extract_features(tmp_path / "c.pth", data, "val", tmp_path, expert="all"))
    assert (found.num_experts, found.num_features) == (2, 128)


# -- the accuracy that a checkpoint holds ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"best_acc1": torch.tensor(40.6)}, ("best_acc1", 0.406)),
        ({"best_prec1": 40.6, "acc1": 39.5}, ("acc1", 0.395)),
        ({"monitor_best": 0.48}, ("monitor_best", 0.48)),
        ({"best_acc": np.float64(0.48)}, ("best_acc", 0.48)),
        ({"best_acc1": 0}, None),
        ({"monitor_best": float("inf")}, None),
        ({"acc1": {"all": 0.4047, "many": 0.68, "few": 0.11}}, ("acc1", 0.4047)),
        ({"best_acc": {"many": 0.6}}, None),
        ({"metric": True}, None),
    ],
)
def test_stored_accuracy(stored, expected, cifar, tmp_path):
    torch.save({"state_dict": cifar.state_dict(), **stored}, tmp_path / "c.pth")
    found = read_checkpoint(tmp_path / "c.pth").accuracy
    assert (found is None) if expected is None else found == (expected[0], pytest.approx(expected[1]))


@pytest.mark.parametrize("offset", [0.0, 0.08, 0.4])
def test_stored_accuracy_is_compared_with_the_measured_one(offset, tmp_path, capsys):
    """400 images: chance explains a difference of about 11 points at most."""
    torch.manual_seed(0)
    state = CifarResNet(8, C).state_dict()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "val.npz", images=images, labels=np.zeros(400, np.int64))
    torch.save(state, tmp_path / "c.pth")
    predicted = ltpost.load(extract_features(tmp_path / "c.pth", tmp_path, "val", tmp_path)).logits[:].argmax(axis=1)
    labels = np.where(np.arange(400) % 2, predicted, (predicted + 1) % C)  # a top-1 of 50 %
    for split in ("val", "train"):
        np.savez(tmp_path / f"{split}.npz", images=images, labels=labels)
    torch.save({"state_dict": state, "best_acc1": 100 * (0.5 + offset)}, tmp_path / "c.pth")
    capsys.readouterr()
    extract_features(tmp_path / "c.pth", tmp_path, "val", tmp_path)
    told = capsys.readouterr().err
    assert ("but the checkpoint holds best_acc1" in told) == (offset == 0.4)
    assert ("warning: top-1 is 50.00, but the checkpoint holds best_acc1 90.00" in told) == (offset == 0.4)
    extract_features(tmp_path / "c.pth", tmp_path, "train", tmp_path)
    assert "the checkpoint holds" not in capsys.readouterr().err
    with pytest.raises(DataError, match=r"top-1 must be 90.00 .* but is 50.00: the checkpoint holds best_acc1"):
        extract_features(tmp_path / "c.pth", tmp_path, "val", tmp_path / "e", expect_top1=90 if offset == 0.4 else 0.9)
