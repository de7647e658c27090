import h5py
import numpy as np
import pytest
from conftest import COUNTS, make_split

from ltpost import DataError, Experiment, FeatureSet, UsageError, load, load_head, methods
from ltpost.data.layers import Layer
from ltpost.data.rows import Rows
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.data.view_means import mean_of_views
from ltpost.scores.predict import predict

WIDTHS = {"early": 12, "late": 6}


def with_layers(split, dtype=np.float16, below=0.0, **changes):
    """A split with two layers, which are noisy projections of the class centres; ``below`` is taken from ``late``."""
    rows = make_split(split, **changes)
    shape, noise = np.random.default_rng(8), np.random.default_rng(len(rows))
    layers = {}
    for name, width in WIDTHS.items():
        centres = np.abs(shape.normal(size=(len(COUNTS), width))) * 2
        values = np.maximum(centres[rows.labels] + 0.7 * noise.normal(size=(len(rows), width)), 0)
        values -= below * (name == "late")
        layers[name] = Layer(Rows(values.astype(dtype)), {"module": name, "pooling": "average 1x1"})
    logits = rows.logits if rows.has_logits else None
    known = {"head": rows.head, "class_counts": rows.class_counts, "split": split}
    return FeatureSet(rows.features, rows.labels, logits=logits, layers=layers, **known)


@pytest.fixture
def layered(tmp_path):
    for split in ("train", "val", "test"):
        with_layers(split).save(tmp_path / "features" / f"{split}.h5")
    return tmp_path / "features"


# -- the format -------------------------------------------------------------------------------------------------------


def test_layers_are_saved_and_loaded(layered):
    stored, rows = load(layered / "val.h5"), with_layers("val")
    assert list(stored.layers) == ["early", "late"]
    for name, layer in rows.layers.items():
        assert stored.layers[name].dtype == np.float16
        assert stored.layers[name].attrs == {"module": name, "pooling": "average 1x1"}
        np.testing.assert_array_equal(stored.read_layer(name, slice(None)), layer.rows[:])
    assert stored.stored()["layers/early"] == "(300, 12) float16"


def test_subset_and_valid_rows_know_layers():
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    rows = FeatureSet(np.ones((4, 1)), [0, 1, 0, 1], layers={"one": values}, valid=[1, 0, 1, 1])
    np.testing.assert_array_equal(rows.read_layer("one", slice(None)), values[[0, 2, 3]])
    np.testing.assert_array_equal(rows.subset(np.array([2])).read_layer("one", slice(None)), values[[3]])


def test_experts_share_the_layers():
    layers = {"one": np.ones((2, 3), np.float32)}
    rows = FeatureSet(np.ones((2, 4)), [0, 1], attrs={"experts": 2}, layers=layers)
    assert rows.expert(1).layers["one"].shape == (2, 3)


def test_unlabelled_rows_read_layers():
    rows = with_layers("val")
    np.testing.assert_array_equal(UnlabelledRows(rows).read_layer("late", slice(3)), rows.read_layer("late", slice(3)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (np.ones((3, 2)), r"'layers/one' must have 2 rows like 'labels', but has 3"),
        (np.ones(2), r"'layers/one' must have shape \(N, D_l\), but has \(2,\)"),
        (np.ones((2, 2), int), r"'layers/one' must be floating point, but is int64"),
    ],
)
def test_a_layer_that_cannot_be(layer, message):
    with pytest.raises(DataError, match=message):
        FeatureSet(np.ones((2, 1)), [0, 1], layers={"one": layer})


def test_a_layer_that_is_missing_or_not_finite():
    rows = FeatureSet(np.ones((2, 1)), [0, 1], layers={"one": np.array([[1.0], [np.nan]])})
    with pytest.raises(DataError, match="'layers/one' must be finite, but row 1 holds NaN"):
        rows.read_layer("one", slice(None))
    with pytest.raises(DataError, match="must hold 'layers/two', but the layers in it are one"):
        rows.read_layer("two", slice(None))


def test_layers_must_be_a_group_of_datasets(tmp_path):
    for content in ("layers", "layers/one/inner"):
        path = tmp_path / f"{len(content)}.h5"
        with h5py.File(path, "w") as file:
            file["features"], file["labels"] = np.ones((2, 1)), [0, 1]
            file[content] = np.ones((2, 2))
        with pytest.raises(DataError, match="'layers"):
            load(path)


def test_files_of_a_folder_agree_on_the_width(layered):
    rows = with_layers("test")
    rows.layers["early"] = Layer(Rows(np.ones((len(rows), 5), np.float16)))
    rows.save(layered / "test.h5")
    with pytest.raises(DataError, match="disagree on the columns of 'layers/early'"):
        load(layered / "test.h5").adopt(load(layered / "val.h5"))


