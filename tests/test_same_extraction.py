"""Files of one folder: settings that must agree, rows that splits share, probabilities in the place of logits."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import make_split

from ltpost import DataError, Experiment, FeatureSet, compare, load
from ltpost.cli import cli
from ltpost.data.overlap import same_rows_note, shared_rows


def with_attrs(folder, **attrs):
    """A folder whose val and test have these pairs of attributes."""
    for index, split in enumerate(("val", "test")):
        chosen = {key: pair[index] for key, pair in attrs.items() if pair[index] is not None}
        make_split(split, 6, attrs=chosen).save(folder / f"{split}.h5")
    return folder


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("checkpoint_sha256", "disagree on the checkpoint: 'checkpoint_sha256' is one and other"),
        ("model_sha256", "disagree on the model"),
        (
            "transform",
            "disagree on how images were prepared: 'transform' is one and other; extract both",
        ),
        ("class_order", "disagree on how classes were numbered"),
    ],
)
def test_files_that_do_not_compare(tmp_path, key, message):
    with pytest.raises(DataError, match=message):
        Experiment(with_attrs(tmp_path, **{key: ("one", "other")}))
    Experiment(with_attrs(tmp_path / "same", **{key: ("one", "one")}))
    Experiment(with_attrs(tmp_path / "one only", **{key: ("one", None)}))


def test_settings_that_may_differ_are_noted(tmp_path):
    folder = with_attrs(tmp_path, amp=("off", "bf16"), dtype=("float32", "float32"), views=(None, '{"tta": "flip"}'))
    notes = Experiment(folder).run("la").notes
    assert [note for note in notes if "differ in the precision" in note and "'amp' is bf16 and off" in note]
    assert [
        note for note in notes if "differ in how often" in note and """'views' is {"tta": "flip"} and absent""" in note
    ]
    assert len(notes) == 2


def test_the_views_of_train_are_its_own(folder):
    make_split("train", attrs={"views": "{}"}).save(folder / "train.h5")
    assert Experiment(folder).notes == ()


def test_nothing_is_said_of_proper_splits(folder):
    assert Experiment(folder).notes == ()


def test_equal_fingerprints_are_a_leak(tmp_path):
    same = json.dumps({"name": "x", "sha256": "ab" * 32, "rows": 60})
    notes = Experiment(with_attrs(tmp_path, dataset=(same, same))).notes
    assert len(notes) == 1
    assert "LEAK: " in notes[0]
    assert "equal fingerprints" in notes[0]
    assert Experiment(with_attrs(tmp_path / "2", dataset=(same, same.replace("ab", "cd")))).notes == ()
    assert Experiment(with_attrs(tmp_path / "3", dataset=("nonsense", "nonsense"))).notes == ()


@pytest.mark.parametrize("pair", [("val", "test"), ("train", "test"), ("train", "val")])
def test_shared_rows_are_a_leak(folder, pair):
    one, other = (load(folder / f"{split}.h5") for split in pair)
    features, labels = np.array(other.features), other.labels.copy()
    features[::10], labels[::10] = one.features[: len(features[::10])], one.labels[: len(features[::10])]
    FeatureSet(features, labels, head=other.head, class_counts=other.class_counts, split=pair[1]).save(
        folder / f"{pair[1]}.h5"
    )
    notes = Experiment(folder).run("tnorm").notes
    assert [note for note in notes if note.startswith("LEAK: ") and "30 of 300 rows" in note]


def big(seed, rows, labels=None, dtype=np.float32):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 500, rows) if labels is None else labels
    return FeatureSet(rng.normal(size=(rows, 512)).astype(dtype), labels, name=f"split {seed}")


def test_of_large_splits_some_rows_of_the_same_label_are_compared(monkeypatch):
    one, other = big(0, 3000), big(1, 4000)
    assert shared_rows(one, other)[0] == 0
    assert same_rows_note(one, other) is None
    features, labels = np.array(other.features), other.labels.copy()
    features[1000:1600], labels[1000:1600] = one.features[:600], one.labels[:600]
    mixed = FeatureSet(features.astype(np.float16), labels, name="mixed")
    read = []
    monkeypatch.setattr(type(mixed.stored_features), "__getitem__", spy(type(mixed.stored_features), read))
    found, tried = shared_rows(one, mixed)
    assert 30 <= tried <= 256
    assert abs(found / tried - 0.2) < 0.1
    assert sum(read) * 512 <= 2**22 + 256 * 512
    assert same_rows_note(one, mixed).startswith("LEAK: split 0 and mixed share rows: ")


def spy(rows, read):
    plain = rows.__getitem__

    def get(self, key):
        result = plain(self, key)
        read.append(len(result))
        return result

    return get


def test_rows_of_equal_values_and_a_few_doubles_say_nothing():
    zeros = FeatureSet(np.zeros((40, 8), np.float32), np.arange(40) % 4)
    assert shared_rows(zeros, zeros)[0] == 0
    one, other = make_split("val"), make_split("test")
    features = np.array(other.features)
    features[0] = one.features[0]
    assert same_rows_note(one, FeatureSet(features, other.labels)) is None


def test_logits_alone_are_compared():
    one = make_split("val")
    logits = FeatureSet(None, one.labels, logits=np.array(one.logits), name="logits")
    assert shared_rows(logits, logits) == (300, 300)


def test_a_damaged_train_file_is_noted(folder):
    (folder / "train.h5").write_bytes(b"not HDF5")
    experiment = Experiment(folder)
    assert any("train.h5: is not an HDF5 file" in note for note in experiment.notes)
    assert experiment.run("tnorm").best is not None


# -- probabilities ----------------------------------------------------------------------------------------------------


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.fixture
def probabilities(tmp_path, monkeypatch):
    for split in ("val", "test"):
        made = make_split(split, 6)
        FeatureSet(
            None, made.labels, logits=softmax(np.asarray(made.logits)), class_counts=made.class_counts, split=split
        ).save(tmp_path / "features" / f"{split}.h5")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "features"


def test_probabilities_are_said_everywhere(probabilities):
    words = "'logits' are probabilities, as rows lie in [0, 1] and sum to 1"
    for command in (["info", "features/val.h5"], ["evaluate"], ["la"], ["compare"]):
        result = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert result.exit_code == 0
        assert result.output.count(words) == (1 if command[0] in ("info", "evaluate") else 2), command
    said = json.loads(CliRunner().invoke(cli, ["la", "--json"]).stdout)["notes"]
    assert sum(words in note for note in said) == 2
    said = json.loads(CliRunner().invoke(cli, ["info", "--json", "features/val.h5"]).stdout)[0]["notes"]
    assert sum(words in note for note in said) == 1
    result = CliRunner().invoke(cli, ["evaluate", "--json"])
    assert words in result.stderr
    json.loads(result.stdout)
    assert len(compare(Experiment("features"), ["la"])[0].notes) == 2


def test_log_probabilities_and_logits_are_fine():
    made = make_split("val", 6)
    for logits in (np.log(softmax(np.asarray(made.logits))), np.asarray(made.logits), np.full((60, 10), 0.5)):
        assert FeatureSet(None, made.labels, logits=logits.astype(np.float32)).notes == ()
    for dtype in (np.float16, np.float32):
        assert FeatureSet(None, made.labels, logits=softmax(np.asarray(made.logits)).astype(dtype)).notes
