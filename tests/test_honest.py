"""Nothing is chosen or fitted on the rows that are reported: methods that fit to val, or that see the target."""

import numpy as np
import pytest
from conftest import COUNTS, make_split

from ltpost import Experiment, Family, FeatureSet, LinearHead, Method, RescaledHead
from ltpost.data.priors import log_prior
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.heads.blocks import score_blocks
from ltpost.model_selection import Selection, stratified_folds
from ltpost.scores.folds import FOLDS
from ltpost.scores.predict import predict

WORDS = {"title": "a test", "equation": "z", "source": "nobody", "grid": (0.0, 0.5, 1.0)}


def means_of(rows):
    """Class means of the rows, as a classifier that knows these rows better than others."""
    features = np.asarray(rows.features, dtype=float)
    means = np.stack([features[rows.labels == c].mean(0) for c in range(rows.num_classes)])
    return LinearHead(means, -np.square(means).sum(1) / 2)


class FittedToVal:
    """A method that fits to labelled rows; it notes which, by their first feature, which numbers them."""

    def __init__(self, kind):
        self.kind, self.seen = kind, []

    def method(self):
        def fit(val: FeatureSet) -> Family:
            """Fits the class means of val."""
            self.seen.append({round(1000 * float(number)) for number in np.asarray(val.features)[:, 0]})
            return self.family(val)

        return Method("fitted", fit, **WORDS)

    def family(self, rows, target=None):
        head = means_of(rows)
        if self.kind == "single":
            return Family.single(head)
        if self.kind == "affine":
            return Family.affine(head, log_prior(COUNTS))
        slope = log_prior(COUNTS)
        return Family.tabulated(lambda tau: RescaledHead(head, offset=-tau * slope))


@pytest.fixture
def numbered(tmp_path):
    """A folder of val and test whose features say nothing, and whose first one numbers the rows."""
    rng = np.random.default_rng(3)
    for split, start in (("val", 0), ("test", 1000)):
        labels = rng.permutation(np.repeat(np.arange(10), 12))
        features = rng.normal(size=(120, 30)).astype(np.float32)
        features[:, 0] = (start + np.arange(120)) / 1000
        FeatureSet(features, labels, class_counts=COUNTS, split=split).save(tmp_path / f"{split}.h5")
    return tmp_path


@pytest.mark.parametrize("kind", ["single", "affine", "tabulated"])
def test_a_method_that_fits_to_val_is_fitted_anew_without_the_rows_it_is_judged_on(numbered, kind):
    fitted = FittedToVal(kind)
    experiment = Experiment(numbered)
    outcome = experiment.run(fitted.method())
    val = experiment.folder["val"]
    folds = stratified_folds(val.labels, seed=0)
    selection = Selection(groups=experiment.groups, grid=WORDS["grid"])
    expected = np.zeros(120, dtype=bool)
    for fold in range(FOLDS):
        inside, rest = np.flatnonzero(folds == fold), val.subset(np.flatnonzero(folds != fold))
        choice = selection.choose_fitted(rest, fitted.family)
        rows = val.subset(inside)
        expected[inside] = predict(choice.head, rows) == rows.labels
    (row,) = [row for row in outcome.results if row.split == "val"]
    assert row.hits.tolist() == np.bincount(val.labels[expected], minlength=10).tolist()
    assert row.figures.all < 0.4, "by chance; the class means know the rows that they are of"
    assert (predict(means_of(val), val) == val.labels).mean() > 0.5
    assert f"fit {FOLDS}-fold cross-fitted" in row.detail
    assert set(range(120)) in fitted.seen, "the head that is saved fits all of val"
    assert all(max(seen) < 1000 for seen in fitted.seen), "never on test"
    assert outcome.selected_on == "val"
    np.testing.assert_array_equal(outcome.head.weight, means_of(val).weight)


