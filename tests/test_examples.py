"""The examples run as a user runs them: each on its own, in one folder; the notebook through its kernel."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
NOTEBOOK = EXAMPLES / "notebook.ipynb"


pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, demo_home):
    """Where the examples leave their files, with those of the demo, as after an example that has made them."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(demo_home / "ltpost-demo", folder / "ltpost-examples" / "demo")
    return folder


def run(words, folder, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    environment.pop("MPLBACKEND", None)  # without a screen matplotlib takes Agg, and a notebook its own
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def printed(folder):
    """Name of a script to what it prints, with warnings as errors. One process runs them all, each as a program."""
    code = "import runpy, sys\nfor path in sys.argv[1:]: print(f'\\f{path}'); runpy.run_path(path, run_name='__main__')"
    texts = run(["-W", "error", "-c", code, *(EXAMPLES / name for name in SCRIPTS)], folder).split("\f")[1:]
    return {Path(text.partition("\n")[0]).name: text.partition("\n")[2] for text in texts}


def test_there_are_examples():
    names = ["feature_file", "tau_norm", "compare", "own_model", "own_method"]
    assert SCRIPTS[:5] == [f"0{number}_{name}.py" for number, name in enumerate(names, 1)]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short(name):
    lines = (EXAMPLES / name).read_text().splitlines()
    assert len(lines) <= 45
    assert lines[0].startswith('"""')


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_run(name, printed, folder):
    assert "joint" in printed[name]
    assert {path.name for path in folder.iterdir()} == {"ltpost-examples"}


def test_a_method_of_ones_own_is_compared_like_any_other(printed):
    names = [line.split()[0] for line in printed["05_own_method.py"].splitlines() if "±" in line]
    assert names == ["joint", "effective-prior"] * 2 + ["joint", "la"] * 2  # on test, then on val
    assert "temperature 2.0" in printed["05_own_method.py"]


@pytest.mark.parametrize("name", ["07_text.py", "08_tabular.py", "09_audio.py"])
def test_what_is_no_image_is_rebalanced_too(printed, name):
    rows = [line.split() for line in printed[name].splitlines() if "±" in line][:2]
    assert [row[0] for row in rows] == ["joint", "la"]
    few = -6  # of many, medium, few, all and top-1, each with its interval
    assert float(rows[1][few]) > float(rows[0][few]) + 20


def test_tau_normalization_by_hand_helps_rare_classes(printed):
    lines = printed["02_tau_norm.py"].splitlines()
    few = {line.split()[0]: float(line.split()[5]) for line in lines if "±" in line}
    assert few["tnorm"] > few["joint"] + 3


def test_a_model_of_ones_own_predicts_like_its_head(printed):
    output = printed["04_own_model.py"]
    top1 = next(line for line in output.splitlines() if line.startswith("crt")).split()[-2]
    assert float(output.split()[-1]) == pytest.approx(float(top1) / 100, abs=1e-4)


def test_the_notebook_runs(folder, tmp_path):
    """In a kernel of this interpreter, whatever kernels are installed; in a process of its own, which has its own
    event loop and warnings."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    kernel = tmp_path / "kernels" / "ltpost-tests"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "ltpost tests", "language": "python"})
    )
    code = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, kernel_name="ltpost-tests", timeout=300).execute()
nbformat.write(notebook, sys.argv[2])
"""
    run(["-c", code, NOTEBOOK, tmp_path / "run.ipynb"], folder, JUPYTER_PATH=str(tmp_path))
    assert outputs(tmp_path / "run.ipynb") == outputs(NOTEBOOK)


def outputs(path):
    """Of every cell the kinds of its outputs: tables, pictures, text."""
    cells = json.loads(path.read_text())["cells"]
    return [sorted(kind for out in cell.get("outputs", []) for kind in out.get("data", {})) for cell in cells]


def test_the_notebook_is_committed_with_small_outputs():
    assert NOTEBOOK.stat().st_size < 200_000
    kinds = {kind for cell in outputs(NOTEBOOK) for kind in cell}
    assert {"text/html", "image/png"} <= kinds
    assert str(Path.home()) not in NOTEBOOK.read_text()
