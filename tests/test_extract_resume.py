"""Interrupted, killed, shared out among processes, disk full: the same file in the end."""

import math
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import interrupted_at
from torch import nn

import ltpost
from ltpost.data.write import partial_name
from ltpost.errors import DataError, UsageError
from ltpost.extract import extract_features
from ltpost.extract.command import merge
from ltpost.extract.run import lock, shards, writer
from ltpost.extract.run.lock import held
from ltpost.extract.run.merge import merge_shards

N = 203


class Counting(nn.Module):
    """Counts the images that it sees, and fails at one of them if asked."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 5, 3)
        self.fc = nn.Linear(5, 3)
        self.seen, self.fails_at, self.failure = 0, None, KeyboardInterrupt

    def forward(self, x):
        if self.fails_at is not None and self.seen + len(x) > self.fails_at:
            raise self.failure
        self.seen += len(x)
        return self.fc(torch.relu(self.conv(x)).amax((2, 3)))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (N, 8, 8, 3), dtype=np.uint8), rng.integers(0, 3, N)
    np.savez(folder / "val.npz", images=images, labels=labels)
    np.savez(folder / "train.npz", images=images, labels=labels)
    return folder


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    return extract_features(Counting(), data, "val", tmp_path_factory.mktemp("whole"), batch_size=10)


def contents(path: Path) -> dict[str, bytes]:
    """Every dataset of a feature file."""
    found: dict[str, bytes] = {}
    with h5py.File(path) as file:
        assert file.attrs["state"] == "complete"
        assert "shard" not in file.attrs
        file.visititems(
            lambda name, item: found.__setitem__(name, item[()].tobytes()) if isinstance(item, h5py.Dataset) else None
        )
    return found


@pytest.fixture
def flush_often(monkeypatch):
    monkeypatch.setattr(writer, "_FLUSH_SECONDS", 0.0)


@pytest.mark.usefixtures("flush_often")
@pytest.mark.parametrize("fails_at", [10, 11, 105, 202])
def test_interrupted_run_goes_on(data, whole, tmp_path, capsys, fails_at):
    model = Counting()
    model.fails_at = fails_at
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, data, "val", tmp_path, batch_size=10)
    kept = fails_at // 10 * 10
    assert f"interrupted; {kept} of {N} rows are kept" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["val.h5.partial"]
    with pytest.raises(DataError, match="only an unfinished val.h5.partial; run the same ltpost extract command again"):
        ltpost.load(tmp_path / "val.h5")
    model.fails_at, model.seen = None, 0
    path = extract_features(model, data, "val", tmp_path, batch_size=10)
    assert model.seen == N - kept
    assert contents(path) == contents(whole)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_before_the_first_row_leaves_nothing(data, tmp_path):
    model = Counting()
    model.fails_at, model.failure = 0, RuntimeError("too small")
    with pytest.raises(DataError, match=r"cannot take images of shape \(3, 8, 8\) \(too small\)"):
        extract_features(model, data, "val", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("flush_often")
def test_other_extraction_is_not_mixed_in(data, tmp_path):
    model = Counting()
    model.fails_at = 50
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, data, "val", tmp_path, batch_size=10)
    model.fails_at = None
    for other, options, differing in (
        (model, {"std": (0.5,)}, "transform"),
        (model, {"dtype": "float16"}, "dtype"),
        (model, {"amp": "bf16"}, "amp"),
        (model, {"logits": False}, "logits"),
        (model, {"data": data / "train.npz", "class_counts": [1, 1, 1]}, None),  # the same images and labels
        (Counting(seed=1), {}, "model_sha256, head"),
    ):
        options = {"data": data, "split": "val", "out": tmp_path, "batch_size": 10, **options}
        if differing is None:
            continue
        with pytest.raises(DataError, match=rf"another extraction \({differing} differ\); .*restart="):
            extract_features(other, **options)
    new = ltpost.load(extract_features(Counting(seed=1), data, "val", tmp_path, batch_size=10, restart=True))
    fresh = ltpost.load(extract_features(Counting(seed=1), data, "val", tmp_path / "fresh", batch_size=10))
    np.testing.assert_array_equal(new.features, fresh.features)


@pytest.mark.usefixtures("flush_often")
def test_class_counts_may_come_later(data, tmp_path):
    model = Counting()
    model.fails_at = 50
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, data, "val", tmp_path, batch_size=10)
    model.fails_at = None
    found = ltpost.load(extract_features(model, data, "val", tmp_path, batch_size=10, class_counts=[9, 5, 1]))
    assert found.class_counts.tolist() == [9, 5, 1]


def test_unreadable_partial_file_is_begun_anew(data, whole, tmp_path):
    (tmp_path / "val.h5.partial").write_bytes(b"killed before the first flush")
    assert contents(extract_features(Counting(), data, "val", tmp_path, batch_size=10)) == contents(whole)


KILLED = """
import os, signal, sys, time, torch
sys.path.insert(0, {tests!r})
from test_extract_resume import Counting
from ltpost.extract import extract_features
from ltpost.extract.run import writer
writer._FLUSH_SECONDS = 0.0
class Slow(Counting):
    def forward(self, x):
        time.sleep(0.004)
        return super().forward(x)
