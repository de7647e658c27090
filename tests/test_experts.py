"""Several experts as one feature set: in one file, or in a folder each, and the views of their rows."""

import numpy as np
import pytest
from conftest import COUNTS, make_split
from ensembles import ensemble, expert_sets, save_folder, save_folders, views_of

from ltpost import DataError, Experiment, FeatureFolder, FeatureSet, UsageError, load
from ltpost.data.experts import side_by_side
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.heads import JoinedHead
from ltpost.scores.predict import predict


def mean_logits(sets):
    return np.mean([one.head.logits(one.features) for one in sets], axis=0)


@pytest.fixture
def folder(tmp_path):
    return save_folder(tmp_path / "features")


@pytest.mark.parametrize("widths", [(16, 16, 16), (16, 8)])
@pytest.mark.parametrize("logits", [True, False])
def test_the_joint_classifier_is_the_mean_of_the_experts(widths, logits, tmp_path):
    sets = expert_sets("val", widths=widths, logits=logits)
    saved = side_by_side(sets).save(tmp_path / "val.h5")
    for whole in (side_by_side(sets), load(saved)):
        assert (whole.num_experts, whole.num_features) == (len(widths), sum(widths))
        np.testing.assert_allclose(whole.logits, mean_logits(sets), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(whole.head.logits(whole.features[:]), mean_logits(sets), rtol=1e-4, atol=1e-4)
        for e, expected in enumerate(sets):
            expert = whole.expert(e)
            np.testing.assert_array_equal(expert.features[:], expected.features)
            np.testing.assert_allclose(expert.head.weight, expected.head.weight, rtol=1e-6)
            np.testing.assert_allclose(expert.head.bias, expected.head.bias, rtol=1e-6)
            part = whole.subset(np.array([5, 3])).expert(e)
            np.testing.assert_array_equal(part.features[:], expected.features[[5, 3]])
            np.testing.assert_allclose(
                whole.experts[e].reader(whole)(slice(2, 9)), expected.head.logits(expected.features[2:9]), rtol=1e-4,
                atol=1e-4,
            )  # fmt: skip


def test_experts_of_which_only_logits_are_known():
    sets = [
        FeatureSet(None, one.labels, logits=one.head.logits(one.features), class_counts=COUNTS)
        for one in expert_sets("val")
    ]
    whole = side_by_side(sets)
    assert whole.num_features is None
    assert whole.num_experts == 3
    np.testing.assert_allclose(whole.logits[:], np.mean([one.logits for one in sets], axis=0), rtol=1e-5)
    np.testing.assert_allclose(whole.experts[2].reader(whole)(np.array([4, 1])), sets[2].logits[[4, 1]])


def test_a_mixture_of_features_and_logits_is_refused():
    sets = expert_sets("val")
    sets[1] = FeatureSet(None, sets[1].labels, logits=sets[1].head.logits(sets[1].features), name="other")
    with pytest.raises(DataError, match="must all hold 'features', or all hold 'logits'"):
        side_by_side(sets)


def test_several_folders_are_the_same_as_one_file(tmp_path):
    joined, apart = FeatureFolder(save_folder(tmp_path / "one")), FeatureFolder(save_folders(tmp_path))
    assert apart.splits() == ["test", "train", "val"] == joined.splits()
    for split in joined.splits():
        np.testing.assert_array_equal(apart[split].features[:], joined[split].features)
        assert apart[split].head.same_as(joined[split].head)
        np.testing.assert_array_equal(apart[split].class_counts, COUNTS)
    np.testing.assert_array_equal(apart["test"].view_rows.features[:], joined["test"].view_rows.features)
    one, other = Experiment(joined).run("la"), Experiment(apart).run("la")
    assert one.results[1].figures == other.results[1].figures
    assert "ckpt" not in other.signature


def test_each_network_of_several_folders_can_be_used_alone(tmp_path):
    names = save_folders(tmp_path, widths=(16, 8))
    alone = Experiment(tmp_path / "network1").run("la")
    number = Experiment(names, expert=1).run("la")
    assert number.results[1].figures == alone.results[1].figures
    assert "expert:1" in number.signature


@pytest.mark.parametrize("method", ["tnorm", "la", "ncm", "crt", "lws"])
def test_every_method_runs_on_the_mean_and_on_one_expert(folder, method):
    mean = Experiment(folder).run(method)
    one = Experiment(folder, expert=1).run(method)
    assert mean.head.linear().shape == (10, 48)
    assert one.head.linear().shape == (10, 16)
    assert "expert:1" in one.signature
    assert "expert:" not in mean.signature


def test_round_trip(folder, tmp_path):
    whole = load(folder / "val.h5")
    again = load(whole.save(tmp_path / "again.h5"))
    np.testing.assert_array_equal(again.expert(2).head.bias, whole.expert(2).head.bias)
    assert isinstance(again.head, JoinedHead)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.subset(np.arange(10)), "have 120 and 10 readable rows"),
        (lambda one: one.subset(np.arange(120)[::-1]), "the label of row 0 is 0 and 9"),
        (lambda one: _changed(one, paths=["b"] * 120), "row 0 is a and b"),
        (lambda one: _changed(one, class_counts=COUNTS[::-1]), "'class_counts' differs"),
        (lambda one: _changed(one, sample=np.arange(120)[::-1]), "'sample' differs"),
    ],
)
def test_other_rows_are_refused(change, message):
    sets = [_changed(one, paths=["a"] * 120) for one in expert_sets("val")]
    with pytest.raises(DataError, match=rf"must hold the same rows in the same order .*{message}"):
        side_by_side([sets[0], change(sets[1])])


