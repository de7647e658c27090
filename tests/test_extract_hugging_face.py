"""Model folders of transformers and data sets of datasets, made here and read from disk; skipped where absent."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from scipy.io import wavfile

import ltpost
from ltpost.errors import DataError, UsageError
from ltpost.extract import extract_features
from ltpost.extract.command import extract
from ltpost.extract.data.forms import open_source
from ltpost.extract.export.checkpoint import export_head
from ltpost.extract.networks.auto_taps import resolved
from ltpost.extract.networks.hugging_face import _preprocess
from ltpost.extract.predict import predict
from ltpost.heads import LinearHead

pytestmark = pytest.mark.filterwarnings("ignore")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    pictures = []
    for split in ("train", "val"):
        for name in ("ant", "bee", "cat"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                picture = Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))
                picture.save(folder / f"{number}.png")
                pictures.append(picture)
    return tmp_path / "data", pictures[6:]


def test_transformers_folder(images, tmp_path):
    transformers = pytest.importorskip("transformers")
    data, pictures = images
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "net")
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875, resample=3)
    processor.save_pretrained(tmp_path / "net")
    found = ltpost.load(extract_features(tmp_path / "net", data, "val", tmp_path / "f", workers=0))
    transform = json.loads(found.attrs["transform"])
    assert (transform["resize"], transform["crop"], transform["interpolation"]) == (36, 32, "bicubic")
    assert (found.attrs["arch"], found.attrs["head_key"]) == ("ResNetForImageClassification", "classifier.1")
    from ltpost.extract.pixels.preprocess import Preprocess

    preprocess = Preprocess(36, 32, interpolation="bicubic", mean=tuple(transform["mean"]), std=tuple(transform["std"]))
    batch = preprocess.normalise(torch.from_numpy(np.stack([preprocess.cut(picture) for picture in pictures])))
    with torch.inference_mode():
        np.testing.assert_allclose(found.logits, model(batch).logits, atol=1e-5)

    head = LinearHead(np.random.default_rng(0).normal(size=(3, 16)), np.arange(3))
    weights = tmp_path / "net" / "model.safetensors"
    export_head(head, weights, tmp_path / "new.safetensors", features=tmp_path / "f").replace(weights)
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "net").eval()
    with torch.inference_mode():
        np.testing.assert_allclose(again(batch).logits, head.logits(found.features), atol=1e-4)
    (tmp_path / "net" / "config.json").write_text("{}")
    with pytest.raises(
        DataError, match="must be a model that classifies images, texts or sounds .* but is of no known"
    ):
        extract_features(tmp_path / "net", data, "val", tmp_path / "f")


def test_a_folder_of_another_task(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.BertConfig(architectures=["BertForTokenClassification"]).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"must be a model that classifies .* but is BertForTokenClassification"):
        extract_features(tmp_path, tmp_path, "val", tmp_path / "f")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A model folder with a vocabulary of its own, and a classifier of two linear layers."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("texts") / "net"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    own = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=own, model_max_length=12, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.RobertaConfig(
        vocab_size=len(words), max_position_embeddings=16, pad_token_id=0, **sizes,
        id2label={0: "pos", 1: "neg", 2: "neutral"}, label2id={"pos": 0, "neg": 1, "neutral": 2},
    )  # fmt: skip
    transformers.RobertaForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


WORDS = ["good", "bad", "film", "day", "very"]
TEXTS = [" ".join(WORDS[(row + place) % 5] for place in range(1 + row * 2)) for row in range(7)]
LABELS = ["pos", "neg", "neutral", "pos", "neg", "pos", "pos"]


def logits_of(folder, *texts, longest=12):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(*texts, truncation=True, max_length=longest, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()(**batch).logits


def inputs_of(folder, texts):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer(texts, truncation=True, max_length=12, padding=True, return_tensors="pt")


def test_texts_in_a_table(bert, tmp_path, capsys):
    frame = pd.DataFrame({"id": range(7), "text": TEXTS, "label": LABELS})
    frame.to_csv(tmp_path / "val.csv", index=False)
    frame[:4].to_csv(tmp_path / "train.csv", index=False)
    found = ltpost.load(extract_features(bert, tmp_path, "val", tmp_path / "f", batch_size=3))
    np.testing.assert_allclose(found.logits, logits_of(bert, TEXTS), atol=1e-5)
    assert (found.attrs["arch"], found.attrs["head_key"]) == ("RobertaForSequenceClassification", "classifier.out_proj")
    assert found.class_names == ["pos", "neg", "neutral"]  # the model's order, not the sorted one
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert found.class_counts.tolist() == [2, 1, 1]
    told = capsys.readouterr().err
    assert "at most 12 tokens, padded to the longest text of a batch" in told
    assert "2 texts are longer than 12 tokens, and were cut" in told
    options = ["--max-length", "5", "--column", "text", "--label-column", "label", "--split", "train,val"]
    command = ["--ckpt", str(bert), "--data", str(tmp_path), "--out", str(tmp_path / "g"), *options]
    assert CliRunner().invoke(extract, command, catch_exceptions=False).exit_code == 0
    found = ltpost.load(tmp_path / "g" / "val.h5")
    np.testing.assert_allclose(found.logits, logits_of(bert, TEXTS, longest=5), atol=1e-5)
    assert len(ltpost.load(tmp_path / "g" / "train.h5")) == 4


def test_texts_are_answered_without_labels(bert, tmp_path):
    frame = pd.DataFrame({"id": range(7), "text": TEXTS, "label": LABELS})
    frame[["id", "text"]].to_csv(tmp_path / "new.csv", index=False)
    (tmp_path / "new.txt").write_text("\n".join(TEXTS) + "\n")
    logits = logits_of(bert, TEXTS)
    for source in (tmp_path / "new.csv", tmp_path / "new.txt", TEXTS):
        found = predict(source, ckpt=bert, features=None, top=2, batch_size=3)
        np.testing.assert_array_equal(found.classes, logits.argsort(dim=1, descending=True)[:, :2])
        np.testing.assert_allclose(found.probabilities, logits.softmax(1).sort(descending=True)[0][:, :2], atol=1e-5)
    assert (found.names[2], found.class_names) == ("2", ["pos", "neg", "neutral"])
    frame.to_csv(tmp_path / "val.csv", index=False)
    extract_features(bert, tmp_path, "val", tmp_path / "f")
    val = ltpost.load(tmp_path / "f" / "val.h5")
    head = ltpost.LinearHead(val.head.weight[::-1].copy(), val.head.bias)
    expected = head.predict(val.features[:])
    found = predict(tmp_path / "new.csv", head, bert, features=tmp_path / "f", column="text")
    np.testing.assert_array_equal(found.classes[:, 0], expected)
    for source, options, message in (
        (tmp_path / "val.csv", {"column": "c"}, "has no column 'c', only id"),
        (tmp_path / "no.csv", {}, "no such table"),
        (tmp_path / "no.txt", {}, "no such file; texts come as a table"),
        (tmp_path / "new.txt", {"column": "text"}, "column= is for tables"),
    ):
        with pytest.raises(UsageError, match=message):
            predict(source, ckpt=bert, features=None, **options)


def test_a_text_model_with_a_head_as_onnx(bert, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(tmp_path / "val.csv", index=False)
    val = ltpost.load(extract_features(bert, tmp_path, "val", tmp_path / "f"))
    head = LinearHead(val.head.weight[::-1].copy(), val.head.bias)
    path = export_head(head, bert, tmp_path / "bert.onnx", format="onnx", features=tmp_path / "f")
    session = runtime.InferenceSession(path)
    batch = inputs_of(bert, TEXTS)
    names = [one.name for one in session.get_inputs()]
    (logits,) = session.run(None, {name: batch[name].numpy() for name in names})
    np.testing.assert_allclose(logits, head.logits(val.features[:]), atol=1e-4)
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["class_names"]) == ["pos", "neg", "neutral"]
    assert "at most 12 tokens" in json.loads(properties["preprocess"])["prepared"]


def test_pairs_of_texts_in_parquet_and_in_a_data_set(bert, tmp_path):
    datasets = pytest.importorskip("datasets")
    labels = [["pos", "neg", "neutral"].index(label) for label in LABELS]
    columns = {"premise": TEXTS, "hypothesis": TEXTS[::-1], "label": labels}
    pd.DataFrame(columns).to_parquet(tmp_path / "pairs_val.parquet")
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "hf" / "val")
    for data, options in (
        (tmp_path, {}),
        (tmp_path / "hf", {}),
        (tmp_path, {"list_file": tmp_path / "pairs_{split}.parquet"}),
    ):
        path = extract_features(bert, data, "val", tmp_path / "f", column="premise,hypothesis", **options)
        np.testing.assert_allclose(ltpost.load(path).logits, logits_of(bert, TEXTS, TEXTS[::-1]), atol=1e-5)
        assert ltpost.load(path).labels.tolist() == labels


def test_wrong_tables(bert, tmp_path):
    table = {"a": TEXTS, "b": TEXTS, "label": LABELS}
    for columns, options, kind, message in (
        (table, {}, UsageError, r"which column holds the text cannot be told; name it with column="),
        ({"text": TEXTS, "kind": LABELS}, {}, UsageError, "which column holds the labels cannot be told"),
        (table, {"column": "c"}, UsageError, "has no column 'c', only a"),
        (table, {"column": "a", "max_length": 99}, UsageError, "max_length= must be 1 to 12 tokens"),
        (table, {"column": "a", "img_size": 32}, UsageError, "img_size= is for images; this model takes texts"),
        ({"text": TEXTS, "label": [*LABELS[:6], None]}, {}, DataError, "every row must have a label, but row 6"),
        ({"text": TEXTS, "label": [*LABELS[:6], "odd"]}, {}, DataError, "label 'odd' of row 6 is none of the 3 class"),
        ({"text": TEXTS, "label": range(7)}, {}, DataError, r"labels must be in 0\.\.2"),
    ):  # fmt: skip
        pd.DataFrame(columns).to_csv(tmp_path / "val.csv", index=False)
        with pytest.raises(kind, match=message):
            extract_features(bert, tmp_path, "val", tmp_path / "f", **options)
    with pytest.raises(UsageError, match=r"holds no table of split 'test' \(test.csv, .*there is f, val.csv"):
        extract_features(bert, tmp_path, "test", tmp_path / "f")
    with pytest.raises(UsageError, match="column= is for models that take texts or sounds"):
        extract_features(torch.nn.Linear(1, 1), tmp_path, "val", tmp_path / "f", column="a")


@pytest.fixture(scope="module")
def wave_model(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("sounds") / "net"
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, classifier_proj_size=6,
        conv_dim=(8, 8), conv_stride=(8, 8), conv_kernel=(16, 16), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, num_labels=3,
    )  # fmt: skip
    transformers.Wav2Vec2ForSequenceClassification(config).eval().save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=4000).save_pretrained(folder)
    return folder


def tone(row, rate):
    return np.sin(2 * np.pi * (200 + 50 * row) * np.arange(rate // 2) / rate).astype(np.float32)


def test_sounds(wave_model, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    for row in range(4):  # of another rate, two channels, 16 bits
        stereo = np.stack([tone(row, 8000), tone(row, 8000)], axis=1)
        wavfile.write(tmp_path / f"{row}.wav", 8000, np.round(stereo * 32767).astype(np.int16))
    (tmp_path / "4.wav").write_bytes(b"RIFF")
    names = [f"{row}.wav" for row in range(5)]
    pd.DataFrame({"file": names, "label": [0, 1, 2, 0, 1]}).to_csv(tmp_path / "val.csv", index=False)
    found = ltpost.load(extract_features(wave_model, tmp_path, "val", tmp_path / "f", batch_size=5))
    assert (len(found), found.num_invalid, found.attrs["head_key"]) == (4, 1, "classifier")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(wave_model)
    model = transformers.AutoModelForAudioClassification.from_pretrained(wave_model).eval()
    batch = extractor([tone(row, 4000) for row in range(4)], sampling_rate=4000, return_tensors="pt")
    with torch.inference_mode():
        wanted = model(**batch).logits.numpy()
    np.testing.assert_allclose(found.logits, wanted, atol=0.05 * np.abs(wanted).max())  # resampling rounds the ends
    assert "row 4 cannot be read" in capsys.readouterr().err
    extract_features(wave_model, tmp_path, "val", tmp_path / "f", max_length=0.25)
    told = capsys.readouterr().err
    assert "4000 Hz, one channel, at most 0.25 s" in told
    assert "4 sounds are longer than 0.25 seconds" in told


def test_sounds_are_answered_without_labels(wave_model, tmp_path):
    from scipy.io import wavfile

    (tmp_path / "new").mkdir()
    for row in range(3):
        wavfile.write(tmp_path / "new" / f"{row}.wav", 4000, tone(row, 4000))
    (tmp_path / "new" / "1.wav").write_bytes(b"no sound")
    found = predict(tmp_path / "new", ckpt=wave_model, features=None)
    assert (found.names, list(found.errors)) == (["0.wav", "1.wav", "2.wav"], [1])
    pd.DataFrame({"file": ["0.wav", "2.wav"]}).to_csv(tmp_path / "new" / "list.csv", index=False)
    again = predict(tmp_path / "new" / "list.csv", ckpt=wave_model, features=None)
    np.testing.assert_allclose(again.probabilities, found.probabilities[[0, 2]], atol=1e-5)
    with pytest.raises(DataError, match=r"holds no sounds \(\.aif"):
        predict([], ckpt=wave_model, features=None)


def test_sounds_of_a_data_set(wave_model, tmp_path):
    datasets = pytest.importorskip("datasets")
    stream = io.BytesIO()
    wavfile.write(stream, 4000, tone(1, 4000))
    rows = datasets.Dataset.from_dict({"clip": [{"bytes": stream.getvalue(), "path": None}] * 2, "label": [0, 2]})
    rows = rows.cast_column("clip", datasets.Audio(sampling_rate=4000))
    rows = rows.cast_column("label", datasets.ClassLabel(names=["a", "b", "c"]))
    rows.save_to_disk(tmp_path / "hf" / "val")
    found = ltpost.load(extract_features(wave_model, tmp_path / "hf", "val", tmp_path / "f"))
    assert (found.class_names, found.labels.tolist(), len(found)) == (["a", "b", "c"], [0, 2], 2)


@pytest.mark.parametrize(("kind", "path"), [("ViT", "vit"), ("Dinov2", "dinov2"), ("CLIP", "vision_model")])
def test_layers_of_transformers(kind, path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 8}
    pixels = {"image_size": 16, "patch_size": 8, **sizes}
    if kind == "CLIP":
        config = transformers.CLIPConfig(vision_config=pixels, text_config={"vocab_size": 5, **sizes})
    else:
        config = getattr(transformers, f"{kind}Config")(**pixels)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    with torch.inference_mode():
        names = [tap.name for tap in resolved("auto", model, lambda: model(torch.rand(2, 3, 16, 16)))]
    assert [name.rsplit(".", 1)[1] for name in names] == [f"{i}@{p}" for i in (2, 3, 4) for p in ("cls", "mean")]
    assert all(name.startswith(f"{path}.") for name in names)


def test_preprocessor_configs(tmp_path):
    def read(**config):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
        return _preprocess(tmp_path)

    vit = read(size={"height": 224, "width": 224}, resample=2, do_normalize=True, image_mean=[0.5], image_std=[0.5])
    assert (vit.resize, vit.crop, vit.squash, vit.mean) == (224, 224, True, (0.5,))
    deit = read(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, do_center_crop=True, resample=3)
    assert (deit.resize, deit.crop, deit.squash, deit.interpolation) == (256, 224, False, "bicubic")
    assert read(size=224).resize == 224
    half = read(image_mean=[0.5], image_std=[0.25], do_normalize=True, rescale_factor=1 / 127.5, rescale_offset=True)
    pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(half.normalise(pixels).flatten(), [(-1 - 0.5) / 0.25, (1 - 0.5) / 0.25], rtol=1e-5)
    raw = read(do_rescale=False, do_flip_channel_order=True)
    colours = torch.tensor([1, 2, 3], dtype=torch.uint8).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(raw.normalise(colours).flatten(), [3, 2, 1], rtol=1e-5)
    with pytest.raises(DataError, match="only square ones are"):
        read(size={"height": 224, "width": 192})


def test_datasets_on_disk(images, tmp_path):
    datasets = pytest.importorskip("datasets")
    data, pictures = images
    labels = [0, 0, 1, 1, 2, 2]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])})
    part = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)
    datasets.DatasetDict({"train": part.select([0, 1, 2, 4]), "val": part}).save_to_disk(tmp_path / "hf")
    from torch import nn

    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
    plain = ltpost.load(extract_features(model, data, "val", tmp_path / "a", workers=0))
    found = ltpost.load(extract_features(model, tmp_path / "hf", "val", tmp_path / "b", workers=0, batch_size=4))
    np.testing.assert_allclose(found.features, plain.features, atol=1e-6)
    assert found.class_names == ["ant", "bee", "cat"]
    assert found.class_counts.tolist() == [2, 1, 1]
    part.remove_columns("label").save_to_disk(tmp_path / "bad" / "val")
    with pytest.raises(DataError, match="must have a column of images and a column 'label'"):
        open_source(tmp_path / "bad", "val")