torch.set_num_threads(1)
for line in sys.stdin:
    run = os.fork()  # the imports take longer than the run
    if run == 0:
        extract_features(Slow(), {data!r}, "val", {out!r}, batch_size=10)
        os._exit(0)
    if float(line) < 1:
        time.sleep(float(line))
        os.kill(run, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]), flush=True)
"""


def test_kill_9_at_any_moment(data, whole, tmp_path):
    """Killed again and again, at moments from the first to past the last row, until a run comes through."""
    code = KILLED.format(tests=str(Path(__file__).parent), data=str(data), out=str(tmp_path))
    rng = random.Random(0)
    moments = [rng.uniform(0.0, 0.06) for _ in range(8)] + [math.inf]
    lines = "".join(f"{moment}\n" for moment in moments)
    done = subprocess.run([sys.executable, "-c", code], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    codes = [int(line) for line in done.stdout.split()]
    assert len(codes) == len(moments)
    assert set(codes[:-1]) <= {0, -signal.SIGKILL}
    assert codes.count(-signal.SIGKILL) >= 3
    assert codes[-1] == 0
    assert contents(tmp_path / "val.h5") == contents(whole)
    assert not (tmp_path / "val.h5.partial").exists()


def test_a_kill_while_the_file_is_created_does_not_count_its_rows_as_done(data, whole, tmp_path, monkeypatch):
    """In its first moments a file has its size, but nothing else yet."""
    from ltpost.extract.run import partial

    class Killed(BaseException):
        pass

    def killed(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(partial.h5py, "File", killed)  # what opens the file again after its creation
    with pytest.raises(Killed):
        extract_features(Counting(), data, "val", tmp_path, batch_size=10)
    monkeypatch.undo()
    assert not partial_name(tmp_path / "val.h5").exists()  # it has no name before it is whole
    assert contents(extract_features(Counting(), data, "val", tmp_path, batch_size=10)) == contents(whole)


def test_two_runs_into_one_file(data, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from ltpost.extract.run.lock import held\n"
        f"with held(Path({str(tmp_path / 'val.h5')!r})):\n    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(DataError, match=rf"is being written by process {other.pid} on .+ since 20\d\d-"):
            extract_features(Counting(), data, "val", tmp_path)
    path = extract_features(Counting(), data, "val", tmp_path)  # it is gone, and so is its lock
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_file_left_by_a_kill_holds_nobody_up(tmp_path):
    (tmp_path / "val.h5.lock").write_text('{"pid": 1}')
    with held(tmp_path / "val.h5"):
        assert f'"pid": {os.getpid()}' in (tmp_path / "val.h5.lock").read_text()


def test_a_signal_while_a_lock_is_taken_leaves_no_lock_file(tmp_path, monkeypatch):
    lockf = lock.fcntl.lockf

    def and_then_a_signal(*args):
        lockf(*args)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(lock.fcntl, "lockf", and_then_a_signal)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), held(tmp_path / "x.h5"):
            pytest.fail("the signal was lost")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list(tmp_path.iterdir()) == []


def test_disk_full_before_the_first_row(data, tmp_path):
    code = (
        "import resource, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_extract_resume import Counting\n"
        "from ltpost.extract import extract_features\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
        f"extract_features(Counting(), {str(data)!r}, 'val', {str(tmp_path)!r})\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "DataError: " in run.stderr
    assert "val.h5: cannot be written (" in run.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("flush_often")
def test_disk_full_in_the_middle(data, whole, tmp_path, monkeypatch):
    flush, calls = writer.FeatureWriter._flush, []

    def full(self, pending):
        calls.append(1)
        if len(calls) > 5:
            raise OSError(28, "No space left on device")
        flush(self, pending)

    monkeypatch.setattr(writer.FeatureWriter, "_flush", full)
    with pytest.raises(DataError, match=r"No space left on device.*make room and run the same command again"):
        extract_features(Counting(), data, "val", tmp_path, batch_size=10)
    monkeypatch.setattr(writer.FeatureWriter, "_flush", flush)
    model = Counting()
    assert contents(extract_features(model, data, "val", tmp_path, batch_size=10)) == contents(whole)
    assert model.seen == N - 50


# -- several processes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
def test_shards_cover_all_rows_at_whole_batches(count):
    for total in (0, 1, 10, 203):
        ranges = [shards.Shard(index, count).rows(total, 10) for index in range(count)]
        assert [row for part in ranges for row in range(part.start, part.stop)] == list(range(total))
        assert all(part.start % 10 == 0 or part.start == total for part in ranges)


@pytest.mark.parametrize("count", [2, 3, 25])
def test_shards_make_the_same_file(data, whole, tmp_path, count):
    target = tmp_path / "val.h5"
    with pytest.raises(DataError, match=r"has no finished shards.*--shard i/n"):
        merge_shards(target)
    for index in reversed(range(count)):
        path = extract_features(Counting(), data, "val", tmp_path, batch_size=10, shard=f"{index}/{count}")
        assert path == tmp_path / "val.shards" / f"{index}-of-{count}.h5"
        if index:
            with pytest.raises(DataError, match=rf"shards 0.* of {count} are not finished"):
                merge_shards(target)
    result = CliRunner().invoke(merge, [str(target)], catch_exceptions=False)
    assert result.exit_code == 0
    assert contents(target) == contents(whole)
    assert list(tmp_path.iterdir()) == [target]


def test_ranks_join_by_themselves(data, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (1, 2, 0):
        monkeypatch.setenv("RANK", str(rank))
        model = Counting()
        path = extract_features(model, data, "val", tmp_path, batch_size=10)
        assert model.seen < N
    assert path == tmp_path / "val.h5"
    assert contents(path) == contents(whole)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("flush_often")
def test_rows_of_other_numbers_of_processes_are_taken_up(data, whole, tmp_path, monkeypatch):
    model = Counting()
    model.fails_at = 100
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, data, "val", tmp_path, batch_size=10)  # one process: rows 0..99
    model = Counting()
    extract_features(model, data, "val", tmp_path, batch_size=10, shard=(1, 2))
    assert model.seen == 103
    model, seen = Counting(), []
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        path = extract_features(model, data, "val", tmp_path, batch_size=10)
        seen.append(model.seen)
    assert seen == [0, 0, 0]
    assert contents(path) == contents(whole)


@pytest.mark.usefixtures("flush_often")
@pytest.mark.parametrize("shard", [None, (1, 2)])
def test_somebody_who_looks_at_the_unfinished_file_stops_nobody(data, tmp_path, shard):
    """Another rank that looks for rows, or a user: a reader's HDF5 lock does not keep the writer out."""
    model = Counting()
    model.fails_at = 50
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, data, "val", tmp_path, batch_size=10, shard=shard)
    (partial,) = tmp_path.rglob("*.partial")
    code = f"import h5py, sys; file = h5py.File({str(partial)!r}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout.readline() == b"open\n"
        model.fails_at, model.seen = None, 0
        path = extract_features(model, data, "val", tmp_path, batch_size=10, shard=shard)
        reader.stdin.close()
    assert 0 < model.seen < N
    assert path.is_file()