def test_mean_of_views_is_the_slow_mean():
    random = np.random.default_rng(0)
    sample, labels = np.array([3, 1, 3, 1, 7]), np.array([1, 0, 1, 0, 1])
    features, layer = random.normal(size=(5, 2)).astype(np.float32), random.normal(size=(5, 3)).astype(np.float32)
    mean = mean_of_views(FeatureSet(features, labels, sample=sample, layers={"one": layer}))
    assert mean.labels.tolist() == [0, 1, 1]
    for stored, result in ((features, mean.features), (layer, mean.read_layer("one", slice(None)))):
        slow = [
            [np.mean([stored[i, d] for i in range(5) if sample[i] == s]) for d in range(stored.shape[1])]
            for s in (1, 3, 7)
        ]
        np.testing.assert_allclose(result, slow, rtol=1e-5)
    with pytest.raises(DataError, match="one label"):
        mean_of_views(FeatureSet(features, [0, 1, 1, 0, 1], sample=sample))
    with pytest.raises(DataError, match="'sample'"):
        mean_of_views(FeatureSet(features, labels))


# -- the method -------------------------------------------------------------------------------------------------------


def slow_scores(train, rows, tau, weight, signed=()):
    """The recipe, row by row and class by class; layers in ``signed`` have no square root."""
    counts, total = COUNTS, COUNTS.sum()
    scores = np.zeros((len(rows), len(counts)))
    for i in range(len(rows)):
        z = rows.logits[i].astype(float)
        scores[i] = z - np.log(np.exp(z).sum()) - tau * np.log(counts / total)
    for name, width in WIDTHS.items():
        a, q = (part.read_layer(name, slice(None)).astype(float) for part in (train, rows))
        if name not in signed:
            a, q = np.sqrt(a), np.sqrt(q)
        means = np.array([a[train.labels == c].mean(0) for c in range(len(counts))])
        centre = means.mean(0)
        covariance = np.zeros((width, width))
        for i in range(len(a)):
            away = a[i] - means[train.labels[i]]
            covariance += np.outer(away, away) / len(a)
        covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / width * np.eye(width)
        inverse = np.linalg.inv(covariance)
        shrunk = [
            centre + max(0.1, 1 + 0.1 * (np.log(n) - np.log(counts.max()))) * (m - centre)
            for n, m in zip(counts, means, strict=True)
        ]
        for i in range(len(rows)):
            own = np.array([q[i] @ inverse @ m - 0.5 * m @ inverse @ m for m in shrunk])
            scores[i] += weight / len(WIDTHS) * (own - np.log(np.exp(own - own.max()).sum()) - own.max())
    return scores


@pytest.fixture
def family():
    train, test = with_layers("train"), with_layers("test")
    return methods.get("layers")(train, test.joint, COUNTS, ("early", "late"), weight=0.7)


def test_equals_the_slow_recipe(family):
    rows = with_layers("test").subset(np.arange(0, 300, 11))
    read = family.head(1.2).reader(rows)
    np.testing.assert_allclose(read(slice(None)), slow_scores(with_layers("train"), rows, 1.2, 0.7), atol=2e-3)


def test_a_layer_with_negative_values_is_taken_as_it_is():
    train, test = (with_layers(split, below=2.0) for split in ("train", "test"))
    rows = test.subset(np.arange(0, 300, 11))
    head = methods.get("layers")(train, test.joint, COUNTS, ("early", "late"), weight=0.7).head(1.2)
    np.testing.assert_allclose(
        head.reader(rows)(slice(None)), slow_scores(train, rows, 1.2, 0.7, signed=["late"]), atol=2e-3
    )


def test_the_curve_is_that_of_the_heads(family):
    val = with_layers("val")
    curve = family.curve(val)
    for tau in np.linspace(0, 2, 21):
        np.testing.assert_array_equal(curve.correct(tau), predict(family.head(tau), val) == val.labels)


def test_little_weight_is_logit_adjustment():
    train, test = with_layers("train"), with_layers("test")
    one = methods.get("layers")(train, test.joint, COUNTS, ("early",), weight=1e-9).head(1.0)
    other = methods.get("la")(test.joint, COUNTS).head(1.0)
    np.testing.assert_array_equal(predict(one, test), predict(other, test))


@pytest.mark.parametrize("logits", [True, False])
def test_a_saved_head_gives_equal_scores(family, tmp_path, logits):
    test = with_layers("test", logits=logits)
    head = family.head(0.8)
    loaded = load_head(head.save(tmp_path / "head.safetensors"))
    np.testing.assert_allclose(loaded.reader(test)(slice(None)), head.reader(test)(slice(None)), atol=1e-4)
    assert loaded.linear() is None


def test_runs_in_an_experiment(layered):
    outcome = Experiment(layered, progress=False).run("layers", only="late")
    assert outcome.params["layers"] == ["late"]
    assert outcome.results[1].figures.all > outcome.results[0].figures.all


def test_what_is_missing(layered, folder):
    with pytest.raises(DataError, match=r"needs 'layers/<name>' \(N, D_l\)"):
        Experiment(folder, progress=False).run("layers")
    make_split("val").save(layered / "val.h5")
    with pytest.raises(DataError, match="no layer is in all of them"):
        Experiment(layered, progress=False).run("layers")


def test_options_that_cannot_be():
    train = with_layers("train")
    make = methods.get("layers")
    for options in ({"weight": 0.0}, {"shrinkage": 2.0}, {"only": "first"}):
        with pytest.raises(UsageError, match=f"{next(iter(options))}="):
            make(train, train.joint, COUNTS, ("early", "late"), **options)
