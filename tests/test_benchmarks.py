"""The benchmarks run through, smaller than at their smallest size; how fast they are is not tested."""

import importlib.util
import math
import multiprocessing
import sys
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest

pytest.importorskip("sklearn")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="they choose cores and read /proc, as Linux has them")

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import costs, data, fitting, gpu, measure, path, scaling, sweep  # noqa: E402
from benchmarks.measure import Row, medians, peak_memory  # noqa: E402
from ltpost.data.matrices import Matrices  # noqa: E402
from ltpost.data.tensors import Matrix  # noqa: E402
from ltpost.methods import nearest_class_mean  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Made-up data, with fewer rows than "small" has, goes to a folder of the test, once for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.SIZES, "small", replace(data.SIZES["small"], train=2500, most=120, val=10, test=10))
        patch.setattr(data, "CACHE", tmp_path_factory.mktemp("cache"))
        yield


class _Inline:
    """A process that runs where it is started; starting one, and importing torch in it, takes longer than its work."""

    exitcode = 0

    def __init__(self, target, args):
        self.start, self.join = (lambda: target(*args)), (lambda: None)


@pytest.fixture(autouse=True)
def _once(request, monkeypatch):
    """What is timed is called once: what it takes is not tested. Not for the tests of timing itself."""
    if "medians" in request.node.name:
        return

    def seconds(functions, repeats=1):
        return {name: measure._seconds(function, 1) for name, function in functions.items()}

    for part in (sweep, fitting, gpu, scaling):
        monkeypatch.setattr(part, "medians", seconds)
    inline = SimpleNamespace(Pipe=multiprocessing.Pipe, get_context=lambda how: SimpleNamespace(Process=_Inline))
    monkeypatch.setattr(fitting, "multiprocessing", inline)


@pytest.mark.parametrize("part", [sweep, fitting])
def test_ratios_and_seconds_are_positive(part):
    rows = part.run("small", repeats=1)
    assert rows
    for row in rows:
        if row.unit.startswith("above"):  # the better objective, which may be this one
            assert 0 <= row.value < 1e-3, row
        else:
            assert 0 < row.value < math.inf, row


def test_both_paths_end_in_the_same_minimum():
    rows = {row.unit: row.value for row in path.run("small") if "ended" not in row.name}
    assert rows["above the objective of float32 throughout, relative"] < 1e-6
    assert rows["passes in float32"] < rows["passes"]
    assert rows["passes in bfloat16"] > 0


@pytest.mark.parametrize(("key", "passes"), [("ncm", (1, 1)), ("la", (0, 2))])
def test_passes_of_a_method_are_counted(tmp_path, monkeypatch, key, passes):
    for kind, names in (
        (Matrices, ("read_features", "read_logits", "feature_blocks")),
        (Matrix, ("blocks", "batches")),
    ):
        for name in names:
            monkeypatch.setattr(kind, name, getattr(kind, name))  # as it is now, again after the test
    monkeypatch.setattr(nearest_class_mean, "class_sums", nearest_class_mean.class_sums)
    costs.make_folder(tmp_path, "small", Fraction(1, 8))
    receiver, sender = multiprocessing.Pipe(duplex=False)
    costs._measure(tmp_path, key, "cpu", sender)
    found = receiver.recv()
    assert (found["train"], found["val"]) == passes
    assert costs.line(key, found).startswith(f"| {key} | ")
    assert 0 <= found["memory"] < 1
    assert "needs" not in costs.line(key, found)


def test_gpu_script_agrees_with_the_cpu_on_the_cpu():
    rows = gpu.run("small", "cpu")
    differences = [row.value for row in rows if not row.unit]
    assert len(differences) == 14
    assert set(differences) == {0.0}
    for row in rows:
        if row.unit == "change":  # of bfloat16
            assert row.value < 0.02, row
        elif row.unit:
            assert 0 < row.value < math.inf, row
            assert not row.goal, row


def test_every_core_grows_in_every_size():
    rows = scaling.run("small")
    assert all(math.isfinite(row.value) for row in rows)
    timed = [row.name for row in rows if ": time" in row.name]
    claims = [claim for core in scaling.CORES.values() for claim in core.time if claim is not None]
    assert len(timed) == len(set(timed)) == len(claims)


def test_an_exponent_is_the_slope_of_the_logarithms():
    row = scaling.exponent("x", "N", {size: 7 * size**1.5 for size in (10, 20, 40, 80)}, claimed=1)
    assert row.value == pytest.approx(1.5)
    assert (row.goal, row.verdict) == ("<= 1.15", "NO")
    assert replace(row, value=1.1).verdict == "yes"


@pytest.mark.skipif(not scaling.can_measure_memory(), reason="/proc/self/clear_refs cannot be written")
def test_peak_memory_is_that_of_what_is_in_use_at_once():
    def use(megabytes):
        return bytearray(megabytes * 2**20).count(0)

    use(1)
    assert peak_memory(lambda: [use(64), use(64)]) / 2**20 == pytest.approx(64, rel=0.2)


def test_medians_take_turns_leave_the_first_round_out_and_call_what_is_quick_more_often(monkeypatch):
    now, order = [0.0], []
    clock = SimpleNamespace(perf_counter=lambda: now[0], sleep=lambda _: None)
    monkeypatch.setattr(measure, "time", clock)

    def taking(name, *seconds):
        def function():
            now[0] += seconds[min(order.count(name), len(seconds) - 1)]
            order.append(name)

        return function

    found = medians({"a": taking("a", 8, 2, 4), "b": taking("b", 0.025, 0.01)}, repeats=2)
    assert order == ["a", "b", "a", "b", "b", "a", "b", "b"]  # b takes 0.05 s in about two calls
    assert found == pytest.approx({"a": 3, "b": 0.01})


def test_the_command_writes_what_it_measured_and_keeps_the_rest(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "KEPT", tmp_path / "cache" / "results.json")
    monkeypatch.setattr(command, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--size", "small", "--only", "scaling", "--only", "sweep"])
    for part, value in ((scaling, 1.25), (sweep, 3.0)):
        monkeypatch.setattr(part, "run", lambda size, device, value=value: [Row(f"{size} row", value, "s", "<= 2")])
    command.main()
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--size", "small", "--only", "scaling"])
    monkeypatch.setattr(scaling, "run", lambda size, device: [Row("newer", 0.5, "s")])
    command.main()
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| small row | 3 | s | <= 2 | NO |" in text
    assert "| newer | 0.5 | s |  |  |" in text
    assert "1.25" not in text
    assert "1.25" in capsys.readouterr().out


def test_extraction_is_left_out_where_it_cannot_run(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--size", "small", "--only", "extract", "--no-write"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    command.main()
    assert "torchvision is not installed" in capsys.readouterr().out
