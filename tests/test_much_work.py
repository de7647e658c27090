"""Convex fits of much work: products in bfloat16 far from a minimum, the end of a descent, and the end of a path."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_split
from long_tail import long_tail
from torch.utils._python_dispatch import TorchDispatchMode

from ltpost import Experiment, compare, crt, lws
from ltpost.comparison import Interrupted, compare_report
from ltpost.data.features import FeatureSet
from ltpost.data.tensors import FewRows, Matrix, training_features
from ltpost.fit import precision
from ltpost.fit.loss import Loss
from ltpost.fit.regression import Regression
from ltpost.fit.sampling import row_weights
from ltpost.fit.whole_losses import GeometricMeanLoss
from ltpost.heads import LinearHead
from ltpost.model_selection import Selection
from ltpost.scores.metrics import SELECT
from ltpost.turn import Turn

STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


@pytest.fixture(scope="module")
def train():
    return long_tail(num_classes=20, num_features=48, most=150)


@pytest.fixture
def much(monkeypatch):
    """Any fit counts as much work, on a processor with bfloat16."""
    monkeypatch.setattr("ltpost.fit.options.MUCH_WORK", 0.0)
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda device: True)


def objective(head, train, strength):
    """What cRT minimises, in float64."""
    logits = np.asarray(train.features, np.float64) @ head.weight.T.astype(np.float64) + head.bias
    logits -= logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), train.labels]
    weights = row_weights(train.labels, np.bincount(train.labels))
    return weights @ losses + strength / 2 * np.square(head.weight.astype(np.float64)).sum()


def heads(train, **options):
    family = crt(train, solver="convex", strengths=STRENGTHS, progress=False, **options)
    return {strength: family.head(strength) for strength in family.params["strengths"]}


@pytest.mark.parametrize(("tolerance", "weakest"), [(1e-4, 0.01), (1e-5, 0.001)])
def test_the_optimum_is_that_of_float32(train, much, tolerance, weakest):
    """On few rows the usual tolerance leaves more than 1e-6 under weak penalties, in float32 throughout as well."""
    exact = heads(train, tolerance=1e-6)
    found = heads(train, tolerance=tolerance)
    for strength, head in found.items():
        if strength < weakest:
            continue
        best = min(objective(exact[strength], train, strength), objective(head, train, strength))
        assert objective(head, train, strength) <= best * (1 + 1e-6)
        assert head.info["converged"]


def test_passes_in_bfloat16_save_others(train, much, monkeypatch):
    mixed = [head.info for head in heads(train).values()]
    monkeypatch.setattr("ltpost.fit.options.MUCH_WORK", np.inf)
    plain = [head.info for head in heads(train).values()]
    assert all("bfloat16_passes" not in info for info in plain)
    assert sum(info["passes"] for info in mixed[:4]) < sum(info["passes"] for info in plain[:4])
    assert sum(info["bfloat16_passes"] for info in mixed) > len(STRENGTHS)


def test_a_processor_without_bfloat16_has_no_rough_passes(train, much, monkeypatch):
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda device: False)
    assert all("bfloat16_passes" not in head.info for head in heads(train).values())


def problem_of(train, loss=None, **options):
    weights = torch.from_numpy(row_weights(train.labels, np.bincount(train.labels))).float()
    features, labels = training_features(train, torch.device("cpu")), torch.from_numpy(train.labels)
    loss = (Loss() if loss is None else loss).on(torch.device("cpu"))
    return Regression(features, labels, weights, train.num_classes, loss, bfloat16=True, **options)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_near_objective_is_off_by_thousandths_of_what_changes(train, bias, held, monkeypatch):
    """At the point itself it is exact, and a hundredth of the way has about a hundredth of the error."""
    if not held:
        monkeypatch.setattr("ltpost.data.tensors.RESIDENT_BYTES", 0)
    problem = problem_of(train, bias=bias)
    start = problem.random_start(0)
    away = problem.random_start(1) - start
    points = [(theta, *problem(theta)) for theta in (start + away, start + away / 100)]
    value, gradient = problem(start)
    near = problem.near(start, value, gradient)
    assert (problem._logits is not None) == held
    same_value, same_gradient = near(start)
    assert same_value == value
    assert (same_gradient == gradient).all()
    for theta, value_there, gradient_there in points:
        near_value, near_gradient = near(theta)
        assert near_value - value == pytest.approx(value_there - value, rel=0.05)
        error, change = (near_gradient - gradient_there).norm(), (gradient_there - gradient).norm()
        assert 0 < float(error) < 0.01 * float(change)


def test_a_loss_of_all_rows_has_no_near_objectives(train):
    assert problem_of(train, GeometricMeanLoss(np.zeros(20))).near is None


def test_what_the_processor_has_is_read_from_the_system(tmp_path, monkeypatch):
    for flags, expected in (("fma avx512_bf16 gfni", True), ("fma avx512f", False)):
        (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
        monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
        precision._multiplies_bfloat16.cache_clear()
        assert precision.has_bfloat16(torch.device("cpu")) == expected
    precision._multiplies_bfloat16.cache_clear()


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest new tensor has."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        shared = {part.untyped_storage().data_ptr() for part in args if isinstance(part, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in shared:
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize("rough", [True, False])
def test_no_tensor_has_a_number_for_every_row_and_class(rough, monkeypatch, much):
    """Whole scores (N, C) would have ten times as many numbers as a block; features that are not held stay unread."""
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda device: rough)
    monkeypatch.setattr("ltpost.data.tensors.RESIDENT_BYTES", 0)
    monkeypatch.setattr(Matrix.blocks, "__defaults__", (20_000,))
    monkeypatch.setattr("ltpost.fit.rescaling._SCALING_ELEMENTS", 20_000)
    monkeypatch.setattr(FewRows.blocks, "__defaults__", (20_000,))
    train = long_tail(num_classes=60, num_features=8, most=600, dtype=np.float16)
    assert len(train) * 60 > 10 * 20_000
    with Largest() as largest:
        crt(train, strengths=(0.1, 0.01), progress=False)
        lws(train, train.head, solver="convex", strengths=(0.1,), progress=False)
    assert len(train) <= largest.numbers <= 20_000


# -- where val has turned ----------------------------------------------------------------------------------------------


def head_that_knows(share, val):
    """A head that is right on the first ``share`` of the rows of a split with one-hot features."""
    known = int(share * len(val))
    weight = np.zeros((val.num_classes, len(val)))
    weight[val.labels[:known], np.arange(known)] = 1
    weight[(val.labels[known:] + 1) % val.num_classes, np.arange(known, len(val))] = 1
    return LinearHead(weight)


@pytest.mark.parametrize("select", SELECT)
def test_a_path_has_turned_where_a_head_is_clearly_worse(select):
    labels = np.arange(400) % 4
    counts = np.array([500, 300, 50, 5])
    val = FeatureSet(np.eye(400, dtype=np.float32), labels, class_counts=counts)
    turn = Turn(Selection(select, groups=val.shot_groups()), val)
    judged = [turn(head_that_knows(share, val)) for share in (0.5, 0.8, 0.79, 0.9, 0.7, 0.95)]
    assert judged == [False, False, False, False, True, False]


def overfitted(seed=1):
    """Few features that tell, many that do not: a weak penalty is clearly worse on other rows."""
    random = np.random.default_rng(seed)

    def rows(each):
        labels = np.repeat(np.arange(4), each)
        features = random.normal(0, 1, (len(labels), 60)).astype(np.float32)
        features[np.arange(len(labels)), labels] += 1.5
        return FeatureSet(features, labels, class_counts=np.full(4, 25))

    return {"train": rows(25), "val": rows(400), "test": rows(100)}


def test_a_path_of_much_work_ends_where_val_has_turned(much, monkeypatch):
    splits = overfitted()
    outcome = Experiment(**splits, progress=False).run("crt")
    monkeypatch.setattr("ltpost.fit.options.MUCH_WORK", np.inf)
    whole = Experiment(**splits, progress=False).run("crt")
    assert outcome.best.value == whole.best.value
    fitted = outcome.params["strengths"]
    assert fitted == whole.params["strengths"][: len(fitted)]
    assert 2 <= len(fitted) < 7
    assert f"|strengths:{','.join(f'{strength:g}' for strength in fitted)}|" in outcome.signature
    (note,) = [note for note in outcome.notes if "clearly worse" in note]
    assert note.startswith(f"the path of strengths ended at {fitted[-1]:g}")
    assert note.endswith("0.003, 0.001 were not fitted")
    assert not [note for note in whole.notes if "clearly worse" in note]


def test_heads_that_are_changed_after_the_fit_are_not_judged_before(much):
    splits = overfitted()
    assert len(Experiment(**splits, progress=False).run("crt-la").choice.family.params["strengths"]) == 5


# -- a comparison that is stopped --------------------------------------------------------------------------------------


def test_ctrl_c_keeps_the_finished_methods(tmp_path, monkeypatch):
    make_split("val").save(tmp_path / "val.h5")
    experiment = Experiment(tmp_path)
    run = experiment.run
    monkeypatch.setattr(experiment, "run", lambda key, **options: stop() if key == "mla" else run(key, **options))
    with pytest.raises(KeyboardInterrupt, match="^2 of 4 methods are finished$") as caught:
        compare(experiment, ["tnorm", "la", "mla", "pc-softmax"])
    assert isinstance(caught.value, Interrupted)
    assert [outcome.method for outcome in caught.value.outcomes] == ["tnorm", "la"]
    assert caught.value.unfinished == ("mla", "pc-softmax")
    assert "tnorm" in str(compare_report(caught.value.outcomes))
    with pytest.raises(KeyboardInterrupt) as caught:
        compare(experiment, ["mla", "la"])
    assert not isinstance(caught.value, Interrupted), "nothing was finished"


def stop():
    raise KeyboardInterrupt


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_command_prints_and_saves_what_is_finished(tmp_path, monkeypatch, form):
    make_split("val").save(tmp_path / "features" / "val.h5")
    monkeypatch.chdir(tmp_path)
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "from ltpost import experiment\n"
        "from ltpost.cli import main\n"
        "run = experiment.Experiment.run\n"
        "def interrupted(self, key, **options):\n"
        "    if key == 'mla':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return run(self, key, **options)\n"
        "experiment.Experiment.run = interrupted\n"
        "main(['compare', '--methods', 'tnorm,la,mla,pc-softmax', *sys.argv[1:]])"
    )
    options = ["--csv", "all.csv", "--front", "front.csv", *(["--json"] if form == "json" else [])]
    Path("front.csv").write_text("of all methods")
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.strip() == "Stopped by SIGINT; no file is half-written.", "and no bar, as this is no terminal"
    assert sorted(path.name for path in Path("heads").iterdir()) == ["la.safetensors", "tnorm.safetensors"]
    assert "tnorm" in Path("all.csv").read_text()
    assert Path("front.csv").read_text() == "of all methods"
    if form == "json":
        printed = json.loads(done.stdout)
        assert [outcome["method"] for outcome in printed["methods"]] == ["tnorm", "la"]
        assert printed["unfinished"] == ["mla", "pc-softmax"]
    else:
        assert "tnorm" in done.stdout
        assert "not finished: mla, pc-softmax; ltpost compare --methods mla,pc-softmax" in done.stdout
        assert "front.csv stays as it was" in done.stdout


def test_a_bar_tells_the_method_and_the_time_left(tmp_path, monkeypatch, capsys):
    make_split("val").save(tmp_path / "val.h5")
    compare(Experiment(tmp_path), ["tnorm", "la"])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    compare(Experiment(tmp_path), ["tnorm", "la"])
    said = capsys.readouterr().err
    assert "tnorm (1 of 2)" in said
    assert "la (2 of 2)" in said
    assert " left]" in said
    compare(Experiment(tmp_path, progress=False), ["tnorm", "la"])
    assert capsys.readouterr().err == ""
