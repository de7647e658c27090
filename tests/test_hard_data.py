"""Every command on some of the small hard data of ``tests.hard_data``, which by itself runs all on all of it."""

import pytest
from click.testing import CliRunner
from conftest import make_split

from ltpost import Experiment, FeatureSet
from ltpost.cli import cli
from tests import hard_data

#: too slow for the suite
SLOW = {"early-exit", "crt-val", "crt-la", "tnorm-la", "gla", "best", "compare", "report"}
QUICK = [words for words in hard_data.jobs() if words[0] not in SLOW]


@pytest.mark.parametrize("number", range(len(hard_data.CASES)), ids=list(hard_data.CASES))
def test_commands(number, tmp_path, monkeypatch):
    """Case ``number`` meets every 21st command, and that of the next case the next ones."""
    hard_data.write(tmp_path / "features", [*hard_data.CASES][number])
    monkeypatch.chdir(tmp_path)
    jobs = QUICK[number :: len(hard_data.CASES)]
    jobs = [["la"], *jobs] if any("heads/la.safetensors" in words for words in jobs) else jobs
    assert {" ".join(words): found for words in jobs if (found := hard_data.problem(words))} == {}


def test_what_is_wrong_is_seen(tmp_path, monkeypatch):
    hard_data.write(tmp_path / "features", "one class")
    monkeypatch.chdir(tmp_path)
    assert hard_data.problem(["info", "features/val.h5"]) == ""
    assert hard_data.problem(["tnorm", "--taugrid", "1"]).startswith("exit code 2: Usage")  # click's own, of two lines
    monkeypatch.setattr("ltpost.data.load.load", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in hard_data.problem(["info", "features/val.h5"])


def rows(number, split):
    made = make_split(split, 3)
    some = [0, 10, 20][:number]
    return FeatureSet(
        made.features[some], made.labels[some], head=made.head, class_counts=made.class_counts, split=split
    )


@pytest.mark.parametrize(("key", "enough"), [("tnorm", 2), ("p2p-val", 3)])
def test_too_few_rows_to_cross_fit_are_refused(key, enough, tmp_path, monkeypatch):
    """What was fitted to all rows would have judged none: the figure was 0, or there was an IndexError."""
    monkeypatch.chdir(tmp_path)
    make_split("test", 3).save(tmp_path / "features" / "test.h5")
    for number in range(1, 4):
        rows(number, "val").save(tmp_path / "features" / "val.h5")
        result = CliRunner().invoke(cli, [key], catch_exceptions=False)
        if number < enough:
            words = "features/val.h5: has too few rows to choose on some and judge others; extract more of them"
            assert (result.exit_code, result.output) == (1, f"Error: {words}\n")
        else:
            assert result.exit_code == 0, result.output


def test_of_a_set_what_refuses_the_files_is_left_out(folder, tmp_path):
    """One class without training samples has no prior; ``compare`` was of no use then."""
    counts = [*make_split("val").class_counts[:9], 0]
    for split in ("train", "val", "test"):
        made = make_split(split)
        keep = made.labels < 9 if split == "train" else slice(None)
        FeatureSet(
            made.features[keep], made.labels[keep], head=made.head, class_counts=counts, split=split
        ).save(folder / f"{split}.h5")  # fmt: skip
    words = ["compare", "--features", str(folder), "--heads", str(tmp_path / "heads"), "--methods"]
    result = CliRunner().invoke(cli, [*words, "default"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "tnorm: tau" in result.output
    assert "la: not run, " in result.output
    assert "class_counts must be positive for a class prior, but class 9 has none" in result.output
    assert [path.name for path in (tmp_path / "heads").iterdir()] == ["tnorm.safetensors"]
    named = CliRunner().invoke(cli, [*words, "tnorm,la"], catch_exceptions=False)
    assert (named.exit_code, named.output.startswith("Error: ")) == (1, True)
    assert Experiment(folder).run("tnorm").best is not None
