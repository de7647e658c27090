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


#: imports torch once, and splits into processes that each run a program; prints their exit codes
SPLIT = """
import os, runpy, sys
from pathlib import Path
import torch.distributed
count, program, *sys.argv[1:] = sys.argv[1:]
started = []
for rank in range(int(count)):
    started.append(os.fork())
    if started[-1] == 0:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.path[0] = str(Path(program).parent)
        (runpy.run_path if program.endswith(".py") else runpy.run_module)(program, run_name="__main__")
        sys.exit()
print(*[os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started])
"""


def in_processes(home, count, *args, program="ltpost"):
    """Run ltpost, or another Python program, in ``count`` processes as torchrun would.

    Returns:
        stdout and stderr of each, and every exit code.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    numbers = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    env = {**os.environ, **numbers, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = [sys.executable, "-c", SPLIT, str(count), program, *args]
    done = subprocess.run(words, env=env, cwd=home, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    outputs = [[(home / f"{name}-{rank}").read_text() for name in ("stdout", "stderr")] for rank in range(count)]
    return outputs, [int(code) for code in done.stdout.split()]
