"""A head of other settings is not lost when a command takes its name."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

from ltpost import LinearHead, load_head
from ltpost.cli import cli
from ltpost.heads.keeping import keep_other, other_settings


def head(signature="method:x|bias:keep|tau:1|select:all|seed:0", **info):
    info = {"method": "x", "parameter": "tau", "signature": signature, **info}
    return LinearHead(np.eye(2), info={key: value for key, value in info.items() if value is not None})


OTHER = head("method:x|bias:keep|tau:0.5|select:few|seed:0")


def test_the_second_name_says_what_differs(tmp_path):
    path = tmp_path / "x.safetensors"
    assert keep_other(path, head()) is None  # nothing is there
    head().save(path)
    assert other_settings(path, head()) is None
    assert keep_other(path, head()) is None
    assert other_settings(path, OTHER) == "select all"
    assert keep_other(path, OTHER) == tmp_path / "x-select-all.safetensors"
    OTHER.save(path)
    assert load_head(tmp_path / "x-select-all.safetensors").info["signature"] == head().info["signature"]
    assert load_head(path).info["signature"] == OTHER.info["signature"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x-select-all.safetensors", "x.safetensors"]


def test_only_the_chosen_value_differs(tmp_path):
    path = tmp_path / "x.safetensors"
    head("method:x|bias:keep|tau:0.25|select:all|seed:0").save(path)
    assert other_settings(path, head()) == "tau 0.25"  # other rows


def test_another_method_is_named_alone(tmp_path):
    path = tmp_path / "best.safetensors"
    head("method:y|norms:all|gamma:0.25|select:all|seed:0").save(path)
    assert other_settings(path, head()) == "method y"


def test_names_that_are_taken(tmp_path):
    path, few = tmp_path / "x.safetensors", tmp_path / "x-select-few.safetensors"
    OTHER.save(path)
    few.write_text("something else")
    assert keep_other(path, head()) == tmp_path / "x-select-few-2.safetensors"
    assert few.read_text() == "something else"
    assert keep_other(path, head()) == tmp_path / "x-select-few-2.safetensors"  # the same head, once
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("content", [None, "no head"])
def test_files_without_a_signature(tmp_path, content):
    path = tmp_path / "x.safetensors"
    if content is None:
        head(None).save(path)
    else:
        path.write_text(content)
    before = path.read_bytes()
    assert other_settings(path, head()) == "unknown settings"
    kept = keep_other(path, head())
    assert kept.name == "x-unknown-settings.safetensors"
    head().save(path)
    assert kept.read_bytes() == before


def test_long_differences_get_a_number_only(tmp_path):
    path = tmp_path / "x.safetensors"
    head(f"method:x|grid:{'1,' * 50}").save(path)
    assert keep_other(path, head()).name == "x-other.safetensors"


def test_symlinks_and_file_systems_without_links(tmp_path, monkeypatch):
    real, path = tmp_path / "real.safetensors", tmp_path / "x.safetensors"
    OTHER.save(real)
    path.symlink_to(real)
    kept = keep_other(path, head())
    head().save(path)  # through the link
    assert path.is_symlink()
    assert load_head(kept).info["signature"] == OTHER.info["signature"]
    assert load_head(real).info["signature"] == head().info["signature"]

    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    copied = keep_other(path, OTHER)
    assert copied.read_bytes() == real.read_bytes()


def run(*words):
    return CliRunner().invoke(cli, words, catch_exceptions=False)


def test_commands(at_home):
    assert "the head that was there" not in run("la").output
    assert "the head that was there" not in run("la").output
    text = run("la", "--select", "few").stdout
    assert text.endswith("the head that was there (select all) is kept as heads/la-select-all.safetensors\n")
    assert load_head("heads/la.safetensors").info["select"] == "few"
    assert load_head("heads/la-select-all.safetensors").info["select"] == "all"
    result = run("la", "--json")
    assert json.loads(result.stdout)["head"] == "heads/la.safetensors"
    assert "the head that was there (select few) is kept as heads/la-select-few.safetensors" in result.stderr
    text = run("compare", "--methods", "la,mla", "--seed", "1").stdout
    assert "the head that was there (seed 0) is kept as heads/la-seed-0.safetensors" in text
    text = run("la", "--out", "heads/la.safetensors").stdout  # named by the user
    assert text.endswith("the head that was there (seed 1) is replaced\n")
    assert "kept as mine/la-select-all.safetensors" not in run("la", "--out", "mine/la.safetensors").stdout
    text = run("la", "--out", "mine", "--select", "few").stdout
    assert "is kept as mine/la-select-all.safetensors" in text
