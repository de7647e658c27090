"""Model folders of transformers in and out, ONNX with what a program has to know, names of files, model cards."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import make_split
from PIL import Image
from torch import nn

import ltpost
from ltpost import DataError, Experiment, LinearHead, UsageError
from ltpost.cli import cli
from ltpost.extract import extract_features
from ltpost.extract.export.card import TITLE, card, write_card
from ltpost.extract.export.checkpoint import export_head, named_after
from ltpost.extract.networks.inspection import describe
from ltpost.extract.pixels.preprocess import Preprocess

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
CLASSES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder vit/ as save_pretrained writes it, images, features, and a head that was chosen on them."""
    home = tmp_path_factory.mktemp("vit")
    rng = np.random.default_rng(0)
    for split, counts in (("train", (6, 3, 2)), ("val", (3, 3, 3))):
        for name, count in zip(CLASSES, counts, strict=True):
            (home / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(home / "data" / split / name / f"{number}.png")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        num_labels=3, id2label=dict(enumerate(CLASSES)), label2id={name: c for c, name in enumerate(CLASSES)},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(home / "vit")
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "resample": 2,
                 "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # fmt: skip
    (home / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    (home / "vit" / "README.md").write_text("# My model\n\nText.\n")
    for split in ("train", "val"):
        extract_features(home / "vit", home / "data", split, home / "features", workers=0)
    Experiment(home / "features", oracle=True).run("crt", strengths=(0.1,)).head.save(home / "crt.safetensors")
    return home


def images_of(home):
    """The images of val as the network takes them, and the stored rows."""
    val = ltpost.load(home / "features" / "val.h5")
    preprocess = Preprocess.from_json(json.loads(val.attrs["transform"]))
    pictures = [Image.open(home / "data" / path) for path in val.paths]
    pixels = torch.from_numpy(np.stack([preprocess.cut(picture) for picture in pictures]))
    return preprocess.normalise(pixels).contiguous(), val


def test_folder_in_folder_out(home, monkeypatch):
    monkeypatch.chdir(home)
    args = ["export", "--head", "crt.safetensors", "--ckpt", "vit/", "--data", "data", "--card"]
    result = CliRunner().invoke(cli, args, catch_exceptions=False)
    assert (
        "vit-crt: loaded again, it gives the head's logits (9 rows of features/val.h5, by transformers" in result.stderr
    )
    model = transformers.AutoModelForImageClassification.from_pretrained(home / "vit-crt").eval()
    images, val = images_of(home)
    with torch.inference_mode():
        found = model(images).logits.numpy()
    head = ltpost.load_head("crt.safetensors")
    np.testing.assert_allclose(found, head.logits(val.features[:]), atol=1e-4)
    before, after = ({file.name: file.read_bytes() for file in (home / name).iterdir()} for name in ("vit", "vit-crt"))
    assert set(before) == set(after)
    assert {name for name in before if before[name] != after[name]} == {"model.safetensors", "README.md"}
    readme = after["README.md"].decode()
    assert readme.startswith("# My model\n\nText.\n\n" + TITLE)
    assert "method:crt|" in readme
    assert CliRunner().invoke(cli, args, catch_exceptions=False).exit_code == 0  # again, in the place of the first
    assert (home / "vit-crt" / "README.md").read_text() == readme
    assert not list(home.glob(".vit*"))


def test_weights_in_several_files(home, tmp_path):
    model = transformers.AutoModelForImageClassification.from_pretrained(home / "vit")
    model.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    files = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 1
    (tmp_path / "shards" / "preprocessor_config.json").write_bytes((home / "vit/preprocessor_config.json").read_bytes())
    features = extract_features(tmp_path / "shards", home / "data", "val", tmp_path / "f", workers=0)
    head = ltpost.load_head(home / "crt.safetensors")
    out = export_head(head, tmp_path / "shards", tmp_path / "new", features=features)
    again = transformers.AutoModelForImageClassification.from_pretrained(out)
    np.testing.assert_allclose(again.classifier.weight.detach(), head.weight, atol=1e-6)


def test_mistakes_with_folders(home, tmp_path):
    def message(kind, ckpt=home / "vit", head=home / "crt.safetensors", out=None, **options):
        with pytest.raises(kind) as error:
            export_head(head, ckpt, out or tmp_path / "out", features=home / "features", **options)
        assert not (tmp_path / "out").exists()
        return str(error.value)

    assert "is the checkpoint itself" in message(UsageError, out=home / "vit")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert "is there already, and no model folder" in message(UsageError, out=tmp_path / "full")
    assert "must be a checkpoint file, or a model folder" in message(DataError, ckpt=tmp_path / "full")
    assert "has 16 features a row, but the head takes 4" in message(DataError, head=LinearHead(np.eye(3, 4)))
    other = transformers.AutoModelForImageClassification.from_pretrained(home / "vit")
    other.vit.layernorm.weight.data += 1
    other.save_pretrained(tmp_path / "other")
    assert "is not the checkpoint that" in message(DataError, ckpt=tmp_path / "other")


def test_inspect_a_folder(home, tmp_path):
    text = describe(home / "vit")
    for words in ("architecture: ViTForImageClassification (vit)", "classes: 3 (ant, bee, cat)", "model.safetensors: ",
                  "classifier: 3 x 16, bias  (model.safetensors)"):  # fmt: skip
        assert words in text
    assert CliRunner().invoke(cli, ["inspect-ckpt", str(home / "vit")]).stdout.strip() == text.strip()
    with pytest.raises(DataError, match="must be a checkpoint file, or a model folder"):
        describe(tmp_path)


def properties(path):
    onnx = pytest.importorskip("onnx")
    return {one.key: one.value for one in onnx.load(path).metadata_props}


def test_onnx_of_a_model_folder(home, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    head = ltpost.load_head(home / "crt.safetensors")
    head.info["temperature"] = 1.5
    out = export_head(head, home / "vit", tmp_path / "m.onnx", format="onnx", features=home / "features")
    images, val = images_of(home)
    found = runtime.InferenceSession(out).run(["logits"], {"images": images.numpy()})[0]
    np.testing.assert_allclose(found, head.logits(val.features[:]), atol=1e-4)
    told = properties(out)
    assert json.loads(told["class_names"]) == CLASSES
    assert Preprocess.from_json(json.loads(told["preprocess"])).crop == 32
    assert told["signature"].startswith("method:crt|")
    assert json.loads(told["temperature"]) == 1.5
    alone = export_head(head, out=tmp_path / "h.onnx", format="onnx", features=home / "features")
    assert json.loads(properties(alone)["class_names"]) == CLASSES
    assert "preprocess" not in properties(alone)


class Own(nn.Module):
    """Grey images, and a dictionary as its answer."""

    def __init__(self, num_classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, num_classes)

    def forward(self, x):
        return {"logits": self.fc(torch.relu(self.conv(x)).mean((2, 3)))}


def test_onnx_of_an_own_model(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model, rng = Own().eval(), np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(3, 4)), rng.normal(size=3))
    before = model.fc
    out = export_head(head, model, tmp_path / "own.onnx", format="onnx", features=None)
    assert model.fc is before
    images = torch.rand(5, 1, 32, 32)
    with torch.inference_mode():
        features = torch.relu(model.conv(images)).mean((2, 3)).numpy()
    found = runtime.InferenceSession(out).run(["logits"], {"images": images.numpy()})[0]
    np.testing.assert_allclose(found, head.logits(features), atol=1e-4)
    with pytest.raises(DataError, match=r"the classifier of the model is \(3, 4\)"):
        export_head(LinearHead(np.eye(3, 5)), model, tmp_path / "own.onnx", format="onnx", features=None)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("r32.pth.tar", "r32-tnorm.pth.tar"),
        ("a/r50.pth", "a/r50-tnorm.pth"),
        ("x.ckpt", "x-tnorm.ckpt"),
        ("m.v2.safetensors", "m.v2-tnorm.safetensors"),
        ("final_model", "final_model-tnorm"),
        ("vit-b.16", "vit-b.16-tnorm"),
    ],
)
def test_default_names(tmp_path, source, expected):
    assert named_after(tmp_path / source, "tnorm") == tmp_path / expected