def _changed(one, **changes):
    known = {"head": one.head, "class_counts": COUNTS, "paths": one.paths, **changes}
    return FeatureSet(one.features, one.labels, **known)


def test_folders_with_different_rows(tmp_path):
    names = save_folders(tmp_path)
    other = expert_sets("test")[1]
    other.subset(np.arange(7)).save(tmp_path / "network1" / "test.h5")
    with pytest.raises(DataError, match=r"network0/test.h5 and .*network1/test.h5 must hold the same rows"):
        Experiment(names)
    with pytest.raises(DataError, match="missing: no such folder"):
        FeatureFolder(f"{tmp_path / 'network0'},{tmp_path / 'missing'}")
    with pytest.raises(UsageError, match="must name folders, not patterns"):
        FeatureFolder("a,b/train-*.h5")


def test_folders_without_a_common_split(tmp_path):
    make_split("val").save(tmp_path / "a" / "val.h5")
    make_split("test").save(tmp_path / "b" / "test.h5")
    with pytest.raises(DataError, match="must have a split in common, but .*a has val; .*b has test"):
        FeatureFolder(f"{tmp_path / 'a'},{tmp_path / 'b'}")


def test_errors(folder):
    with pytest.raises(DataError, match="holds experts 0 to 2, but not 3"):
        load(folder / "val.h5").expert(3)
    with pytest.raises(DataError, match="holds one expert only"):
        _ = make_split("val").experts
    with pytest.raises(DataError, match="equally many columns for each of 5 experts, but has 16"):
        make_split("val", attrs={"experts": 5})
    with pytest.raises(DataError, match=r"'expert_widths' must share out D = 16 columns, but is \[4, 8\]"):
        make_split("val", attrs={"expert_widths": "[4, 8]"})
    with pytest.raises(DataError, match="'expert_widths' must be a JSON list of integers, .* but is '4, 12'"):
        make_split("val", attrs={"expert_widths": "4, 12"})
    with pytest.raises(DataError, match=r"must have shape \(E, C\) = \(2, 10\), but has \(3, 10\)"):
        make_split("val", attrs={"experts": 2}, expert_bias=np.zeros((3, 10)))
    with pytest.raises(DataError, match="must be the mean of 'head/expert_bias'"):
        make_split("val", attrs={"experts": 2}, expert_bias=np.full((2, 10), 9.0))


