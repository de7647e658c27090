"""Any model and any batches become a feature file: told or given inputs, resume, wrapped models, what is refused."""

import json
import multiprocessing
import sys
from collections import namedtuple

import h5py
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import ltpost
from ltpost.errors import DataError, UsageError
from ltpost.extract import extract_features
from ltpost.extract.run.merge import merge_shards

N, D, C = 53, 5, 3


@pytest.fixture
def x():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def y():
    return torch.arange(N) % C


def mlp(seed=0):
    """Three linear layers, of which the last one is the classifier; dropout, so that the mode matters."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(D, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, C))


def features_of(model, *inputs):
    with torch.no_grad():
        return model.eval()[:-1](*inputs).numpy()


class TwoInputs(nn.Module):
    """Takes ids and a mask by name, and answers with a dictionary."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.mix = nn.Embedding(10, 6), nn.Linear(6, 6)
        self.score = nn.Linear(6, C)

    def forward(self, ids, mask=None, labels=None):
        assert labels is None
        mask = torch.ones_like(ids) if mask is None else mask
        hidden = torch.tanh(self.mix(self.embedding(ids))) * mask[..., None]
        return {"loss": None, "logits": self.score(hidden.sum(1) / mask.sum(1, keepdim=True))}


@pytest.mark.parametrize(
    "how", ["data set", "loader", "shuffled", "shuffled and short", "list", "generator", "iterable"]
)
def test_rows_of_every_kind_of_loader(x, y, tmp_path, how, capsys):
    class Passing(IterableDataset):
        def __iter__(self):
            return iter(zip(x, y.tolist(), strict=True))

    data, model = TensorDataset(x, y), mlp().train()
    batches = [(x[i : i + 9], y[i : i + 9]) for i in range(0, N, 9)]
    loader = {
        "data set": data,
        "loader": DataLoader(data, batch_size=8),
        "shuffled": DataLoader(data, batch_size=8, shuffle=True),
        "shuffled and short": DataLoader(data, batch_size=8, shuffle=True, drop_last=True),
        "list": batches,
        "generator": iter(batches),
        "iterable": DataLoader(Passing(), batch_size=10),
    }[how]
    found = ltpost.load(extract_features(model, loader, "train", tmp_path))
    np.testing.assert_allclose(found.features, features_of(mlp(), x), atol=1e-6)
    np.testing.assert_array_equal(found.labels, y)
    assert found.class_counts.tolist() == [18, 18, 17]
    assert found.attrs["head_key"] == "5"  # found, since its output is the model's
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.h5"]
    assert ("in the order of its data set" in capsys.readouterr().err) == how.startswith("shuffled")


def test_what_is_stored_is_what_images_on_disk_give(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "val.npz", images=images, labels=np.arange(N) % C)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, C))
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    one = extract_features(model, tmp_path, "val", tmp_path / "a")
    other = extract_features(model, TensorDataset(tensors, torch.arange(N) % C), "val", tmp_path / "b")
    with h5py.File(one) as left, h5py.File(other) as right:
        assert set(left) == set(right)
        for key in ("features", "logits", "labels", "head/weight"):
            np.testing.assert_allclose(left[key][:], right[key][:], atol=1e-6)
        assert set(left.attrs) - set(right.attrs) == {"transform"}


def test_batches_of_many_forms(x, y, tmp_path):
    ids, mask = torch.arange(N * 4).reshape(N, 4) % 10, (torch.arange(N * 4).reshape(N, 4) % 3 > 0).long()
    mask[:, 0] = 1
    two, Pair = TwoInputs(), namedtuple("Pair", ["data", "target"])
    with torch.no_grad():
        expected = two(ids, mask)["logits"].numpy()
    for number, (model, batch, options, logits) in enumerate(
        [
            (two, {"ids": ids, "mask": mask, "labels": y, "text": ["…"] * N}, {}, expected),
            (two, {"ids": ids, "mask": mask, "y": y.tolist()}, {}, expected),
            (two, (ids, mask, y), {}, expected),
            (two, ((ids, mask), y), {}, expected),
            (two, ({"ids": ids, "mask": mask}, y), {}, expected),
            (two, (y, ids, mask), {"labels": 0, "inputs": (1, 2)}, expected),
            (two, {"a": ids, "b": mask, "c": y}, {"labels": "c", "inputs": ["a", "b"]}, expected),
            (two, {"a": ids, "b": mask, "c": y}, {"labels": lambda b: b["c"], "inputs": lambda b: (b["a"], b["b"])},
             expected),
            (two, {"a": ids, "b": mask, "c": y}, {"labels": "c", "inputs": lambda b: {"mask": b["b"], "ids": b["a"]}},
             expected),
            (mlp(), Pair(x, y), {}, None),
            (mlp(), {"x": x, "label": y}, {}, None),
            (mlp(), (x, y[:, None], torch.ones(N)), {}, None),
            (mlp(), (x, ["abc"[label] for label in y]), {"class_names": list("abc")}, None),
        ]
    ):  # fmt: skip
        found = ltpost.load(extract_features(model, [batch], "val", tmp_path / str(number), **options))
        np.testing.assert_array_equal(found.labels, y, err_msg=str(number))
        wanted = features_of(mlp(), x) @ found.head.weight.T + found.head.bias if logits is None else logits
        np.testing.assert_allclose(found.logits, wanted, atol=1e-5, err_msg=str(number))
    assert found.class_names == ["a", "b", "c"]


