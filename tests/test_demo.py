"""``ltpost demo``, once from end to end, and the ways in which it can be called wrongly."""

import csv
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import ltpost
from ltpost import demo as demo_module
from ltpost.cli import cli
from ltpost.demo import digits_cnn, long_tailed_digits, run_demo, train_network
from ltpost.errors import DataError, UsageError
from ltpost.scores.predict import predict

METHODS = ltpost.methods.DEFAULT


pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture
def home(demo_home):
    return demo_home


@pytest.fixture
def output(home, monkeypatch):
    monkeypatch.chdir(home)
    return (home / "output.txt").read_text()


@pytest.fixture
def rows(home):
    """results.csv by split and method."""
    with (home / "ltpost-demo" / "results.csv").open() as file:
        return {(row["split"], row["method"]): row for row in csv.DictReader(file)}


def printed_commands(output):
    return [shlex.split(line.split("$ ", 1)[1]) for line in output.splitlines() if "$ ltpost" in line]


def run(words):
    assert words[0] == "ltpost"
    result = CliRunner().invoke(cli, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_every_method_is_in_the_table(output, rows):
    lines = [line.split()[0] for line in output.splitlines() if "±" in line]
    assert lines == ["joint", *METHODS]
    assert {method for split, method in rows if split == "test"} == {"joint", *METHODS}


def test_rare_classes_gain(rows):
    joint = rows["test", "joint"]
    assert 0.80 <= float(joint["all"]) <= 0.93
    for method in ("tnorm", "la", "crt", "ncm"):
        assert float(rows["test", method]["few"]) > float(joint["few"]) + 0.03, method
        assert float(rows["test", method]["all"]) > float(joint["all"]), method


def test_the_rebalanced_checkpoint_predicts_like_the_head(home, output):
    """Through torch alone, without the feature files that the demo read back."""
    assert "400 of 400 predictions on test are those of the table" in output
    (file,) = set((home / "ltpost-demo").glob("*.pth")) - {home / "ltpost-demo" / "digits_cnn.pth"}
    content = torch.load(file, weights_only=True)
    model = digits_cnn()
    model.load_state_dict(content["state_dict"])
    with np.load(home / "ltpost-demo" / "digits.npz") as arrays, torch.inference_mode():
        logits = model.eval()(torch.from_numpy(arrays["x_test"])[:, None].float() / 255)
    method = file.stem.split("-")[1]
    head = ltpost.load_head(home / "ltpost-demo" / "heads" / f"{method}.safetensors")
    test = ltpost.load(home / "ltpost-demo" / "features" / "test.h5")
    np.testing.assert_array_equal(logits.argmax(1).numpy(), predict(head, test))
    assert (predict(head, test) != predict(test.joint, test)).any()


def test_the_method_of_the_checkpoint_was_chosen_on_val(output, rows):
    said = output.split("Best on val: ")[1].split(".")[0]
    assert float(rows["val", said]["all"]) == max(float(rows["val", method]["all"]) for method in METHODS)


@pytest.mark.parametrize("name", ["results.png", "norms.png"])
def test_pictures_are_there(home, name):
    import matplotlib.pyplot as plt

    picture = plt.imread(home / "ltpost-demo" / name)
    assert min(picture.shape[:2]) > 400
    assert len(np.unique(picture[..., :3].reshape(-1, 3).round(2), axis=0)) > 20


def test_printed_commands_give_what_the_demo_has(output):
    """Every command that names the demo's files runs as it is printed, and writes the same again."""
    commands = [words for words in printed_commands(output) if any("ltpost-demo" in word for word in words)]
    assert [words[1] for words in commands] == ["extract", "extract", "extract", "compare", "export"]
    features = {split: ltpost.load(f"ltpost-demo/features/{split}.h5") for split in ("train", "val", "test")}
    before = {split: np.array(part.features) for split, part in features.items()}
    for path in Path("ltpost-demo/features").iterdir():
        path.unlink()
    *extract, compare, export = commands
    for words in extract:
        run(words)
    for split, expected in before.items():
        np.testing.assert_allclose(ltpost.load(f"ltpost-demo/features/{split}.h5").features, expected, atol=1e-4)
    table = run(compare)
    Path(export[export.index("--out") + 1]).unlink()
    run(export)
    assert Path(export[export.index("--out") + 1]).is_file()
    assert next(line for line in table.splitlines() if line.startswith("joint")) in output


def test_other_printed_commands_exist(output):
    own = [words for words in printed_commands(output) if not any("ltpost-demo" in word for word in words)]
    assert len(own) >= 5
    for words in own:
        command = cli.get_command(cli.make_context("ltpost", words[1:]), words[1])
        command.make_context(words[1], words[2:])


def test_nothing_is_left_unfinished(home):
    assert not list(home.rglob("*.partial"))
    assert {path.name for path in home.iterdir()} == {"ltpost-demo", "output.txt"}


def test_counts_follow_the_exponential_profile():
    splits = long_tailed_digits(imbalance=50)
    counts = np.bincount(splits["train"][1])
    assert (counts[0], counts[-1]) == (100, 2)
    np.testing.assert_allclose(counts, 100 * 50 ** (-np.arange(10) / 9), atol=0.5)
    assert (np.bincount(splits["val"][1]) == 20).all()
    assert (np.bincount(splits["test"][1]) == 40).all()


def test_splits_share_no_image(monkeypatch):
    splits = long_tailed_digits()
    images = np.concatenate([images for images, _ in splits.values()])
    assert images.dtype == np.uint8
    assert images.max() == 255
    distinct = len(np.unique(images.reshape(len(images), -1), axis=0))
    assert distinct == len(images)  # digits holds no image twice


def test_the_network_is_determined_by_the_seed_and_leaves_the_global_one_alone(monkeypatch):
    monkeypatch.setattr(demo_module, "EPOCHS", 2)
    images, labels = long_tailed_digits()["train"]
    torch.manual_seed(7)
    first, drawn = train_network(images, labels, seed=1), torch.rand(1)
    again, other = train_network(images, labels, seed=1), train_network(images, labels, seed=2)
    torch.manual_seed(7)
    assert torch.rand(1) == drawn
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.fc.weight, other.fc.weight)
    assert not first.training


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "features").mkdir()
    result = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: --out {tmp_path}: holds files that are not of an earlier demo; choose a new folder\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be made .*choose another --out"):
        run_demo(tmp_path / "file" / "demo")


def test_an_interrupted_demo_leaves_finished_files_only_and_can_be_run_again(tmp_path, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_module, "EPOCHS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_demo(tmp_path / "demo")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["digits.npz"]
    done = run_demo(tmp_path / "demo")
    assert done.equal_predictions == 400
    assert "joint" in done._repr_html_()


def test_threads_are_given_back(tmp_path, monkeypatch):
    (tmp_path / "a file").touch()
    monkeypatch.setattr(demo_module, "_prepared", lambda folder: folder / "a file")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(DataError, match="cannot be written"):
            run_demo(tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_without_scikit_learn(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r'pip install "ltpost\[demo\]"'):
        long_tailed_digits()


def test_features_of_an_earlier_demo_are_taken_and_missing_ones_made(home, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(demo_module, "run_demo", ran.append)
    assert demo_module.demo_features(home / "ltpost-demo") == home / "ltpost-demo" / "features"
    assert not ran
    assert demo_module.demo_features(tmp_path) == tmp_path / "features"
    assert ran == [tmp_path]