# -- cards -------------------------------------------------------------------------------------------------------------


def test_card_of_a_file(folder, tmp_path):
    from ltpost.extract.networks.cifar_resnet import CifarResNet

    torch.manual_seed(0)
    torch.save({"state_dict": CifarResNet(8, 10).state_dict()}, tmp_path / "r8.pth.tar")
    head = Experiment(folder, calibration="temperature").run("la").head
    text = card(head, "la", "r8.pth.tar", ltpost.load(folder / "test.h5"))
    assert "The classifier of `r8.pth.tar` was replaced" in text
    assert "logit adjustment (`la`)" in text
    assert f"Chosen on val by all: tau {head.info['params']['tau']:.4g}" in text
    assert f"Signature: `{head.info['signature']}`" in text
    assert "| la | " in text
    assert "softmax(logits / " in text
    written = write_card(head, "la", tmp_path / "r8-la.pth.tar", tmp_path / "r8.pth.tar", folder)
    assert written == tmp_path / "r8-la.md"
    assert "test: 300 rows" in written.read_text()


def test_card_of_a_head_that_says_nothing_of_itself():
    text = card(make_split("val").head, "mine")
    assert text.startswith(TITLE)
    assert "Method" not in text


def test_a_card_keeps_what_stands_around_it(tmp_path):
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "README.md").write_text(f"# A\n\n{TITLE}\n\nold\n\n## License\n\nMIT\n")
    write_card(make_split("val").head, "mine", tmp_path / "vit", None, None)
    text = (tmp_path / "vit" / "README.md").read_text()
    assert text.startswith(f"# A\n\n{TITLE}\n\nThe classifier")
    assert text.endswith("\n\n## License\n\nMIT\n")
    assert "old" not in text
