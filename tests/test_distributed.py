import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import in_processes
from distributed_worker import fit
from long_tail import long_tail

from ltpost import load
from ltpost.cli import cli
from ltpost.data import distributed
from ltpost.errors import UsageError
from ltpost.heads import load_head

WORKER = Path(__file__).with_name("distributed_worker.py")
LAYOUTS = ("shared", "apart")
pytestmark = pytest.mark.xdist_group("distributed")


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Heads of one process; and by layout and rank of two that share a file, and of two with a file each."""
    folder = tmp_path_factory.mktemp("distributed")
    train = long_tail(num_classes=6, num_features=8, most=90, split="")
    train.save(folder / "train.h5")
    cut = 70  # of different sizes
    train.subset(np.arange(cut)).save(folder / "train-0.h5")
    train.subset(np.arange(cut, len(train))).save(folder / "train-1.h5")
    outputs, codes = in_processes(folder, 2, str(folder), program=str(WORKER))
    assert codes == [0, 0], outputs
    found = {
        layout: [
            {path.stem: load_head(path) for path in sorted((folder / layout / rank).iterdir())} for rank in ("0", "1")
        ]
        for layout in LAYOUTS
    }
    return fit(load(folder / "train.h5")), found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_give_what_one_gives(heads, layout):
    expected, found = heads[0], heads[1][layout][0]
    assert set(found) == set(expected)
    assert len(expected) == 10
    for name, head in expected.items():
        tensors, others = head.state()[1], found[name].state()[1]
        assert set(tensors) == set(others)
        for key, tensor in tensors.items():
            other, size = others[key], np.abs(tensor).max()
            if key == "bias":  # what is added to all of them changes no prediction, so no solver cares
                tensor, other = tensor - tensor.mean(), other - other.mean()
            np.testing.assert_allclose(other, tensor, atol=1e-5 * size, err_msg=f"{name} {key}")
        if "sgd" not in name and "ncm" not in name:
            objective, other = (h.info["objective"] for h in (head, found[name]))
            assert other == pytest.approx(objective, rel=1e-6), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_processes_have_the_same_head(heads, layout):
    first, second = heads[1][layout]
    for name in first:
        tensors, others = first[name].state()[1], second[name].state()[1]
        assert {key: tensor.tobytes() for key, tensor in tensors.items()} == {
            key: tensor.tobytes() for key, tensor in others.items()
        }, name


@pytest.fixture
def two_hosts():
    """Two network namespaces with an address each, joined by a pair of virtual cards; Linux, as root."""
    names = [f"ltpost{os.getpid()}{letter}" for letter in "ab"]
    addresses = ["10.213.7.1", "10.213.7.2"]

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, text=True)

    if shutil.which("ip") is None or any(ip("netns", "add", name).returncode for name in names):
        pytest.skip("needs the right to make network namespaces")
    try:
        cards = [f"lt{os.getpid()}{letter}" for letter in "ab"]
        made = ip("link", "add", cards[0], "netns", names[0], "type", "veth", "peer", cards[1], "netns", names[1])
        if made.returncode:
            pytest.skip("needs the right to make virtual network cards")
        for name, card, address in zip(names, cards, addresses, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", card)
            for device in (card, "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield list(zip(names, cards, addresses, strict=True))
    finally:
        for name in names:
            ip("netns", "del", name)


def test_two_hosts_with_rows_of_their_own_give_what_one_gives(two_hosts, tmp_path, monkeypatch):
    allowed = {"crt": 3e-3, "ncm": 1e-5}  # crt ends within its tolerance of the optimum
    command = ["compare", "--methods", ",".join(allowed), "--features"]
    train = long_tail(num_classes=6, num_features=8, most=90, split="")
    val = long_tail(num_classes=6, num_features=8, most=40, seed=1, head=train.head, class_counts=train.class_counts)
    folders = [tmp_path / name / "features" for name in ("one", "a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
        val.save(folder / "val.h5")
    train.save(folders[0] / "train.h5")
    train.subset(np.arange(70)).save(folders[1] / "train-0.h5")
    train.subset(np.arange(70, len(train))).save(folders[2] / "train-1.h5")
    ltpost = ["-m", "ltpost", *command]
    monkeypatch.chdir(tmp_path / "one")
    CliRunner().invoke(cli, [*command, "features"], catch_exceptions=False)
    running = []
    for rank, (name, card, _) in enumerate(two_hosts):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        torchrun += ["--node-rank", str(rank), "--master-addr", two_hosts[0][2], "--master-port", "29533"]
        command = ["ip", "netns", "exec", name, *torchrun, *ltpost, "features/train-*.h5"]
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": card, "OMP_NUM_THREADS": "1"}
        where = tmp_path / "ab"[rank]
        running.append(subprocess.Popen(command, cwd=where, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    for method, part in allowed.items():
        expected, found = (load_head(tmp_path / host / "heads" / f"{method}.safetensors") for host in ("one", "a"))
        np.testing.assert_allclose(found.weight, expected.weight, atol=part * np.abs(expected.weight).max())


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
