import csv
import inspect
import json
import re
import subprocess
import sys

import click
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import in_processes, make_split

import ltpost
from ltpost import Experiment, FeatureSet, LinearHead, load_head, methods
from ltpost.cli import COMMANDS, cli
from ltpost.cli.options import EXPERIMENT, parse_grid


def run(*args):
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def good(*args):
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def bad(code, *args):
    """The one line that a user sees."""
    result = run(*args)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    return last


# -- the grid ---------------------------------------------------------------------------------------------------------


def test_grid():
    assert parse_grid("0:2:0.1") == tuple(round(k / 10, 10) for k in range(21))
    assert parse_grid("2:0:-1") == (0.0, 1.0, 2.0)
    assert parse_grid("1:1:0.5") == (1.0,)
    assert parse_grid("1,0.5, 1") == (0.5, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the grid is empty"),
        ("a:b:c", "'a:b:c' is not a grid; use start:stop:step"),
        ("0:2", "must have three parts"),
        ("0:2:0", "the step of '0:2:0' must not be 0"),
        ("2:0:0.1", "is empty: a step of 0.1 does not lead from 2 to 0"),
        ("0:1:1e-9", "has 1,000,000,000 values"),
        ("0:inf:1", "must hold finite numbers"),
        ("nan", "must hold finite numbers"),
    ],
)
def test_bad_grids(at_home, text, message):
    assert message in bad(2, "tnorm", "--tau-grid", text)


# -- commands are the library -----------------------------------------------------------------------------------------


def test_tnorm_as_the_design_says_it(at_home):
    text = good("tnorm", "--tau-grid", "0:2:0.1")
    outcome = Experiment("features").run("tnorm")
    assert outcome.summary() in text
    rows = [line.split()[0] for line in text.splitlines() if line[:1].isdigit()]
    assert rows == [f"{k / 10:.1f}" for k in range(21)]
    saved = load_head("heads/tnorm.safetensors")
    np.testing.assert_array_equal(saved.weight, outcome.head.weight)
    assert saved.info["signature"] == outcome.signature


@pytest.mark.parametrize(
    ("args", "method", "options"),
    [
        (["tnorm", "--bias", "keep", "--tau-grid", "0,1"], "tnorm", {"bias": "keep", "grid": (0.0, 1.0)}),
        (["la", "--tau-grid", "0:1:0.5"], "la", {"grid": (0.0, 0.5, 1.0)}),
        (["ncm", "--metric", "cl2n"], "ncm", {"metric": "cl2n"}),
        (["crt", "--strengths", "0.01,0.1"], "crt", {"strengths": (0.01, 0.1)}),
        (["crt", "--solver", "sgd", "--epochs", "2", "--lr", "0.1", "--sampler", "instance"], "crt",
         {"solver": "sgd", "epochs": 2, "learning_rate": 0.1, "sampler": "instance"}),
        (["crt", "--solver", "sgd", "--epochs", "1", "--precision", "bfloat16"], "crt",
         {"solver": "sgd", "epochs": 1, "precision": "bfloat16"}),
        (["lws", "--solver", "convex", "--tolerance", "0.01"], "lws", {"solver": "convex", "tolerance": 0.01}),
    ],
)  # fmt: skip
def test_json_is_the_library_call_and_nothing_else(at_home, args, method, options):
    printed = json.loads(good(*args, "--json"))
    expected = Experiment("features").run(method, **options).as_dict()
    assert printed["results"] == json.loads(json.dumps(expected["results"], default=float))
    assert printed["params"] == json.loads(json.dumps(expected["params"], default=float))
    assert load_head(printed["head"]).info["signature"] == printed["signature"] == expected["signature"]
    assert any("the curve is not exact" in note for note in printed["notes"]) == ("keep" in args)


def test_experiment_options_reach_the_library(at_home):
    (at_home / "features" / "val.h5").rename(at_home / "features" / "dev.h5")
    text = good(
        "la", "--val", "dev", "--select", "harmonic", "--many-shot", "200", "--few-shot", "10", "--seed", "3", "--json"
    )
    signature = json.loads(text)["signature"]
    assert "select:harmonic|on:val|groups:>200/<10" in signature
    assert "seed:3" in signature


