"""Heads as modules of PyTorch, and whole networks with them: the scores are those of the head on stored rows."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import ltpost
from ltpost import DataError, FeatureSet, UsageError, load_head, methods
from ltpost.extract import WithHead, extract_features
from ltpost.extract.export import network
from ltpost.extract.export.checkpoint import export_head
from ltpost.extract.export.torch_heads import _MODULES, module_of
from ltpost.extract.networks.cifar_resnet import CifarResNet
from ltpost.extract.pixels.preprocess import Preprocess
from ltpost.extract.predict import predict
from ltpost.heads import (
    CausalNormHead,
    ChangedHead,
    ExpertHead,
    GatedHead,
    JointHead,
    LinearHead,
    MixedHead,
    NeighbourHead,
    NormalizedMeanHead,
    PairwiseHead,
    PrototypeHead,
    RescaledHead,
    SummedHead,
)
from ltpost.heads.normalized import normalized

N, D, C = 17, 6, 4
random = np.random.default_rng(0)
LINEAR, OTHER = (LinearHead(random.normal(size=(C, D)), random.normal(size=C)) for _ in range(2))
MEANS = normalized(random.normal(size=(C, D)))
CHANGED = {
    "power": ChangedHead(LINEAR, power=0.5),
    "third": ChangedHead(LINEAR, power=1 / 3, unit=True),
    "unit": ChangedHead(LINEAR, unit=True),
    "layer": ChangedHead(LinearHead(random.normal(size=(C, 3))), power=0.5, source="a@1"),
}
HEADS = {
    "linear": LINEAR,
    "joint": JointHead(C),
    "rescaled": RescaledHead(JointHead(C), np.arange(1.0, 5), np.arange(4.0)),
    "rescaled linear": RescaledHead(LINEAR, np.arange(1.0, 5)),
    "mixed": MixedHead(JointHead(C), CHANGED["unit"], 0.3),
    "summed": SummedHead([LINEAR, CHANGED["layer"], RescaledHead(JointHead(C), None, np.arange(4.0))], [1, 0.5, 2]),
    **{f"changed {name}": head for name, head in CHANGED.items()},
    "gated": GatedHead(LINEAR, np.arange(4.0), np.ones(C), random.normal(size=D), 0.2),
    "gated unit": GatedHead(LINEAR, np.arange(4.0), np.ones(C), random.normal(size=D), 0.2, unit=True),
    "normalized mean": NormalizedMeanHead(MEANS, random.normal(size=D)),
    "prototypes": PrototypeHead(random.normal(size=(C, D)), random.uniform(0.5, 2, D)),
    "causal norm": CausalNormHead(random.normal(size=(C, D)), random.normal(size=D), 0.7, parts=2),
    "pairwise": PairwiseHead(SummedHead([LINEAR, OTHER], [1, 1]), np.arange(1.0, 5)),
    "neighbours": NeighbourHead(normalized(random.normal(size=(30, D))), np.arange(30) % C, np.arange(1.0, 5), 7),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_module_computes_what_its_head_does(name):
    features, layer = (random.normal(size=(N, width)).astype(np.float32) for width in (D, 3))
    rows = FeatureSet(features, np.arange(N) % C, head=OTHER, layers={"a@1": layer})
    layers = {"a@1": torch.from_numpy(layer)}
    with torch.inference_mode():
        ours = module_of(HEADS[name])(torch.from_numpy(features), torch.from_numpy(OTHER.logits(features)), layers)
    np.testing.assert_allclose(ours, HEADS[name].reader(rows)(slice(None)), rtol=1e-4, atol=1e-4)
    assert ours.dtype == torch.float32


def test_every_module_is_tested():
    assert {type(head) for head in HEADS.values() if head.linear() is None} == set(_MODULES)


def test_heads_of_several_experts_are_refused():
    with pytest.raises(DataError, match="of kind 'expert' reads several experts or views"):
        module_of(ExpertHead(LINEAR, 0))


# -- a whole network --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return CifarResNet(20, 3).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """Features of random images, with layers, one view and the mean of two."""
    folder = tmp_path_factory.mktemp("data")
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    for split in ("train", "val"):
        np.savez(folder / f"{split}.npz", images=images, labels=np.arange(30) % 3)
        for tta in ("off", "flip"):
            extract_features(
                model, folder, split, folder / tta, layers="layer2@2,layer3.0@1", layers_dtype="float32", tta=tta
            )
    return folder


def images_of(folder):
    return torch.from_numpy(np.load(folder / "val.npz")["images"]).permute(0, 3, 1, 2).float() / 255


def layers_head(features):
    train = ltpost.load(features / "train.h5")
    family = methods.get("layers")(train, train.joint, train.count_samples(), tuple(train.layers), shrinkage=0.9)
    return family.head(1.0)


@pytest.mark.parametrize("tta", ["off", "flip"])
def test_scores_are_those_of_the_head_on_stored_rows(tta, folder, model, tmp_path):
    head = layers_head(folder / tta)
    file = head.save(tmp_path / "layers.safetensors")
    network = WithHead(model, file, flip=tta == "flip")
    with torch.inference_mode():
        scores = network(images_of(folder))
    expected = head.reader(ltpost.load(folder / tta / "val.h5"))(slice(None))
    np.testing.assert_allclose(scores, expected, atol=0.03)  # sums of large numbers that nearly cancel
    other = head.reader(ltpost.load(folder / ("off" if tta == "flip" else "flip") / "val.h5"))(slice(None))
    assert np.abs(other - expected).max() > 0.3
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_state_dict_holds_network_and_head(folder, model, tmp_path):
    one, other = (
        WithHead(model, layers_head(folder / "off")),
        WithHead(CifarResNet(20, 3), layers_head(folder / "flip")),
    )
    other.load_state_dict(one.state_dict())
    images = images_of(folder)[:3]
    with torch.inference_mode():
        torch.testing.assert_close(one(images), other(images))


def test_layers_of_other_names(folder, model):
    head = layers_head(folder / "off")
    for changed in head.base.heads[1:]:
        changed.source = changed.source.partition("@")[0]
    taps = {"layer2": "layer2@2", "layer3.0": "layer3.0@1"}
    with torch.inference_mode():
        named = WithHead(model, head, layers=taps)(images_of(folder)[:2])
        torch.testing.assert_close(named, WithHead(model, layers_head(folder / "off"))(images_of(folder)[:2]))
        with pytest.raises(DataError, match=r"gives a map, .* which takes @K"):
            WithHead(model, head)(images_of(folder)[:2])


def test_what_does_not_fit(model):
    with pytest.raises(DataError, match="takes 6 features, but the classifier 'linear' of the network takes 64"):
        WithHead(model, LINEAR)
    with pytest.raises(UsageError, match="has no module 'a'"):
        WithHead(model, HEADS["summed"])
    with pytest.raises(UsageError, match="several possible classifiers"):
        WithHead(nn.Sequential(nn.Linear(2, D), nn.Linear(D, 3)), LINEAR)


# -- the network as a program -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint, images of two splits, features with layers (plain, and the mean of two views), and heads."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    torch.save({"state_dict": CifarResNet(8, 3).state_dict()}, folder / "c.pth")
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    images[10:, :, :8] //= 4  # not symmetric
    for split in ("train", "val"):
        np.savez(folder / f"{split}.npz", images=images, labels=np.arange(20) % 3)
        for tta in ("off", "flip"):
            layers = "layer2@4,layer1@1"
            extract_features(
                folder / "c.pth", folder, split, folder / tta, arch="cifar_resnet8", layers=layers, tta=tta
            )
    for tta in ("off", "flip"):
        layers_head(folder / tta).save(folder / tta / "layers.safetensors")
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("form", "tta"), [("onnx", "flip"), ("torch-export", "off")])
def test_a_written_network_gives_the_scores_of_stored_rows(form, tta, small, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime") if form == "onnx" else None
    options = {"features": small / tta / "val.h5", "format": form, "data": small}
    path = export_head(small / tta / "layers.safetensors", small / "c.pth", tmp_path / "net", **options)
    assert "16 images of" in (told := capsys.readouterr().err)
    assert "stored rows of" in told
    pixels = np.load(small / "val.npz")["images"]
    stored = ltpost.load(small / tta / "val.h5")
    transform = Preprocess.from_json(json.loads(stored.attrs["transform"]))
    images = transform.normalise(torch.from_numpy(pixels))
    if onnxruntime is not None:
        session = onnxruntime.InferenceSession(path)
        (scores,) = session.run(["scores"], {"images": images.numpy()})
        assert {"producer", "preprocess"} <= session.get_modelmeta().custom_metadata_map.keys()
    else:
        with path.open("rb") as file:
            scores = torch.export.load(file).module()(images).detach().numpy()
    expected = load_head(small / tta / "layers.safetensors").reader(stored)(slice(None))
    np.testing.assert_allclose(scores, expected, atol=0.02 * np.abs(expected).max())
    np.testing.assert_array_equal(scores.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("tta", ["off", "flip"])
def test_images_are_answered_with_a_head_that_reads_layers(tta, small, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number, pixels in enumerate(np.load(small / "val.npz")["images"]):
        image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
    file, stored = small / tta / "layers.safetensors", ltpost.load(small / tta / "val.h5")
    found = predict(tmp_path, file, small / "c.pth", features=small / tta / "val.h5", top=3, batch_size=8)
    head = load_head(file)
    np.testing.assert_array_equal(found.classes, np.argsort(-head.reader(stored)(slice(None)), axis=1))
    np.testing.assert_allclose(found.probabilities[:, 0], head.predict_proba(stored).max(axis=1), atol=0.02)


def test_a_program_that_gives_other_scores_gets_no_name(small, tmp_path, monkeypatch):
    head = load_head(small / "off" / "layers.safetensors")
    monkeypatch.setattr(network, "_run_exported", lambda path, images: np.zeros((len(images), 3), np.float32))
    options = {"features": small / "off" / "val.h5", "format": "torch-export"}
    with pytest.raises(DataError, match="its scores differ from what ltpost computes from the network's features by"):
        export_head(head, small / "c.pth", tmp_path / "net.pt2", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written(small, tmp_path):
    file, features = small / "off" / "layers.safetensors", small / "off" / "val.h5"
    with pytest.raises(DataError, match="is not one linear layer over the features, .*format=onnx or torch-export"):
        export_head(file, small / "c.pth", tmp_path / "x", features=features)
    with pytest.raises(UsageError, match="ckpt= is needed for layers and format=onnx, which is the whole network"):
        export_head(file, out=tmp_path / "x", features=features, format="onnx")
    torch.save({"state_dict": CifarResNet(8, 3).state_dict()}, tmp_path / "other.pth")
    with pytest.raises(DataError, match="is not the checkpoint that .*val.h5 was extracted from"):
        export_head(file, tmp_path / "other.pth", tmp_path / "x", features=features, format="torch-export")