def test_shard_of_another_extraction(data, tmp_path):
    extract_features(Counting(), data, "val", tmp_path, shard=(0, 2))
    extract_features(Counting(), data, "val", tmp_path, shard=(1, 2), std=(0.5,))
    with pytest.raises(DataError, match=r"1-of-2.h5: does not belong to 0-of-2.h5 \(transform differ\)"):
        merge_shards(tmp_path / "val.h5")
    assert not partial_name(tmp_path / "val.h5").exists()


def test_launchers():
    assert shards.launched({}) is None
    assert shards.launched({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert shards.launched({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == shards.Shard(5, 8, 1)
    assert shards.launched({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"}) == shards.Shard(
        2, 4, 0
    )
    assert shards.launched({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) is None  # sbatch without srun: one process
    with pytest.raises(UsageError, match="WORLD_SIZE is set, so RANK must be a number too"):
        shards.launched({"WORLD_SIZE": "2"})
    for text in ("2/2", "1", "a/b", "-1/2"):
        with pytest.raises(UsageError, match="shard= must be i/n with 0 <= i < n"):
            shards.parse_shard(text)


def test_torchrun(data, tmp_path, monkeypatch):
    model = Counting()
    torch.save(model.state_dict(), tmp_path / "m.pth")
    (tmp_path / "counting_model.py").write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_extract_resume import Counting\n"
        "def make(): return Counting()\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ltpost",
         "extract", "--ckpt", "m.pth", "--arch", "counting_model:make", "--data", str(data), "--batch-size", "10"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    plain = extract_features("m.pth", data, "val", "plain", arch="counting_model:make", batch_size=10)
    assert contents(tmp_path / "features" / "val.h5") == contents(plain)
    assert not (tmp_path / "features" / "val.shards").exists()


def test_unreadable_rows_and_their_reasons_survive_sharding(tmp_path):
    image = pytest.importorskip("PIL.Image")
    lines = []
    for number in range(9):
        image.new("RGB", (8, 8), (number * 20, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png {number % 3}\n")
    (tmp_path / "val.txt").write_text("".join(lines))
    for number in (1, 7):
        (tmp_path / f"{number}.png").write_bytes(b"no")
    whole = extract_features(Counting(), tmp_path, "val", tmp_path / "a", batch_size=2, workers=0)
    for index in range(2):
        extract_features(Counting(), tmp_path, "val", tmp_path / "b", batch_size=2, workers=0, shard=(index, 2))
    joined = merge_shards(tmp_path / "b" / "val.h5")
    one, other = contents(whole), contents(joined)
    assert set(one) == set(other)
    with h5py.File(joined) as file:
        assert file["errors/row"][:].tolist() == [1, 7]
        assert b"cannot identify" in file["errors/reason"][0]
        assert np.flatnonzero(file["valid"][:] == 0).tolist() == [1, 7]
        assert np.isnan(file["features"][1]).all()
    assert ltpost.load(joined).num_invalid == 2


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """40,000 rows are 123 MB of pixels and 82 MB of features; neither is ever in memory as a whole."""
    code = (
        "import resource, sys, torch\n"
        "from ltpost.extract import extract_features\n"
        "torch.set_num_threads(1)\n"
        "model = torch.nn.Sequential(torch.nn.AvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(768, 512),\n"
        "                            torch.nn.Linear(512, 3))\n"
        "for folder in sys.argv[1:]:\n"
        "    extract_features(model, folder, 'val', folder + '/f', head_key='3', batch_size=500)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    folders = []
    for number in (1000, 40_000):
        folders.append(folder := tmp_path / str(number))
        folder.mkdir()
        images = np.zeros((number, 32, 32, 3), np.uint8)
        np.savez_compressed(folder / "val.npz", images=images, labels=np.zeros(number, np.int64))
    run = subprocess.run([sys.executable, "-c", code, *map(str, folders)], capture_output=True, text=True, check=True)
    peaks = [int(line) for line in run.stdout.split()]
    assert peaks[1] - peaks[0] < 60, peaks


def stopped_at(step, rows_writer, rows):
    """Write rows and raise KeyboardInterrupt at a step of Python in what hands them over; False where it has ended."""
    files = {module.__file__ for module in (queue, threading, writer)}
    try:
        with interrupted_at(step, lambda code: code.co_filename in files):
            rows_writer.write(0, {"features": rows}, np.ones(len(rows), np.uint8))
    except KeyboardInterrupt:
        return True
    return False


def test_ctrl_c_between_any_two_steps_of_handing_rows_over_ends(tmp_path):
    """The writer slept for ever if it came between the waking of the writer and the note that it is awake."""
    step, going_on = 1, True
    while going_on:
        path = tmp_path / f"{step}.h5"
        with h5py.File(tmp_path / f"{step}.h5.partial", "w") as file:
            file["features"], file["done"] = np.zeros((4, 2)), np.zeros(4, np.uint8)
        to_stop = writer.FeatureWriter(path)
        time.sleep(0.01)  # it waits for rows now
        going_on = stopped_at(step, to_stop, np.ones((4, 2)))
        time.sleep(0.01)  # it waits again
        end = threading.Thread(target=to_stop.__exit__, args=(None, None, None), daemon=True)
        end.start()
        end.join(20)
        assert not end.is_alive(), step
        step += 1
    assert step > 5
    with h5py.File(tmp_path / f"{step - 1}.h5.partial") as file:
        assert file["done"][:].tolist() == [1] * 4


@pytest.mark.parametrize("name", ["head/bias", "head/weight", "done", "labels"])
def test_a_stop_while_the_file_is_created_leaves_none(name, data, whole, tmp_path, monkeypatch):
    """One without the bias of the classifier was taken up, and the bias was lost."""
    create = h5py.Group.create_dataset

    def stopped(self, key, *args, **kwargs):
        if key == name:
            raise KeyboardInterrupt
        return create(self, key, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(h5py.Group, "create_dataset", stopped)
        with pytest.raises(KeyboardInterrupt):
            extract_features(Counting(), data, "val", tmp_path, batch_size=4)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_comes_late_removes_its_shard(data, tmp_path, monkeypatch):
    """The others have joined all shards between its look at the whole file and its own rows."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    kept = {}
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        path = extract_features(Counting(), data, "val", tmp_path, batch_size=4)
        kept.update({file.name: file.read_bytes() for file in (tmp_path / "val.shards").glob("*.h5")})
    before, folder = path.read_bytes(), tmp_path / "val.shards"
    folder.mkdir()
    (folder / "0-of-2.h5").write_bytes(kept["0-of-2.h5"])
    for rank, seen in ((1, True), (0, False)):  # it sees the whole file, or comes between
        monkeypatch.setenv("RANK", str(rank))
        with monkeypatch.context() as patch:
            if not seen:
                patch.setattr("ltpost.extract.run.rows.is_finished", lambda *_: False)
            assert extract_features(Counting(), data, "val", tmp_path, batch_size=4) == path
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["val.h5"]