def test_csv(at_home):
    good("la", "--csv", "out/results.csv")
    with open("out/results.csv") as file:  # noqa: PTH123
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["method"]) for row in rows] == [
        ("test", "joint"),
        ("test", "la"),
        ("val", "joint"),
        ("val", "la"),
    ]
    assert 0 < float(rows[0]["few_low"]) <= float(rows[0]["few"]) <= float(rows[0]["few_high"]) < 1


def test_compare_and_evaluate(at_home):
    text = good("compare", "--methods", "tnorm, la,ncm", "--csv", "all.csv")
    assert text.count("joint") == 2
    for method in ("tnorm", "la", "ncm"):
        assert (at_home / "heads" / f"{method}.safetensors").is_file()
    text = good("evaluate", "--head", "heads/tnorm.safetensors", "--head", "heads/la.safetensors", "--split", "test")
    assert "heads/la.safetensors" in text
    printed = json.loads(good("evaluate", "--head", "heads/la.safetensors", "--json"))
    head = load_head("heads/la.safetensors")
    expected = ltpost.evaluate(head, ltpost.load("features/test.h5")).figures.all
    assert printed["test"]["heads/la.safetensors"]["all"] == pytest.approx(expected)
    assert "class  train  group   rows   joint\n0      400    Many      30   80.00" in good("evaluate", "--per-class")
    assert {"methods", "results"} == set(json.loads(good("compare", "--methods", "la", "--json")))


def test_compare_runs_what_the_files_suffice_for(at_home):
    (at_home / "features" / "train.h5").unlink()
    text = good("compare")
    assert "tnorm" in text
    assert "not run: ncm, lws, crt; features does not hold train features" in text
    assert "has no train.h5" in bad(1, "compare", "--methods", "la,crt")
    make_split("val", head=None, logits=False, class_counts=None).save("bare/val.h5")
    assert "nothing to compare" in bad(1, "compare", "--features", "bare")


def test_info(at_home):
    text = good("info", "features/val.h5")
    for words in ("300 rows, 10 classes", "(300, 16) float32", "400 to 3 per class (imbalance factor 133.333)",
                  "4 many-, 3 medium-, 3 few-shot classes", "joint classifier: Many"):  # fmt: skip
        assert words in text
    (printed,) = json.loads(good("info", "features/val.h5", "--json"))
    assert printed["class_counts"]["imbalance_factor"] == pytest.approx(400 / 3)
    make_split("val", head=None, logits=False, class_counts=None).save("bare.h5")
    assert "not known (no class_counts)" in good("info", "bare.h5")


def test_every_command_has_help_with_an_example():
    listed = good("--help")
    for name in [*methods.all_keys(), *COMMANDS, "extract"]:
        assert name in listed
        text = good(name, "--help")
        assert "Usage:" in text
        if name != "demo":
            assert re.search(r"xample:\s+ltpost", text), name


def test_defaults_are_those_of_the_library():
    """Of the options that all methods share; those of a method are made from its function (test_every_method)."""
    from ltpost.evaluation import evaluate_heads

    signatures = [inspect.signature(Experiment.__init__), inspect.signature(evaluate_heads)]
    library = {name: par.default for sig in signatures for name, par in sig.parameters.items()}
    checked = 0
    for name in (*methods.all_keys(), "compare", "evaluate"):
        for option, default in cli.get_command(click.Context(cli), name).make_context(name, []).params.items():
            if option in EXPERIMENT:
                assert default == library[option], (name, option)
                checked += 1
    assert checked == len(EXPERIMENT) * (len(methods.all_keys()) + 1) + 4


def test_help_groups_the_commands_and_cuts_no_summary():
    lines = good("--help").splitlines()
    headings = [line.rstrip(":") for line in lines if line and not line.startswith(" ") and line.endswith(":")]
    assert headings == ["Options", *(f"Methods: {title}" for title in methods.GROUPS), "Files", "Results"]
    assert "..." not in good("--help").split("Methods:")[1]
    listed = [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("   ")]
    for name in (*methods.all_keys(), *COMMANDS, "extract", "export"):
        assert listed.count(name) == 1, name


# -- logits alone ------------------------------------------------------------------------------------------------------