def test_labels_stand_behind_as_many_inputs_as_the_model_takes(x, y, tmp_path):
    class Tabular(nn.Module):
        def __init__(self):
            super().__init__()
            self.city, self.out = nn.Embedding(7, 4), nn.Linear(D + 4, C)

        def forward(self, numbers, city):
            return self.out(torch.cat([numbers, self.city(city)], dim=1))

    city = torch.arange(N) % 7
    found = ltpost.load(extract_features(Tabular(), TensorDataset(x, city, y), "val", tmp_path))
    np.testing.assert_array_equal(found.labels, y)
    assert found.features.shape == (N, D + 4)


def test_a_language_model_whose_classifier_sees_every_token(y, tmp_path):
    class LastToken(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embedding, self.score = nn.Embedding(50, 6), nn.Linear(6, C, bias=False)

        def forward(self, ids):
            scores = self.score(self.embedding(ids))
            return scores[torch.arange(len(ids)), (ids > 0).sum(1) - 1], None

    model, ids = LastToken(), torch.arange(1, 5 * N + 1).reshape(N, 5) % 49 + 1
    ids[::2, 3:] = 0
    found = ltpost.load(extract_features(model, TensorDataset(ids, y), "val", tmp_path, batch_size=10))
    last = torch.where(torch.arange(N) % 2 == 0, ids[:, 2], ids[:, 4])
    np.testing.assert_array_equal(found.features, model.embedding(last).detach())


class Compiled(nn.Module):
    """What torch.compile returns, without its compiler."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model


@pytest.mark.parametrize("wrap", [nn.DataParallel, Compiled, lambda model: Compiled(nn.DataParallel(model))])
def test_wrapped_models(x, y, tmp_path, wrap):
    path = extract_features(wrap(mlp()), TensorDataset(x, y), "val", tmp_path)
    np.testing.assert_allclose(ltpost.load(path).features, features_of(mlp(), x), atol=1e-6)
    assert ltpost.load(path).attrs["arch"] == "Sequential"


def test_a_model_compiled_in_place_runs_as_it_is_inside(x, y, tmp_path):
    model = mlp()
    model[5]._compiled_call_impl = compiled = model[5].forward  # which calls no hooks, as compiled code may not
    path = extract_features(model, TensorDataset(x, y), "val", tmp_path)
    np.testing.assert_allclose(ltpost.load(path).features, features_of(mlp(), x), atol=1e-6)
    assert model[5]._compiled_call_impl is compiled


class Interrupted(Dataset):
    """Samples, of which one interrupts the run."""

    def __init__(self, x, y, at=None):
        self.x, self.y, self.at, self.read = x, y, at, []

    def __len__(self):
        return N

    def __getitem__(self, row):
        self.read.append(row)
        if row == self.at:
            raise KeyboardInterrupt
        return self.x[row], int(self.y[row])


def test_an_interrupted_run_goes_on(x, y, tmp_path, capsys):
    whole = ltpost.load(extract_features(mlp(), TensorDataset(x, y), "train", tmp_path / "a", batch_size=8))
    data = Interrupted(x, y, at=35)
    with pytest.raises(KeyboardInterrupt):
        extract_features(mlp(), DataLoader(data, batch_size=8), "train", tmp_path / "b")
    assert f"interrupted; 32 of {N} rows are kept" in capsys.readouterr().err
    again = Interrupted(x, y)
    path = extract_features(mlp(), DataLoader(again, batch_size=8), "train", tmp_path / "b")
    assert sorted(set(again.read)) == [*range(8), *range(24, N)]  # two finished batches are compared
    found = ltpost.load(path)
    np.testing.assert_array_equal(found.features, whole.features)
    np.testing.assert_array_equal(found.labels, whole.labels)
    np.testing.assert_array_equal(found.class_counts, whole.class_counts)


def test_other_samples_are_not_mixed_with_those_of_an_interrupted_run(x, y, tmp_path):
    def extract(x, y, at=None, **options):
        return extract_features(mlp(), DataLoader(Interrupted(x, y, at), batch_size=8), "train", tmp_path, **options)

    with pytest.raises(KeyboardInterrupt):
        extract(x, y, at=35)
    with pytest.raises(DataError, match=r"another extraction \(dataset differ\)"):
        extract(x + 1, y)
    changed, relabelled = x.clone(), y.clone()
    changed[30], relabelled[30] = 9, (y[30] + 1) % C
    for data in ((changed, y), (x, relabelled)):
        with pytest.raises(DataError, match="sample 24 is not what the unfinished run has stored"):
            extract(*data)
    assert len(ltpost.load(extract(changed, y, restart=True))) == N


def test_several_processes_share_a_data_set(x, y, tmp_path):
    for index in (1, 0):
        extract_features(mlp(), TensorDataset(x, y), "train", tmp_path, batch_size=8, shard=(index, 2))
    found = ltpost.load(merge_shards(tmp_path / "train.h5"))
    np.testing.assert_allclose(found.features, features_of(mlp(), x), atol=1e-6)
    assert (found.labels.tolist(), found.class_counts.tolist()) == (y.tolist(), [18, 18, 17])
    with pytest.raises(UsageError, match="these batches come once, so several processes cannot share them"):
        extract_features(mlp(), [(x, y)], "train", tmp_path, shard="0/2")


class Normed(nn.Module):
    """With batch norm, whose statistics differ from process to process after a step of the training."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.out = nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(8, C)

    def forward(self, x):
        return self.out(self.body(x))


def _trained_apart(rank, x, y, folder):
    """Extract, at the end of a training of two processes, which join by a file and have no variables of torchrun."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'join'}", rank=rank, world_size=2)
    model, data = nn.parallel.DistributedDataParallel(Normed()), TensorDataset(x, y)
    loader = DataLoader(data, batch_size=8, sampler=DistributedSampler(data))
    for inputs, labels in loader:
        nn.functional.cross_entropy(model(inputs), labels).backward()
    if rank == 0:
        torch.save(model.module.state_dict(), folder / "model.pth")
    extract_features(model, loader, "train", folder)
    dist.barrier()
    assert sorted(path.name for path in folder.glob("*.h5")) == ["train.h5"]
    with pytest.raises(UsageError, match=r"shard=\(0, 1\) in the one process"):
        extract_features(model, [(x, y)], "val", folder)
    if rank == 0:
        extract_features(model.module, [(x, y)], "val", folder, shard=(0, 1))
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform != "linux", reason="gloo over fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_model_that_two_processes_train(x, y, tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_trained_apart, args=(rank, x, y, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    model = Normed()
    model.load_state_dict(torch.load(tmp_path / "model.pth"))  # of process 0, as a checkpoint would be
    for split in ("train", "val"):
        found = ltpost.load(tmp_path / f"{split}.h5")
        with torch.no_grad():
            np.testing.assert_allclose(found.features, model.eval().body(x), atol=1e-6)
        np.testing.assert_array_equal(found.labels, y)


def test_precision_and_type(x, y, tmp_path):
    options = {"dtype": "float16", "amp": "bf16", "batch_size": 8}
    found = ltpost.load(extract_features(mlp(), TensorDataset(x, y), "val", tmp_path, **options))
    assert found.features.dtype == np.float16
    np.testing.assert_allclose(found.features, features_of(mlp(), x), atol=0.05)
    np.testing.assert_allclose(found.logits, found.head.logits(found.features[:]), atol=1e-5)


@pytest.mark.parametrize("once", [False, True])
def test_layers_come_with_the_rows(x, y, tmp_path, once):
    data = [(x[:20], y[:20]), (x[20:], y[20:])] if once else TensorDataset(x, y)
    found = ltpost.load(extract_features(mlp(), data, "val", tmp_path, layers="1,3", layers_dtype="float32"))
    with torch.no_grad():
        np.testing.assert_allclose(found.layers["1"].rows[:], mlp().eval()[:2](x), atol=1e-6)
        np.testing.assert_allclose(found.layers["3"].rows[:], mlp().eval()[:4](x), atol=1e-6)


def test_files_go_together(x, y, tmp_path, capsys):
    """Counts come from the training split of the folder, and splits of equal size are not taken for the same data."""
    extract_features(mlp(), TensorDataset(x, y), "train", tmp_path)
    capsys.readouterr()
    for split, shift in (("val", 1), ("test", 2)):
        extract_features(mlp(), TensorDataset(x + shift, y), split, tmp_path)
    assert "no class counts" not in capsys.readouterr().err
    outcome = ltpost.Experiment(tmp_path, progress=False).run("la")
    assert not any("LEAK" in note for note in outcome.notes)
    extract_features(mlp(), TensorDataset(x, y), "test", tmp_path)
    assert any("LEAK" in note for note in ltpost.Experiment(tmp_path).notes)


def test_refusals(x, y, tmp_path):
    data, two = TensorDataset(x, y), TwoInputs()
    scaled = nn.Sequential(nn.Linear(D, C), nn.Softmax(dim=1))
    repeated = WeightedRandomSampler(torch.ones(N), N)
    for model, loader, options, kind, message in (
        (mlp(), [x], {}, UsageError, r"the labels are cannot be told from a batch, which is float32 \(53, 5\)"),
        (two, [(y[:, None], y, y)], {}, UsageError, "2 of its parts after the first are like labels; give labels="),
        (mlp(), [(x, y)], {"labels": 2}, UsageError, r"labels=2 is not in a batch, which is \(float32 \(53, 5\)"),
        (mlp(), [(x, y.float())], {"labels": 1}, DataError, "labels must be whole numbers, but are float32"),
        (mlp(), [(x, list("abc"))], {"labels": 1}, UsageError, "give the names of all classes with class_names="),
        (mlp(), [(x, list("abd"))], {"labels": 1, "class_names": list("abc")}, DataError, "'d' is none of the 3 class"),
        (mlp(), [(x, y)], {"class_names": ["a"]}, DataError, "has 1 names, but the classifier has 3 classes"),
        (mlp(), [(x, y + 1)], {}, DataError, r"labels must be in 0\.\.2, as the classifier has 3 classes"),
        (mlp(), [(x, y[:9])], {}, DataError, r"must be called once with \(n, 8\), but was called with"),
        (mlp(), [(x[:, :2], y)], {}, DataError, r"the model cannot take the inputs float32 \(53, 2\)"),
        (mlp(), [], {}, DataError, "list: gives no batches"),
        (mlp(), TensorDataset(x[:0], y[:0]), {}, DataError, "TensorDataset: holds no samples"),
        (mlp(), 3, {}, UsageError, "data= must be a path, a data set or batches to iterate over, but is a int"),
        (mlp(), data, {"img_size": 32}, UsageError, "img_size= is for data on disk"),
        (mlp(), tmp_path, {"labels": 1}, UsageError, "labels= is for batches of a loader"),
        (mlp(), DataLoader(data, sampler=repeated), {}, UsageError, "draws rows with a WeightedRandomSampler"),
        (mlp(), DataLoader(data, sampler=RandomSampler(data, True)), {}, UsageError, "draws rows with a RandomSampler"),
        (mlp(), data, {"head_key": "7"}, UsageError, "head_key=7: the model has no such nn.Linear"),
        (mlp(), data, {"head_key": "3"}, DataError, "has 8 outputs, but the model gives logits"),
        (scaled, data, {}, DataError, "must reproduce the model's logits"),
        (two, [{"x": x, "z": x, "y": y}], {}, UsageError, "the model takes ids, mask, labels, and none of its keys is"),
        (two, [{"mask": y[:, None], "y": y}], {}, UsageError, "the model also needs ids; give inputs="),
        (nn.Conv1d(1, 1, 1), data, {}, UsageError, r"no nn\.Linear that could be its classifier"),
    ):  # fmt: skip
        with pytest.raises(kind, match=message):
            extract_features(model, loader, "val", tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_not_finite(x, y, tmp_path):
    x[40] = torch.nan
    with pytest.raises(DataError, match="the features must be finite"):
        extract_features(mlp(), TensorDataset(x, y), "val", tmp_path, batch_size=8)
    with pytest.raises(DataError, match="the features must be finite"):
        extract_features(mlp(), [(x[:40], y[:40]), (x[40:], y[40:])], "test", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["val.h5.partial"]


def test_the_name_at_the_top(x, y, tmp_path):
    assert ltpost.extract_features is extract_features
    path = ltpost.extract_features(mlp(), TensorDataset(x, y), "val", tmp_path)
    assert json.loads(ltpost.load(path).attrs["dataset"])["name"] == f"TensorDataset of {N} samples"
