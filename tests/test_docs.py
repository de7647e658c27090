"""What the documents show works: code blocks run, commands exist, the table of methods is that of the code."""

import contextlib
import io
import json
import re
import runpy
import shlex
from pathlib import Path

import h5py
import matplotlib as mpl
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import SHARED, needs_shared_data

import ltpost
from ltpost.cli import cli

METHODS = ltpost.methods.all_keys()

mpl.use("Agg")

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "FORMAT.md", "CONTRIBUTING.md")
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
README = (ROOT / "README.md").read_text()
ALL_PAGES = "\n".join((ROOT / page).read_text() for page in PAGES)
NEEDS_A_CHECKPOINT = ("extract", "export", "inspect-ckpt", "demo")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(text):
    """The words of every ltpost command of a document, in console blocks and between backticks."""
    lines = [line[2:] for block in blocks(text, "console") for line in block.splitlines() if line.startswith("$ ")]
    lines += [line.split(" #")[0].strip() for block in blocks(text, "sh") for line in block.splitlines()]
    lines += re.findall(r"`(ltpost [a-z][^`]*)`", text)
    lines = [line.partition(" > ")[0] for line in lines]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part) for part in parts if part.startswith("ltpost ")]


def table(text, first):
    """Rows of the table whose heading begins with the column ``first``, as cells."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def run_blocks(text, **namespace):
    """Run the Python blocks one after the other, in one namespace; returns it and what they printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks(text, "python"):
            exec(compile(block, "block", "exec"), namespace)
    return namespace, printed.getvalue()


def test_python_blocks_of_the_readme(at_home):
    names, _ = run_blocks(README)
    assert names["best"] == names["family"].curve(names["val"]).best()
    assert [outcome.method for outcome in names["outcomes"]] == ["tnorm", "la", "ncm"]
    assert (at_home / "report.html").is_file()
    assert set(names["model"].predict(names["test"].features)) <= set(range(names["val"].num_classes))
    np.testing.assert_array_equal(ltpost.load("features/mine.h5").labels, names["val"].labels)


def test_python_blocks_of_the_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, printed = run_blocks((ROOT / "FORMAT.md").read_text())
    val = ltpost.load("val.h5")
    assert val.split == "val"
    assert float(printed.split()[-1]) == pytest.approx(ltpost.evaluate(val.joint, val).figures.top1)


@pytest.mark.parametrize("document", [*DOCUMENTS, *PAGES])
def test_commands_exist_with_these_options(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ltpost.toml", "run.toml"):
        (tmp_path / name).touch()
    for _, name, *words in commands((ROOT / document).read_text()):
        command = cli.get_command(cli.make_context("ltpost", [name]), name)
        assert command is not None, name
        if words and "--help" not in words:
            command.make_context(name, words)


@pytest.mark.parametrize("page", ["report", "binary", "own_method", "arrays"])
def test_python_blocks_of_recipes(page, at_home):
    train, val, test = (ltpost.load(f"features/{split}.h5") for split in ("train", "val", "test"))
    arrays = {"counts": val.class_counts, "weight": val.head.weight, "bias": val.head.bias}
    for name, part in (("train", train), ("val", val), ("test", test)):
        arrays |= {f"{name}_features": part.features[:], f"{name}_labels": part.labels}
    names, printed = run_blocks((ROOT / "docs" / "recipes" / f"{page}.md").read_text(), **arrays)
    if page == "own_method":
        assert "effective" in printed
    elif page == "arrays":
        mine = ltpost.load("features/mine.h5")
        assert (len(mine), mine.num_classes, mine.num_features) == (100, 10, 16)
        assert mine.shot_groups().few.sum() == 3
    elif page == "report":
        assert (at_home / "report.html").stat().st_size > 50_000
        assert (at_home / "curves.pdf").is_file()
    else:
        assert "Minority" in printed
        joint, la = names["experiment"].run("la").results[:2]
        assert la.more["class 1"]["F1"] > joint.more["class 1"]["F1"] + 0.3


def test_the_readme_is_short():
    shown = README.split("<details>")[0].splitlines()
    assert len(shown) < 150
    at = [
        number
        for number, line in enumerate(shown)
        if line in ('pip install -e ".[demo]" && ltpost demo', 'pip install -e ".[test]" && pytest')
    ]
    assert len(at) == 2
    assert max(at) < 24, "problem, picture and both commands on one screen"


def test_the_configuration_file_of_the_recipe(tmp_path):
    (text,) = blocks((ROOT / "docs" / "recipes" / "configuration.md").read_text(), "toml")
    (tmp_path / "ltpost.toml").write_text(text)
    for name, option, value in (
        ("compare", "names", ("tnorm", "la", "crt")),
        ("tnorm", "bias", "scale"),
        ("la", "seed", 1),
    ):
        command = cli.get_command(cli.make_context("ltpost", [name]), name)
        context = command.make_context(name, ["--config", str(tmp_path / "ltpost.toml")])
        assert context.params[option] == value


def test_commands_of_the_readme_run(at_home):
    ran = []
    for words in commands(README):
        if words[1] not in NEEDS_A_CHECKPOINT and len(words) > 2:
            result = CliRunner().invoke(cli, words[1:], catch_exceptions=False)
            assert result.exit_code == 0, result.stderr
            ran.append(words[1])
    assert ran == ["tnorm", "info", "compare", "evaluate", "diagnose", "predict"]
    assert (at_home / "results.csv").is_file()


def test_every_command_is_shown():
    context = cli.make_context("ltpost", ["info"])
    for name in cli.list_commands(context):
        assert name in METHODS or re.search(rf"ltpost {name}\b", README + ALL_PAGES), name


def test_every_option_that_is_named_exists():
    context = cli.make_context("ltpost", ["info"])
    known = {"--help", "--nproc-per-node", "--splits", "--drw"}  # torchrun's, benchmarks.best's, a training script's
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        known |= {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", README + ALL_PAGES)) <= known


def test_tests_that_are_named_exist():
    """Module and function, both without test_."""
    named = re.findall(r"`(\w+)::(\w+)`", ALL_PAGES)
    assert len(named) > 10
    for file, test in named:
        assert f"def test_{test}(" in (ROOT / "tests" / f"test_{file}.py").read_text(), (file, test)


def test_the_table_of_methods_is_that_of_the_code():
    write = runpy.run_path(str(ROOT / "docs" / "methods_table.py"))["written"]
    assert write(README) == README, "run python docs/methods_table.py"
    keys = re.findall(
        r"^\| `([\w-]+)` \|", README.split("<!-- methods")[1].split("<!-- end of methods")[0], re.MULTILINE
    )
    assert sorted(keys) == sorted(ltpost.methods.TABLE)


def test_what_the_table_says_of_choices(folder):
    """A method whose hyperparameter is chosen along a grid names it, as its options do."""
    experiment = ltpost.Experiment(folder)
    for key in ltpost.methods.DEFAULT:
        method, outcome = ltpost.methods.get(key), experiment.run(key)
        assert (outcome.parameter in (method.chosen_name, None)) if method.grid else True
        assert bool(method.grid) == (f"--{method.chosen_name}-grid" in CliRunner().invoke(cli, [key, "--help"]).stdout)
        assert method.chosen or outcome.parameter is None


def test_the_shape_of_the_json(at_home):
    (shown,) = blocks((ROOT / "docs" / "recipes" / "programs.md").read_text(), "json")
    result = CliRunner().invoke(cli, ["tnorm", "--json"], catch_exceptions=False)
    assert_same_shape(json.loads(shown), json.loads(result.stdout))


def assert_same_shape(shown, actual, where="json"):
    if isinstance(shown, dict) and shown:
        assert isinstance(actual, dict), where
        assert set(shown) - {"…"} == set(actual) or ("…" in shown and set(shown) - {"…"} <= set(actual)), where
        for key in set(shown) - {"…"}:
            assert_same_shape(shown[key], actual[key], f"{where}.{key}")
    elif isinstance(shown, list) and shown:
        assert_same_shape(shown[0], actual[0], f"{where}[0]")
    elif not isinstance(shown, dict):
        assert type(shown) is type(actual), where


@needs_shared_data
def test_the_output_in_the_readme_is_real(tmp_path, monkeypatch):
    """By the script that draws the picture, from the same features."""
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "docs" / "draw.py"))["feature_files"](SHARED, tmp_path / "features")
    result = CliRunner().invoke(cli, ["tnorm", "--tau-grid", "0:2:0.1"], catch_exceptions=False)
    (shown,) = blocks(README, "text")
    printed = [line.split() for line in result.stdout.splitlines()]
    missing = [line for line in shown.splitlines() if not any(about_equal(line.split(), words) for words in printed)]
    assert missing == ["..."]