@pytest.mark.parametrize("kind", ["affine", "tabulated"])
def test_its_value_is_chosen_on_rows_that_its_heads_do_not_know(numbered, kind):
    fitted = FittedToVal(kind)
    outcome = Experiment(numbered).run(fitted.method())
    val = Experiment(numbered).folder["val"]
    folds = stratified_folds(val.labels, seed=0)
    for value in WORDS["grid"]:
        right = np.zeros(120, dtype=bool)
        for fold in range(FOLDS):
            inside, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            rows = val.subset(inside)
            right[inside] = predict(fitted.family(val.subset(rest)).head(value), rows) == rows.labels
        np.testing.assert_array_equal(outcome.curve.correct(value), right)
        assert outcome.curve.at([value])[0].top1 == pytest.approx(right.mean())


def test_an_oracle_fits_to_what_it_reports_and_says_so(numbered):
    single = Experiment(numbered, oracle=True).run(FittedToVal("single").method())
    assert [row.detail for row in single.results] == ["fits on val, oracle: fitted on test"]
    chosen = Experiment(numbered, oracle=True).run(FittedToVal("affine").method())
    assert "oracle: chosen on test" in chosen.results[0].detail
    assert single.results[0].figures.all > 0.5


class SeesTarget:
    """A method that sees the rows to classify: their mean logits move the joint ones."""

    def __init__(self):
        self.seen = []

    def method(self, chosen=True):
        def transductive(joint, target: UnlabelledRows) -> Family:
            """Subtracts the mean logits of the target."""
            self.seen.append(target)
            total = sum(scores.sum(0, dtype=np.float64) for _, scores in score_blocks(joint, target))
            slope = total / len(target)
            return Family.affine(joint, slope) if chosen else Family.single(RescaledHead(joint, offset=-slope))

        return Method("transductive", transductive, **WORDS)


@pytest.mark.parametrize("chosen", [True, False])
def test_a_transductive_method_is_made_anew_for_every_split(folder, chosen):
    experiment = Experiment(folder)
    outcome = experiment.run(SeesTarget().method(chosen))
    tau = outcome.best.value if chosen else 1.0
    for row in outcome.results:
        if row.name == "transductive" and "cross-fitted" not in row.detail:
            part = experiment.folder[row.split]
            z = np.asarray(part.logits, dtype=float)
            right = (z - tau * z.mean(0)).argmax(1) == part.labels
            assert row.hits.tolist() == np.bincount(part.labels[right], minlength=10).tolist()
            assert "transductive" in row.detail
    z = np.asarray(experiment.folder["test"].logits, dtype=float)
    np.testing.assert_allclose(outcome.head.offset, -tau * z.mean(0), rtol=1e-5)  # that of the split reported first


def test_the_target_has_no_labels(folder):
    sees = SeesTarget()
    make_split("test", paths=[f"class-{c}/image" for c in make_split("test").labels]).save(folder / "test.h5")
    Experiment(folder).run(sees.method())
    assert len(sees.seen) == 2
    for target in sees.seen:
        assert isinstance(target, UnlabelledRows)
        for name in ("labels", "paths", "_paths", "class_names", "class_counts", "shot_groups", "count_samples"):
            assert not hasattr(target, name), name
        assert not any(isinstance(value, FeatureSet) for value in vars(target).values())
    with pytest.raises(AttributeError):
        _ = sees.seen[0].labels


def test_rows_that_could_not_be_read_are_counted_in_the_results(folder):
    whole = make_split("test")
    valid = np.ones(len(whole), int)
    valid[[4, 100]] = 0
    import h5py

    with h5py.File(folder / "test.h5", "r+") as file:
        file["valid"] = valid
    outcome = Experiment(folder).run("tnorm")
    for row in outcome.results:
        assert row.num_invalid == (2 if row.split == "test" else 0)
        assert row.as_dict()["unreadable_rows"] == row.num_invalid
    assert "2 unreadable rows left out" in str(outcome)
