"""Reading ahead: the same rows as without, in the same order, and no thread that outlives its reader."""

import threading
from contextlib import nullcontext

import h5py
import numpy as np
import pytest
import torch
from long_tail import crt_path, crt_sgd, long_tail, lws_path, lws_sgd, same
from torch.utils._python_dispatch import TorchDispatchMode

import ltpost.data.tensors
from ltpost import DataError, load
from ltpost.data.features import FeatureSet
from ltpost.data.tensors import AHEAD, read_ahead, training_features

CPU = torch.device("cpu")
FITS = {
    "crt sgd": lambda train: crt_sgd(train, batch_size=16),
    "crt sgd, bfloat16": lambda train: crt_sgd(train, batch_size=16, precision="bfloat16"),
    "lws sgd": lambda train: lws_sgd(train, batch_size=16),
    "crt convex": lambda train: crt_path(train, strengths=(1.0, 0.1))[-1],
    "lws convex": lambda train: lws_path(train, strengths=(1.0, 0.1))[-1],
}


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())  # torch.compile keeps some
    yield
    assert not [thread for thread in set(threading.enumerate()) - before if "ThreadPoolExecutor" in thread.name]


@pytest.fixture
def from_file(monkeypatch):
    """Rows stay in the file, and blocks are small enough for there to be several."""
    monkeypatch.setattr(ltpost.data.tensors, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(ltpost.data.tensors.Matrix.blocks, "__defaults__", (150,))
    monkeypatch.setattr("ltpost.fit.rescaling._SCALING_ELEMENTS", 150)


@pytest.fixture
def ahead(monkeypatch):
    """Reading ahead where the CPU does the work, which it does not do by itself."""

    def switch(on):
        monkeypatch.setattr(ltpost.data.tensors, "READ_AHEAD", ("cpu",) if on else ())

    return switch


def stored(kind, folder):
    """Made-up rows in a file, and how much of them there is in memory: none."""
    train = long_tail(most=120, dtype=np.float16)
    if kind == "logits":
        logits = train.head.logits(train.features).astype(np.float16)
        train = FeatureSet(train.features, train.labels, head=train.head, logits=logits)
    found = load(train.save(folder / "train.h5"))
    if kind == "compressed":
        with h5py.File(folder / "train.h5", "r+") as file:
            del file["features"]
            file.create_dataset("features", data=train.features, chunks=(7, 6), compression="gzip")
        return load(folder / "train.h5")
    return found.subset(np.arange(len(found) - 1)) if kind == "subset" else found


@pytest.mark.parametrize("kind", ["memory map", "subset", "compressed", "logits"])
@pytest.mark.parametrize("method", FITS)
def test_reading_ahead_changes_no_bit(method, kind, tmp_path, from_file, ahead):
    train = stored(kind, tmp_path)
    ahead(False)
    expected = FITS[method](train)
    ahead(True)
    found = FITS[method](train)
    assert same(found, expected)
    assert found.info == expected.info


@pytest.mark.parametrize("on", [False, True])
def test_blocks_and_batches_are_the_rows(on, tmp_path, from_file, ahead):
    ahead(on)
    train = stored("memory map", tmp_path)
    matrix, rows = training_features(train, CPU), np.asarray(train.features, dtype=np.float32)
    parts, blocks = zip(*((part, block.clone()) for part, block in matrix.blocks(6)), strict=True)
    assert len(parts) > AHEAD + 2
    np.testing.assert_array_equal(torch.cat(blocks), rows)
    np.testing.assert_array_equal(np.concatenate([np.arange(len(rows))[part] for part in parts]), np.arange(len(rows)))
    drawn = np.random.default_rng(0).integers(0, len(rows), 60)
    sizes = [7, 0, 20, 1, 32]  # none of a batch may be in this process's shard
    batches = list(matrix.batches(drawn, sizes))
    assert [len(numbers) for numbers, _ in batches] == sizes
    np.testing.assert_array_equal(torch.cat([numbers for numbers, _ in batches]), drawn)
    np.testing.assert_array_equal(torch.cat([x for _, x in batches]), rows[drawn])


def test_the_first_comes_first_even_if_it_is_read_last():
    second = threading.Event()

    def gather(key):
        if key == 0:
            assert second.wait(30)
        if key == 1:
            second.set()
        return torch.tensor(key)

    assert [int(x) for x in read_ahead(gather, range(7), CPU)] == list(range(7))


def test_it_reads_only_so_far_ahead():
    started = []

    def gather(key):
        started.append(key)
        return torch.tensor(key)

    for number, _ in enumerate(read_ahead(gather, range(50), CPU)):
        assert max(started) <= number + AHEAD
    assert sorted(started) == list(range(50))


def test_nothing_to_read():
    assert list(read_ahead(torch.tensor, [], CPU)) == []


@pytest.mark.parametrize("on", [False, True])
def test_a_file_that_vanished_is_the_same_error(on, tmp_path, from_file, ahead):
    ahead(on)
    train = stored("compressed", tmp_path)
    matrix = training_features(train, CPU)
    train.features.source._opened = None  # as in a new process
    (tmp_path / "train.h5").unlink()
    with pytest.raises(DataError, match=r"train\.h5: 'features' cannot be read, the file is not there any more"):
        list(matrix.blocks(6))
    with pytest.raises(DataError, match=r"train\.h5: 'features' cannot be read, the file is not there any more"):
        list(matrix.batches(np.arange(4), [2, 2]))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("where", ["caller", "thread"])
def test_an_interrupt_leaves_no_thread(where, error, tmp_path, from_file, ahead, monkeypatch):
    ahead(True)
    matrix = training_features(stored("memory map", tmp_path), CPU)
    gather, caller = matrix._gather, threading.get_ident()

    def interrupted(key):
        if isinstance(key, slice) and key.start > 100:
            assert threading.get_ident() != caller
            raise error
        return gather(key)

    def use():
        for part, _ in matrix.blocks(6):
            if where == "caller" and part.start:
                raise error

    if where == "thread":
        monkeypatch.setattr(matrix, "_gather", interrupted)
    with pytest.raises(error):
        use()


def test_leaving_early_leaves_no_thread():
    for x in read_ahead(torch.tensor, range(100), CPU):
        if x == 3:
            break
    iterator = read_ahead(torch.tensor, range(100), CPU)
    next(iterator)
    del iterator


def test_copies_wait_for_the_work_and_the_work_for_the_copies(monkeypatch):
    """The order on a GPU, whose streams and events only write down here what they were asked for."""
    log, lock = [], threading.Lock()

    def note(*entry):
        with lock:
            log.append(entry)
            return len(log) - 1

    class Event:
        def record(self, stream):
            self.stream, self.at = stream, note("record", self)

        def synchronize(self):
            note("synchronize", self, threading.get_ident())

    class Stream:
        def __init__(self, device=None):
            self.waited = []

        def wait_event(self, event):
            self.waited.append(event)

    work = Stream()

    class Device:
        current_stream = staticmethod(lambda device: work)
        stream = staticmethod(nullcontext)

    def gather(key):
        note("gather", key, threading.get_ident())
        return torch.tensor(key)

    Device.Stream, Device.Event = Stream, Event
    monkeypatch.setattr(torch, "get_device_module", lambda device: Device)
    for x in read_ahead(gather, range(9), CPU):
        assert len(work.waited) == x + 1  # the work that the device now gets comes behind the copy
        assert work.waited[-1].stream is not work
        gathered = [place for place, entry in enumerate(log) if entry[:2] == ("gather", int(x))]
        assert [work.waited[-1].at > place for place in gathered] == [True]
        note("work", int(x))
    for place, (what, *about) in enumerate(log):
        if what == "gather":  # not before the device has used what has just been used
            key, thread = about
            used = [e[1] for e in log[:place] if e[0] == "synchronize" and e[2] == thread][-1]
            assert used.stream is work
            assert [e[1] for e in log[: used.at] if e[0] == "work"] == list(range(max(0, key - AHEAD)))


class Syncs(TorchDispatchMode):
    """Counts what makes the host wait for a device: reading a number, copying to the host, shapes that are data."""

    waits = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.__name__.split(".")[0].removesuffix("_dim") in self.waits
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fit", [crt_sgd, lws_sgd])
def test_no_step_of_an_epoch_waits_for_the_device(fit):
    train = long_tail(most=120)
    counts = []
    for batch_size in (4, 32, 128):
        with Syncs() as syncs:
            fit(train, batch_size=batch_size, epochs=3)
        counts.append(syncs.count)
    assert counts[0] == counts[1] == counts[2]
    assert counts[0] >= 3  # the loss of every epoch: the counter counts
