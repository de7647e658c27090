"""Small feature files that every test may use, and where the real data is."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # on arrays this small, more threads only wait for each other

import numpy as np
import pytest

from ltpost import FeatureSet, LinearHead

SHARED = Path(os.environ.get("LTPOST_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))

needs_shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here (LTPOST_SHARED_DATA)")

COUNTS = np.array([400, 300, 150, 101, 100, 60, 20, 19, 8, 3])


def make_split(split, rows_per_class=30, *, seed=0, bias=True, logits=True, **changes):
    """A long-tailed problem: separable features, and a joint head whose norms follow the class counts."""
    shape = np.random.default_rng(0)
    classes, dims = len(COUNTS), 16
    centres = np.abs(shape.normal(size=(classes, dims))).astype(np.float32)
    weight = (centres - centres.mean(0)) * (COUNTS[:, None] / COUNTS.max()) ** 0.25
    head = LinearHead(weight, (0.1 * shape.normal(size=classes)) if bias else None)
    rng = np.random.default_rng(seed + {"train": 1, "val": 2, "test": 3}.get(split, 4))
    per_class = COUNTS if split == "train" else np.full(classes, rows_per_class)
    labels = np.repeat(np.arange(classes), per_class)
    features = np.maximum(centres[labels] + 0.8 * rng.normal(size=(len(labels), dims)), 0).astype(np.float32)
    options = {"head": head, "class_counts": COUNTS, "split": split, **changes}
    if logits:
        options.setdefault("logits", head.logits(features))
    return FeatureSet(features, labels, **options)


@pytest.fixture
def folder(tmp_path):
    """A folder features/ with train, val and test, and the working directory beside it."""
    for split in ("train", "val", "test"):
        make_split(split).save(tmp_path / "features" / f"{split}.h5")
    return tmp_path / "features"


@pytest.fixture
def at_home(folder, monkeypatch):
    """The current folder is the one that holds features/."""
    monkeypatch.chdir(folder.parent)
    return folder.parent


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory):
    """The folder in which ``ltpost demo`` ran, as a user runs it, and what it printed: output.txt."""
    from click.testing import CliRunner

    from ltpost.cli import cli

    home = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        home.joinpath("output.txt").write_text(CliRunner().invoke(cli, ["demo"], catch_exceptions=False).stdout)
    return home


@pytest.fixture
def fake_device(monkeypatch):
    """A device "fake", which computes as the CPU does; the list of the devices that were asked for."""
    from ltpost.data import tensors
    from ltpost.fit import solve  # noqa: F401 - loads what takes the function from there
    from ltpost.scores import on_device  # noqa: F401

    asked, real = [], tensors.find_device

    def find_device(name):
        asked.append(name)
        return real("cpu" if name == "fake" else name)

    for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "ltpost"]:
        if getattr(module, "find_device", None) is real:
            monkeypatch.setattr(module, "find_device", find_device)
    return asked


@contextmanager
def interrupted_at(step, watches):
    """Raise KeyboardInterrupt in the block at a step of Python, counted in the code that ``watches`` is true for."""
    passed = 0

    def trace(frame, event, _):
        nonlocal passed
        if not watches(frame.f_code):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            passed += 1
            if passed == step:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def in_processes(home, count, *args, command=("-m", "ltpost")):
    """Run ltpost, or another Python program, in ``count`` processes as torchrun would.

    Returns:
        stdout and stderr of each, and every exit code.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = []
    for rank in range(count):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        env = {**os.environ, **{key: str(value) for key, value in numbers.items()}}
        env.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, OMP_NUM_THREADS="1")
        words = [sys.executable, *command, *args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(words, env=env, cwd=home, **pipes))
    outputs = [process.communicate(timeout=300) for process in running]
    return outputs, [process.returncode for process in running]