def about_equal(shown, printed):
    """The same words, and numbers that differ by little: those of the bootstrap may, between versions of numpy."""
    if len(shown) != len(printed):
        return False
    pairs = [(re.sub("[±:]", "", a), re.sub("[±:]", "", b)) for a, b in zip(shown, printed, strict=True)]
    numbers = re.compile(r"-?\d+\.\d+")
    return all(
        abs(float(a) - float(b)) <= 0.1 if numbers.fullmatch(a) and numbers.fullmatch(b) else a == b for a, b in pairs
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    """Those of the pages are checked where the site is built."""
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text())
    assert all((ROOT / link).exists() for link in links), links


def test_files_that_are_named_exist():
    for document in DOCUMENTS:
        for name in re.findall(r"`((?:ltpost|docs|extract|examples|tests)/[\w/.]+)`", (ROOT / document).read_text()):
            assert (ROOT / name).exists(), (document, name)


def test_every_dataset_of_the_format_is_read(tmp_path):
    names = [row[0].strip("`") for row in table((ROOT / "FORMAT.md").read_text(), "name")]
    names = [name.strip(" `") for row in names for name in row.split(",")]
    rng = np.random.default_rng(0)
    features, weight = rng.random((6, 4), dtype=np.float32), rng.random((3, 4), dtype=np.float32)
    content = {
        "features": features,
        "labels": np.arange(6) % 3,
        "logits": features @ weight.T + 1,
        "head/weight": weight,
        "head/bias": np.ones(3, np.float32),
        "head/expert_bias": np.ones((1, 3), np.float32),
        "class_counts": np.array([9, 5, 1]),
        "class_names": ["a", "b", "c"],
        "paths": [f"{row}.png" for row in range(6)],
        "sample": np.arange(6) // 2,
        "view": np.arange(6) % 2,
        "layers/<name>": np.ones((6, 2), np.float16),
        "valid": np.array([1, 1, 1, 1, 1, 0]),
    }
    assert names == list(content)
    with h5py.File(tmp_path / "all.h5", "w") as file:
        for name, value in content.items():
            file[name.replace("<name>", "stage2")] = value
    loaded = ltpost.load(tmp_path / "all.h5")
    assert {name.replace("stage2", "<name>") for name in loaded.stored()} == set(names) - {"valid"}
    assert (len(loaded), loaded.num_invalid) == (5, 1)