@pytest.fixture
def logits_only(tmp_path, monkeypatch):
    """A folder whose files hold logits and no features, and no classifier."""
    for split in ("train", "val", "test"):
        one = make_split(split)
        alone = FeatureSet(labels=one.labels, logits=one.logits, class_counts=one.class_counts, split=split)
        alone.save(tmp_path / "features" / f"{split}.h5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("method", ["la", "mla", "lws"])
def test_a_saved_head_on_logits_is_evaluated_as_itself(logits_only, method):
    figures = json.loads(good(method, "--json"))["results"]["test"]
    assert figures[method]["all"] != figures["joint"]["all"]
    saved = json.loads(good("evaluate", "--head", f"heads/{method}.safetensors", "--json"))["test"]
    for name in ("many", "medium", "few", "all", "top1", "interval95"):
        assert saved[f"heads/{method}.safetensors"][name] == figures[method][name]
        assert saved["joint"][name] == figures["joint"][name]


@pytest.mark.parametrize(("method", "names"), [("la", {"offset"}), ("mla", {"scale"}), ("lws", {"scale"})])
def test_a_saved_head_on_logits_is_scale_and_offset(logits_only, method, names):
    from safetensors.numpy import load_file

    good(method)
    tensors = load_file(f"heads/{method}.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == dict.fromkeys(names, (10,))


def test_compare_on_logits_alone(logits_only):
    text = good("compare")
    assert {"la", "mla", "lws"} <= {line.split()[0] for line in text.splitlines() if "±" in line}
    assert "not run: tnorm; features does not hold classifier" in text
    assert "not run: ncm, crt; features does not hold train features" in text
    for key in ("ncm", "crt"):
        assert "features: has no train.h5 with features" in bad(1, key)


@pytest.mark.parametrize("metric", ["cl2n", "l2n"])
def test_a_head_that_is_not_linear_is_printed_saved_and_evaluated(at_home, metric):
    figures = json.loads(good("ncm", "--metric", metric, "--json"))["results"]["test"]["ncm"]
    saved = json.loads(good("evaluate", "--head", "heads/ncm.safetensors", "--json"))["test"]
    assert saved["heads/ncm.safetensors"] == figures


# -- errors -----------------------------------------------------------------------------------------------------------


def test_usage_errors_exit_2(at_home):
    assert "'--bias'" in bad(2, "tnorm", "--bias", "none")
    assert "No such option" in bad(2, "tnorm", "--taugrid", "0:1:1")
    assert "No such command 'tnrom'; did you mean tnorm?" in bad(2, "tnrom")
    assert "No such command 'nearest'; see ltpost --help" in bad(2, "nearest")
    assert "'--tau-grd'" in (said := bad(2, "tnorm", "--tau-grd", "0:1:1"))
    assert "--tau-grid" in said.replace("--tau-grd", "")
    said = bad(2, "la", "--few-shot", "500")
    assert "--few-shot must be from 0 to --many-shot + 1, but is 500 with --many-shot 100" in said
    assert "the method must be one of" in bad(2, "compare", "--methods", "svm")
    assert "--epochs is no option of crt with the solver convex" in bad(2, "crt", "--solver", "convex", "--epochs", "3")
    assert "device" in bad(2, "crt", "--device", "cuda:77")
    for device in ("meta", "mps", "xla", "hpu:0", "nonsense"):
        assert "--device must be a" in bad(2, "lws", "--device", device)


def test_data_errors_exit_1_and_leave_old_results_alone(at_home):
    good("tnorm")
    head = (at_home / "heads" / "tnorm.safetensors").read_bytes()
    (at_home / "features" / "val.h5").write_text("not hdf5")
    assert "features/val.h5: is not an HDF5 file" in bad(1, "tnorm")
    assert (at_home / "heads" / "tnorm.safetensors").read_bytes() == head
    assert "no such folder of feature files" in bad(1, "tnorm", "--features", "nowhere")
    assert "no such head file" in bad(1, "evaluate", "--head", "nowhere.safetensors")
    assert "no such feature file" in bad(1, "evaluate", "--split", "other")
    assert "no such feature file" in bad(1, "info", "nowhere.h5")
    for folder in (".", "/", "", "features"):
        assert "is a folder, not a feature file" in bad(1, "info", folder)
    assert "features has test.h5, train.h5, val.h5" in bad(1, "info", "features")
    for command in ("evaluate", "diagnose"):
        assert "features/.h5: no such feature file" in bad(1, command, "--split", "")
    assert "no such feature file" in bad(1, "split", "nowhere.h5")
    assert "is a folder" in bad(1, "split", "")


def test_unwritable_outputs(at_home):
    (at_home / "file").write_text("")
    assert "cannot be written" in bad(1, "la", "--out", "file/la.safetensors")
    assert "cannot be written" in bad(1, "la", "--csv", "file/la.csv")
    assert "cannot be written, it is a folder" in bad(1, "la", "--csv", ".")
    good("la", "--out", ".")
    assert (at_home / "la.safetensors").is_file()
    assert "x>=0" in bad(2, "la", "--seed", "-1")


def test_a_head_for_other_features(at_home):
    LinearHead(np.ones((3, 16))).save("three.safetensors")
    assert "has C = 10 classes, but the head has 3" in bad(1, "evaluate", "--head", "three.safetensors")
    LinearHead(np.ones((10, 7))).save("seven.safetensors")
    assert "features must have shape (N, 7)" in bad(1, "evaluate", "--head", "seven.safetensors")


# -- start-up ---------------------------------------------------------------------------------------------------------


def test_commands_that_start_without_torch(at_home):
    """The import of torch alone takes longer than all of these; each is run, and then nothing heavy is loaded."""
    commands = [
        ["--version"],
        ["--help"],
        ["tnorm"],
        ["la"],
        ["mla"],
        ["ncm"],
        ["info", "features/val.h5"],
        ["evaluate"],
    ]
    commands += [[name, "--help"] for name in (*methods.all_keys(), *COMMANDS)]
    code = (
        "import json, sys; from ltpost.cli import main\n"
        "for args in json.loads(sys.argv[1]):\n"
        "    try: main(args)\n"
        "    except SystemExit as stop: assert not stop.code, (args, stop.code)\n"
        "    loaded = {'torch', 'pandas', 'matplotlib', 'sklearn', 'torchvision'} & set(sys.modules)\n"
        "    assert not loaded, (args, loaded)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.count("Usage: ltpost") == 1 + len(methods.all_keys()) + len(COMMANDS)


def test_a_fit_needs_torch(at_home):
    """So that the test above would see it."""
    code = (
        "import sys; from ltpost.cli import main\ntry: main(['crt'])\nexcept SystemExit: assert 'torch' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_module_and_version():
    result = subprocess.run([sys.executable, "-m", "ltpost", "--version"], capture_output=True, text=True, check=True)
    assert ltpost.__version__ in result.stdout


def test_commands_are_click_commands():
    assert all(isinstance(cli.get_command(click.Context(cli), name), click.Command) for name in COMMANDS)


# -- several processes ------------------------------------------------------------------------------------------------


def test_the_training_split_in_parts(at_home):
    train = ltpost.load("features/train.h5")
    cut = 500
    train.subset(np.arange(cut)).save("features/train-0.h5")
    train.subset(np.arange(cut, len(train))).save("features/train-1.h5")
    alone = json.loads(good("ncm", "--metric", "euclidean", "--json"))
    (at_home / "features" / "train.h5").unlink()
    args = ["ncm", "--metric", "euclidean", "--features", "features/train-*.h5", "--json"]
    outputs, codes = in_processes(at_home, 2, *args)
    assert codes == [0, 0], outputs
    assert json.loads(outputs[0][0])["results"]["test"]["ncm"]["all"] == alone["results"]["test"]["ncm"]["all"]
    assert "2 parts of the training split, but there are 1 processes" in bad(2, *args)
    assert "matches no file" in bad(1, "ncm", "--features", "features/nothing-*.h5")


def test_pictures_of_commands(at_home):
    for words in (["tnorm", "--plot", "tnorm.svg", "--json"], ["compare", "--methods", "la,ncm", "--plot", "all.png"]):
        result = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
    assert (at_home / "tnorm.svg").read_text().count("<svg") == 1
    assert (at_home / "all.png").stat().st_size > 1000
    result = CliRunner().invoke(cli, ["evaluate", "--plot", "figure.gif"])
    assert result.exit_code == 2
    assert "--plot must end in .pdf, .png or .svg, but is figure.gif" in result.stderr
