import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from long_tail import long_tail

from ltpost import distributed
from ltpost.errors import UsageError
from ltpost.head import LinearHead

WORKER = Path(__file__).with_name("distributed_worker.py")


def fit_in_processes(count, files, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    plain = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    running = []
    for rank in range(count):
        several = {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, str(WORKER), *map(str, files), str(folder)]
        running.append(subprocess.Popen(command, env={**plain, **(several if count > 1 else {})}))
    assert [process.wait(timeout=300) for process in running] == [0] * count
    return [
        {path.stem: LinearHead.load(path) for path in sorted((folder / str(rank)).iterdir())} for rank in range(count)
    ]


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Heads of one process, of two that share a file, and of two with a file each."""
    folder = tmp_path_factory.mktemp("distributed")
    train = long_tail(num_classes=6, num_features=8, most=90, split="")
    whole = train.save(folder / "train.h5")
    cut = 70  # of different sizes
    parts = [
        train.subset(np.arange(cut)).save(folder / "train-0.h5"),
        train.subset(np.arange(cut, len(train))).save(folder / "train-1.h5"),
    ]
    one = fit_in_processes(1, [whole], folder / "one")
    return one[0], fit_in_processes(2, [whole], folder / "shared"), fit_in_processes(2, parts, folder / "apart")


@pytest.mark.parametrize("layout", [1, 2], ids=["one file", "a file each"])
def test_two_processes_give_what_one_gives(heads, layout):
    expected, found = heads[0], heads[layout][0]
    assert set(found) == set(expected)
    assert len(expected) == 10
    for name, head in expected.items():
        size = np.abs(head.weight).max()
        np.testing.assert_allclose(found[name].weight, head.weight, atol=1e-5 * size, err_msg=name)
        if "sgd" not in name and "ncm" not in name:
            objective, other = (h.info.get("objective", 1.0) for h in (head, found[name]))
            assert other == pytest.approx(objective, rel=1e-6), name


@pytest.mark.parametrize("layout", [1, 2], ids=["one file", "a file each"])
def test_all_processes_have_the_same_head(heads, layout):
    first, second = heads[layout]
    for name in first:
        assert first[name].same_as(second[name]), name


def test_a_single_process_is_left_alone():
    array = np.arange(3)
    train = long_tail()
    assert distributed.sum_array(array) is array
    assert distributed.join(array) == (array, 0)
    assert distributed.shard(train) is train
    assert (distributed.rank(), distributed.is_active()) == (0, False)


def test_incomplete_variables(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UsageError, match=r"WORLD_SIZE says there are several processes, but .*; start them with torchrun"
    ):
        distributed.start()