# -- views ------------------------------------------------------------------------------------------------------------


def test_views_beside_a_split(folder):
    found = FeatureFolder(folder)
    assert found.splits() == ["test", "train", "val"]
    test = found["test"]
    rows, index = test.two_views()
    np.testing.assert_array_equal(index, np.arange(240).reshape(120, 2))
    np.testing.assert_array_equal(rows.labels[index[:, 1]], test.labels)
    part = test.subset(np.array([7, 2]))
    np.testing.assert_array_equal(part.two_views()[1], [[14, 15], [4, 5]])
    assert not found["train"].has_views


def test_views_find_their_row_where_others_were_unreadable():
    sets = expert_sets("test")
    valid = np.ones(120, dtype=int)
    valid[3] = 0
    views = views_of(sets)[0]
    rows = FeatureSet(sets[0].features, sets[0].labels, valid=valid, head=sets[0].head)
    kept = FeatureSet(views.features, views.labels, sample=views.sample, view=views.view, valid=np.repeat(valid, 2))
    rows.view_rows = kept
    found, index = rows.two_views()
    np.testing.assert_array_equal(found.sample[index[:, 0]], np.delete(np.arange(120), 3))
    np.testing.assert_array_equal(found.view[index], np.tile([0, 1], (119, 1)))


def test_rows_that_are_views_themselves():
    views = views_of(expert_sets("test"), count=3)[0]
    shuffled = views.subset(np.random.default_rng(0).permutation(len(views)))
    rows, index = shuffled.two_views()
    assert rows is shuffled
    np.testing.assert_array_equal(shuffled.sample[index], np.tile(shuffled.sample[:, None], 2))
    np.testing.assert_array_equal(shuffled.view[index], np.tile([0, 1], (len(views), 1)))


def test_unlabelled_rows_have_views_and_experts():
    test = ensemble()
    hidden = UnlabelledRows(test)
    rows, index = hidden.two_views()
    assert isinstance(rows, UnlabelledRows)
    assert index.shape == (120, 2)
    assert not hasattr(hidden.expert(1), "labels")
    key = np.array([3, 1])
    np.testing.assert_array_equal(hidden.expert(1).read_features(key), test.expert(1).features[key])


def test_wrong_views():
    test = make_split("test", 12)
    with pytest.raises(DataError, match="has no views of its rows; write them beside it with ltpost extract"):
        test.two_views()
    views = views_of(expert_sets("test"))[0]
    test.view_rows = views.subset(np.delete(np.arange(240), 9))
    with pytest.raises(DataError, match="must hold two views of every row .* but has 1 of sample 4"):
        test.two_views()
    test.view_rows = _relabelled(views)
    with pytest.raises(DataError, match="'labels' differ"):
        test.two_views()


def test_views_that_are_all_the_same():
    test, views = make_split("test", 12), views_of(expert_sets("test"))[0]
    views.attrs["views"] = '{"count": 2, "augment": "none", "tta": "off", "seed": 0}'
    test.view_rows = views
    with pytest.raises(DataError, match="must hold augmented views, .* extract it with --augment standard"):
        test.two_views()


def _relabelled(views):
    return FeatureSet(views.features, views.labels[::-1].copy(), sample=views.sample, view=views.view)


def test_predictions_of_an_expert(folder):
    whole = load(folder / "test.h5")
    expected = expert_sets("test")[1]
    np.testing.assert_array_equal(predict(whole.experts[1], whole), predict(expected.head, expected))


def test_more_experts_than_columns_are_refused():
    rows = np.ones((3, 4), np.float32)
    with pytest.raises(DataError, match=r"equally many columns for each of 1000000000000000 experts, but has 4 in all"):
        FeatureSet(rows, np.zeros(3, int), logits=rows, attrs={"experts": 10**15})
