"""Methods that combine experts: against slow transliterations of their formulas, and against each other."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from conftest import COUNTS, make_split
from ensembles import ensemble, expert_sets, save_folder, save_folders, views_of

import ltpost
from ltpost import DataError, Experiment, FeatureSet, LinearHead, UsageError, load_head
from ltpost.data.experts import side_by_side
from ltpost.data.unlabelled import UnlabelledRows
from ltpost.heads import AggregatedHead, ExpertHead, InstanceWeightedHead
from ltpost.heads.agreement import agreement, best_on_simplex
from ltpost.heads.routed import Gates, RoutedHead
from ltpost.methods.early_exit import gate_targets
from ltpost.methods.sade import cosine_sum
from ltpost.scores.predict import predict

TEST = ensemble("test", noise=0.5)
LOGITS = np.stack([one.head.logits(one.features) for one in expert_sets("test", noise=0.5)], axis=1)  # (N, E, C)


def scores(head, rows=TEST):
    return head.reader(rows)(slice(0, len(rows)))


def softmax(z):
    powers = [math.exp(value - max(z)) for value in z]
    return [power / sum(powers) for power in powers]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def two_views(experts=3, classes=4, rows=5, seed=0):
    random = np.random.default_rng(seed)
    first = random.normal(0, 2, (rows, experts, classes))
    return first, first + random.normal(0, 1.5, first.shape)


# -- closed forms -----------------------------------------------------------------------------------------------------


def test_mean():
    head = ltpost.expert_mean(TEST.experts).head()
    np.testing.assert_allclose(scores(head), LOGITS.mean(axis=1), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(predict(head, TEST), LOGITS.sum(axis=1).argmax(axis=1))  # NCL's sum
    np.testing.assert_array_equal(predict(head, TEST), predict(TEST.joint, TEST))


def test_balpoe():
    taus = (0.0, 0.5, 1.0)
    head = ltpost.balpoe(TEST.experts, COUNTS, taus=taus).head()
    for row in (0, 50, 119):
        for c in range(10):
            log_prior = math.log(COUNTS[c] / COUNTS.sum())
            slow = sum(LOGITS[row, e, c] - (1 - taus[e]) * log_prior for e in range(3)) / 3
            assert scores(head)[row, c] == pytest.approx(slow, abs=1e-4)


def test_balpoe_cancels_with_the_papers_taus():
    family = ltpost.balpoe(TEST.experts, COUNTS)
    assert family.params == {"taus": [0.0, 1.0, 2.0]}
    assert "this is their mean" in family.notes[0]
    np.testing.assert_array_equal(scores(family.head()), scores(ltpost.expert_mean(TEST.experts).head()))


def test_balpoe_of_plain_networks_is_logit_adjustment_of_the_mean():
    plain = ltpost.balpoe(TEST.experts, COUNTS, taus=(0.0, 0.0, 0.0)).head()
    adjusted = ltpost.logit_adjustment(TEST.joint, COUNTS).head(1.0)
    np.testing.assert_allclose(scores(plain), scores(adjusted), atol=1e-3)
    train = ltpost.balpoe(TEST.experts, COUNTS, taus=(0.0, 0.0, 0.0), target_prior="train").head()
    np.testing.assert_array_equal(predict(train, TEST), predict(TEST.joint, TEST))


def test_balpoe_errors():
    with pytest.raises(UsageError, match="taus= must be one number for each of 3 experts, but is 2 numbers"):
        ltpost.balpoe(TEST.experts, COUNTS, taus=(0.0, 1.0))
    with pytest.raises(DataError, match="class 9"):
        ltpost.balpoe(TEST.experts, np.where(np.arange(10) == 9, 0, COUNTS))


@pytest.mark.parametrize("rescale", ["off", "norms"])
def test_ace(rescale):
    head = ltpost.ace(TEST.experts, COUNTS, rescale=rescale).head()
    weights = [expert.head.weight.astype(float) for expert in TEST.experts]
    knows = [[True] * 10, [n <= 100 for n in COUNTS], [n < 20 for n in COUNTS]]

    def square(e, classes):
        return np.mean([sum(w * w for w in weights[e][c]) for c in classes])

    for row in (0, 119):
        for c in range(10):
            terms = []
            for e in (e for e in range(3) if knows[e][c]):
                own = [k for k in range(10) if knows[e][k]]
                factor = square(0, own) / square(e, own) if rescale == "norms" else 1.0
                terms.append(factor * LOGITS[row, e, c])
            assert scores(head)[row, c] == pytest.approx(sum(terms) / len(terms), rel=1e-4, abs=1e-4)


def test_ace_by_weights():
    sets = expert_sets("test")
    sets[1].head.weight[:4] = 0
    sets[1].head.bias[:] = 0
    whole = side_by_side(sets)
    head = ltpost.ace(whole.experts, COUNTS, knows="weights").head()
    logits = np.stack([one.head.logits(one.features) for one in sets], axis=1)
    np.testing.assert_allclose(scores(head, whole)[:, 5], logits[:, :, 5].mean(axis=1), atol=1e-4)
    np.testing.assert_allclose(scores(head, whole)[:, 2], logits[:, [0, 2], 2].mean(axis=1), atol=1e-4)
    mean = ltpost.ace(TEST.experts, COUNTS, knows="weights").head()  # all know all: the plain mean
    np.testing.assert_allclose(scores(mean), LOGITS.mean(axis=1), atol=1e-4)


def test_ace_errors():
    with pytest.raises(UsageError, match="is for 2 or 3 experts, but there are 4"):
        ltpost.ace([*TEST.experts, TEST.experts[0]], COUNTS)
    nothing = [ExpertHead(LinearHead(np.zeros((10, 4))), 0)]
    with pytest.raises(DataError, match="no expert knows"):
        ltpost.ace(nothing, COUNTS, knows="weights")


def test_mixing_two_experts():
    family = ltpost.expert_mixing(TEST.experts, first=2, second=0)
    curve = family.curve(TEST)
    for t in np.linspace(0, 1, 21):
        blend = (1 - t) * LOGITS[:, 2] + t * LOGITS[:, 0]
        np.testing.assert_array_equal(predict(family.head(t), TEST), blend.argmax(axis=1))
        np.testing.assert_array_equal(curve.correct(t), blend.argmax(axis=1) == TEST.labels)
    with pytest.raises(UsageError, match="second= must be an expert, 0 to 2, but is 3"):
        ltpost.expert_mixing(TEST.experts, second=3)
    with pytest.raises(UsageError, match="must be two experts, but both are 1"):
        ltpost.expert_mixing(TEST.experts, first=1)


@pytest.mark.parametrize("bias", ["drop", "scale", "keep"])
def test_tau_norm_of_every_expert(bias):
    family = ltpost.tau_norm(TEST.head, bias=bias)
    assert "own norms, as in RIDE's script" in family.notes[0]
    sets = expert_sets("test", noise=0.5)
    for tau in (0.0, 0.7, 2.0):
        found = scores(family.head(tau))
        for row in (0, 119):
            for c in range(10):
                slow = 0.0
                for one in sets:
                    norm = math.sqrt(sum(float(w) ** 2 for w in one.head.weight[c])) ** tau
                    slow += float(one.features[row] @ one.head.weight[c]) / norm
                    slow += {"drop": 0.0, "scale": one.head.bias[c] / norm, "keep": one.head.bias[c]}[bias]
                assert found[row, c] == pytest.approx(slow / 3, abs=1e-3)
    assert family.curve(TEST, grid=(0.0, 0.5, 1.0)).is_tabulated


def test_joined_tau_norm_is_that_of_one_layer():
    joined = ltpost.tau_norm(TEST.head, norms="joined")
    plain = ltpost.tau_norm(LinearHead(TEST.head.weight, TEST.head.bias))
    np.testing.assert_array_equal(scores(joined.head(0.8)), scores(plain.head(0.8)))
    assert not np.array_equal(scores(joined.head(0.8)), scores(ltpost.tau_norm(TEST.head).head(0.8)))


def test_one_expert_alone_is_joint():
    one = expert_sets("test")[0]
    alone = FeatureSet(one.features, one.labels, head=one.head)
    alone.view_rows = ensemble().view_rows.expert(0)
    experts = [ExpertHead(one.head, 0)]
    alone._experts[0] = alone
    alone.view_rows._experts[0] = alone.view_rows
    rows = UnlabelledRows(alone)
    expected = one.head.logits(one.features)
    for family in (
        ltpost.expert_mean(experts),
        ltpost.balpoe(experts, COUNTS),
        ltpost.sade(experts, rows),
        ltpost.instance_weights(experts, rows),
    ):
        np.testing.assert_allclose(scores(family.head(), alone), expected, atol=1e-5)


# -- agreement of two views -------------------------------------------------------------------------------------------


def test_the_objective_of_sade_and_its_derivative():
    first, second = two_views()
    weights = np.array([0.5, 0.2, 0.3])

    def slow(a):
        total = 0.0
        for i in range(len(first)):
            p, q = (
                softmax([sum(a[e] * view[i, e, c] for e in range(3)) for c in range(4)]) for view in (first, second)
            )
            total += cosine(p, q)
        return total

    value, slope = cosine_sum(weights, first, second)
    assert value == pytest.approx(slow(weights), rel=1e-12)
    for e in range(3):
        step = np.eye(3)[e] * 1e-6
        assert slope[e] == pytest.approx((slow(weights + step) - slow(weights - step)) / 2e-6, rel=1e-5, abs=1e-7)


def simplex(count, parts):
    return [np.array(p) / parts for p in itertools.product(range(parts + 1), repeat=count) if sum(p) == parts]


@pytest.mark.parametrize("space", ["softmax", "logits"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_instance_weights_are_the_best_of_a_fine_grid(space, similarity):
    first, second = two_views(rows=40, seed=3)

    def slow(row, weights):
        y = [[sum(weights[e] * view[row, e, c] for e in range(3)) for c in range(4)] for view in (first, second)]
        y = [softmax(z) for z in y] if space == "softmax" else y
        return cosine(*y) if similarity == "cosine" else sum(a * b for a, b in zip(*y, strict=True))

    of = agreement(first, second, space, similarity)
    found = best_on_simplex(of, 40, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found >= 0).all()
    points = simplex(3, 40)
    table = np.stack([of(np.tile(point, (40, 1))) for point in points])
    np.testing.assert_allclose(table[7], [slow(row, points[7]) for row in range(40)], rtol=1e-10)
    brute = table.max(axis=0)
    gap = (brute - of(found)) / np.maximum(1, np.abs(brute))
    assert np.mean(gap < 1e-5) >= 0.95  # a search may end in a lower maximum, though hardly ever in a much lower one
    assert gap.max() < 1e-3


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_grams_equal_the_direct_form(similarity):
    first, second = two_views(experts=4, classes=30, rows=7, seed=1)
    weights = np.random.default_rng(2).dirichlet(np.ones(4), 7)
    y = [np.einsum("ne,nec->nc", weights, view) for view in (first, second)]
    direct = np.einsum("nc,nc->n", *y)
    if similarity == "cosine":
        direct = direct / np.linalg.norm(y[0], axis=1) / np.linalg.norm(y[1], axis=1)
    np.testing.assert_allclose(agreement(first, second, "logits", similarity)(weights), direct, rtol=1e-10)


def test_two_experts():
    first, second = two_views(experts=2, rows=20, seed=5)
    of = agreement(first, second, "logits", "cosine")
    brute = np.stack([of(np.tile(point, (20, 1))) for point in simplex(2, 1000)]).max(axis=0)
    assert (of(best_on_simplex(of, 20, 2)) > brute - 1e-5).all()


def test_many_experts_reach_a_local_maximum():
    first, second = two_views(experts=6, rows=20, seed=5)
    of = agreement(first, second, "logits", "cosine")
    found = best_on_simplex(of, 20, 6)
    best = of(found)
    for point in (*np.eye(6), np.full(6, 1 / 6)):
        assert (of(np.tile(point, (20, 1))) <= best + 1e-6).all()
    for receiver, giver in itertools.permutations(range(6), 2):
        moved = found.copy()
        amount = np.minimum(1 / 1024, found[:, giver])
        moved[:, receiver] += amount
        moved[:, giver] -= amount
        assert (of(moved) <= best + 1e-5).all()


@pytest.mark.parametrize("space", ["softmax", "logits"])
def test_equal_experts_keep_equal_weights(space):
    first, second = two_views(experts=1)
    first, second = (np.repeat(view, 3, axis=1) for view in (first, second))
    found = best_on_simplex(agreement(first, second, space, "cosine"), 5, 3)
    np.testing.assert_array_equal(found, np.full((5, 3), 1 / 3))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("space", ["softmax", "logits"])
def test_instance_weights_of_rows(space, similarity):
    head = ltpost.instance_weights(TEST.experts, UnlabelledRows(TEST), space=space, similarity=similarity).head()
    views, index = TEST.two_views()
    logits = np.stack([expert.reader(views)(slice(0, len(views))) for expert in TEST.experts], axis=1).astype(float)
    of = agreement(logits[index[:, 0]], logits[index[:, 1]], space, similarity)
    weights = head.weights(TEST)
    np.testing.assert_allclose(weights, best_on_simplex(of, len(TEST), 3), atol=1e-6)
    np.testing.assert_allclose(scores(head), np.einsum("ne,nec->nc", weights, LOGITS), atol=1e-4)
    part = TEST.subset(np.array([100, 3]))
    np.testing.assert_allclose(scores(head, part), scores(head)[[100, 3]], atol=1e-4)  # each row for itself
    with pytest.raises(DataError, match="has no views of its rows"):
        ltpost.instance_weights(TEST.experts, UnlabelledRows(ensemble(views=False)))


def test_shrunk_instance_weights():
    family = ltpost.instance_weights(TEST.experts, UnlabelledRows(TEST), shrink=True)
    full = ltpost.instance_weights(TEST.experts, UnlabelledRows(TEST)).head()
    np.testing.assert_array_equal(scores(family.head(1.0)), scores(full))
    np.testing.assert_array_equal(predict(family.head(0.0), TEST), predict(TEST.joint, TEST))
    curve, weights = family.curve(TEST), full.weights(TEST)
    for t in np.linspace(0, 1, 21):
        slow = np.einsum("ne,nec->nc", (1 - t) / 3 + t * weights, LOGITS)
        np.testing.assert_allclose(scores(family.head(t)), slow, atol=1e-4)
        np.testing.assert_array_equal(curve.correct(t), predict(family.head(t), TEST) == TEST.labels)


def test_sade_follows_the_recipe():
    """The same steps by torch's SGD, from a theta of 1/3 each."""
    options = {"epochs": 2, "learning_rate": 0.5, "weight_decay": 5e-4, "batch_size": 32, "seed": 4}
    family = ltpost.sade(TEST.experts, UnlabelledRows(TEST), **options)
    views, index = TEST.two_views()
    logits = torch.tensor(
        np.stack([expert.reader(views)(slice(0, len(views))) for expert in TEST.experts], axis=1), dtype=torch.float64
    )
    theta = torch.full((3,), 1 / 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], 0.5, momentum=0.9, nesterov=True, weight_decay=5e-4)
    random = np.random.default_rng(4)
    for _ in range(2):
        for rows in np.split(random.permutation(120), range(32, 120, 32)):
            a = torch.softmax(theta, 0)
            p, q = (torch.softmax(torch.einsum("e,nec->nc", a, logits[index[rows, k]]), 1) for k in (0, 1))
            loss = -torch.nn.functional.cosine_similarity(p, q, eps=1e-6).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    np.testing.assert_allclose(family.params["weights"], torch.softmax(theta, 0).detach(), rtol=1e-8)
    assert max(family.params["weights"]) > 0.34  # it moved


def test_the_optimum_of_sade():
    rows = UnlabelledRows(TEST)
    weights = np.array(ltpost.sade(TEST.experts, rows, solver="optimum").params["weights"])
    views, index = TEST.two_views()
    logits = np.stack([expert.reader(views)(slice(0, len(views))) for expert in TEST.experts], axis=1).astype(float)
    first, second = logits[index[:, 0]], logits[index[:, 1]]
    brute = max(cosine_sum(point, first, second)[0] for point in simplex(3, 40))
    assert weights.sum() == pytest.approx(1)
    assert cosine_sum(weights, first, second)[0] > brute - 1e-3


def test_sade_stops_where_a_weight_falls_low():
    family = ltpost.sade(TEST.experts, UnlabelledRows(TEST), learning_rate=50.0, batch_size=20)
    assert min(family.params["weights"]) < 0.05
    assert any("stopped after epoch" in note for note in family.notes)
    with pytest.raises(UsageError, match="epochs= must be positive, but is 0"):
        ltpost.sade(TEST.experts, UnlabelledRows(TEST), epochs=0)


# -- early exit -------------------------------------------------------------------------------------------------------


def test_gate_targets():
    for correct in itertools.product([False, True], repeat=4):
        slow = [not correct[i] and any(correct[i + 1 :]) for i in range(3)]
        assert gate_targets(np.array([correct]))[0].tolist() == slow


def test_routing_follows_the_gates():
    head = ltpost.early_exit(TEST.experts, ensemble("train", views=False), top=4, learning_rate=0.1).head()
    sets, used, found = expert_sets("test", noise=0.5), head.used(TEST), scores(head)
    gates = head.gates
    for row in range(0, 120, 7):
        total, count = LOGITS[row, 0].astype(float), 1
        while count < 3:
            x = sets[count - 1].features[row].astype(float)
            weight, bias = gates.hidden[count - 1]
            hidden = [max(0.0, float(w @ x) / float(np.linalg.norm(x)) + float(b)) for w, b in zip(weight, bias)]  # noqa: B905
            seen = [*hidden, *sorted(total / count, reverse=True)[:4]]
            score = sum(float(v) * s for v, s in zip(gates.weight, seen, strict=True)) + gates.bias
            if 1 / (1 + math.exp(-score)) <= 0.5:
                break
            total, count = total + LOGITS[row, count], count + 1
        assert used[row] == count
        np.testing.assert_allclose(found[row], total / count, atol=1e-4)


def test_gates_learn_where_one_more_expert_helps():
    """Expert 0 is right on classes below 5 only, expert 1 everywhere: gates open on the other classes."""
    train = make_split("train", logits=False)
    labels = train.labels
    first, second = (np.eye(10, dtype=np.float32)[labels] for _ in range(2))
    first[labels >= 5] = np.eye(10, dtype=np.float32)[labels[labels >= 5]] * 0.5
    weak = 4 * np.eye(10) * (np.arange(10) < 5)[:, None] + 0.0
    sets = [
        FeatureSet(x, labels, head=LinearHead(weight), class_counts=COUNTS)
        for x, weight in ((first, weak), (second, 9 * np.eye(10)))
    ]
    whole = side_by_side(sets)
    head = ltpost.early_exit(whole.experts, whole, epochs=40, learning_rate=0.3, positive_weight=1.0).head()
    used = head.used(whole)
    assert used[labels < 5].mean() < 1.05
    assert used[labels >= 5].mean() > 1.95


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, LOGITS.mean(axis=1)), (1.0, LOGITS[:, 0])])
def test_gates_that_are_always_open_or_shut(threshold, expected):
    random = np.random.default_rng(0)
    hidden = tuple((random.normal(size=(16, 16)).astype(np.float32), np.zeros(16, np.float32)) for _ in range(2))
    head = RoutedHead(TEST.experts, Gates(hidden, random.normal(size=16 + 4).astype(np.float32), 0.0), 4, threshold)
    np.testing.assert_allclose(scores(head), expected, atol=1e-4)


def test_early_exit_errors():
    logits_only = side_by_side(
        [FeatureSet(None, one.labels, logits=one.head.logits(one.features)) for one in expert_sets("train")]
    )
    with pytest.raises(DataError, match="holds no 'features', which the gates read"):
        ltpost.early_exit(logits_only.experts, logits_only)
    with pytest.raises(UsageError, match="top= must be at least 1, but is 0"):
        ltpost.early_exit(TEST.experts, ensemble("train", views=False), top=0)
    with pytest.raises(UsageError, match="batch_size= must be positive, but is 0"):
        ltpost.early_exit(TEST.experts, ensemble("train", views=False), batch_size=0)


# -- heads ------------------------------------------------------------------------------------------------------------


def heads(rows):
    hidden = tuple((np.ones((2, rows.expert(e).num_features or 0), np.float32), np.ones(2, np.float32)) for e in (0, 1))
    made = {
        "aggregated": AggregatedHead(rows.experts, np.random.default_rng(0).random((3, 10)), np.arange(10.0)),
        "instance": InstanceWeightedHead(rows.experts, "logits", "cosine", 0.7),
    }
    if rows.num_features is not None:
        made["routed"] = RoutedHead(rows.experts, Gates(hidden, np.ones(6, np.float32), -1.0), 4, 0.4)
    return made


@pytest.mark.parametrize("features", [True, False])
def test_a_saved_head_gives_the_same_logits(features, tmp_path):
    rows = TEST
    if not features:
        rows, views = (
            side_by_side(
                [
                    FeatureSet(
                        None, one.labels, logits=one.head.logits(one.features[:]), sample=one.sample, view=one.view
                    )
                    for one in map(whole.expert, range(3))
                ]
            )
            for whole in (TEST, TEST.view_rows)
        )
        rows.view_rows = views
    for name, head in heads(rows).items():
        head.info["method"] = name
        again = load_head(head.save(tmp_path / f"{name}.safetensors"))
        assert again.info == {"method": name}
        np.testing.assert_allclose(scores(again, rows), scores(head, rows), rtol=1e-6, atol=1e-6)
    expert = load_head(rows.experts[1].save(tmp_path / "expert.safetensors"))
    np.testing.assert_allclose(scores(expert, rows), LOGITS[:, 1], atol=1e-4)


def test_a_sum_of_linear_experts_is_one_layer():
    head = heads(TEST)["aggregated"]
    parts = sum(head.scale[e] * LOGITS[:, e] for e in range(3)) + np.arange(10)
    np.testing.assert_allclose(head.linear().logits(TEST.features[:]), parts, atol=1e-3)
    assert head.state()[0] == {"kind": "linear"}


def test_wrong_scales():
    with pytest.raises(DataError, match=r"scale of the experts must have shape \(E,\) or \(E, C\) = \(3, 10\)"):
        AggregatedHead(TEST.experts, np.ones(4))
    with pytest.raises(DataError, match=r"offset must have shape \(C,\) = \(10,\), but has \(3,\)"):
        AggregatedHead(TEST.experts, np.ones(3), np.ones(3))


# -- in an experiment -------------------------------------------------------------------------------------------------

METHODS = ["mean", "balpoe", "ace", "mix-experts", "early-exit", "sade", "do", "tnorm"]


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("one") / "features", noise=0.5)


@pytest.fixture(scope="module")
def three_folders(tmp_path_factory):
    return save_folders(tmp_path_factory.mktemp("three"), noise=0.5)


@pytest.mark.parametrize("key", METHODS)
def test_one_file_and_three_folders_give_the_same_figures(key, one_folder, three_folders, tmp_path):
    one, three = (Experiment(place).run(key) for place in (one_folder, three_folders))
    assert [result.figures for result in one.results] == [result.figures for result in three.results]
    assert one.params == three.params
    again = load_head(one.save_head(tmp_path / "head.safetensors"))
    test = Experiment(three_folders).report_set
    np.testing.assert_array_equal(predict(again, test), predict(one.head, Experiment(one_folder).report_set))
    json.dumps(one.as_dict(), default=list)


@pytest.mark.parametrize("key", ["sade", "do"])
def test_transductive_rows_say_so(key, one_folder):
    outcome = Experiment(one_folder).run(key)
    for result in outcome.results:
        assert ("transductive" in result.detail) == (result.name == key)
    test = Experiment(one_folder).report_set
    if key == "sade":
        own = ltpost.sade(test.experts, UnlabelledRows(test)).params["weights"]
        assert outcome.params["weights"] == own  # of test, not of val
    else:
        weights = outcome.head.weights(test)
        groups = test.shot_groups()
        for e in range(3):
            means = outcome.as_dict()["per_group"][f"weight of expert {e}"]
            assert means["few"] == pytest.approx(weights[groups.few[test.labels], e].mean())
            assert list(means) == ["many", "medium", "few", "all"]
        assert any("mean per group of test: weight of expert 0" in note for note in outcome.notes)


@pytest.mark.parametrize("key", ["sade", "do"])
def test_rows_that_are_views_themselves(key, tmp_path):
    """Without a plain view, each view is classified with the weights of its image."""
    for split in ("val", "test"):
        side_by_side(views_of(expert_sets(split))).save(tmp_path / f"{split}.h5")
    outcome = Experiment(tmp_path).run(key)
    assert next(result for result in outcome.results if result.name == key).totals.sum() == 240
    if key == "do":
        test = Experiment(tmp_path).report_set
        weights = outcome.head.weights(test)
        np.testing.assert_array_equal(weights[0::2], weights[1::2])
        assert len(np.unique(weights, axis=0)) > 10


def test_experts_used_per_group(one_folder):
    used = Experiment(one_folder).run("early-exit").per_group["experts used"]
    assert all(1 <= value <= 3 for value in used.values())


def test_needs(one_folder, folder):
    with pytest.raises(DataError, match="holds one expert only, and mean of the experts needs several; extract"):
        Experiment(folder).run("mean")
    with pytest.raises(DataError, match="holds one expert only"):
        Experiment(one_folder, expert=0).run("balpoe")


@pytest.mark.parametrize("missing", ["test", "val"])
def test_needs_views(missing, tmp_path):
    place = save_folder(tmp_path / "features")
    (place / f"{missing}-views.h5").unlink()
    for key in ("sade", "do"):
        with pytest.raises(
            DataError,
            match=rf"{missing}.h5: has no augmented views of its rows, which .* needs; write them with ltpost extract "
            rf"--split {missing} --views 2 --out .*",
        ):
            Experiment(place).run(key)


def test_numbers_keep_their_order_on_the_command_line(one_folder, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from ltpost.cli import cli

    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(cli, ["balpoe", "--features", str(one_folder), "--taus", "2,0,0", "--json"])
    assert json.loads(run.stdout)["params"]["taus"] == [2.0, 0.0, 0.0]
    bad = CliRunner().invoke(cli, ["balpoe", "--features", str(one_folder), "--taus", "2,x,0"])
    assert (bad.exit_code, "is not a grid" in bad.output) == (2, True)


def in_memory(sets, views, key):
    """What a method predicts on rows with views, from the sets and the views of every expert."""
    rows, method = side_by_side(sets), ltpost.methods.get(key)
    rows.view_rows = side_by_side(views)
    known = {
        "experts": lambda: rows.experts,
        "head": lambda: rows.head,
        "class_counts": lambda: rows.class_counts,
        "views": lambda: UnlabelledRows(rows),
        "train": lambda: rows,
    }
    family = method(*(known[need]() for need in method.needs))
    return predict(family.head(None if family.parameter is None else 0.5), rows)


def changed(one, *, features=lambda x: x, order=None, rows=None):
    """Other features, classes in another order, or some rows only."""
    order = np.arange(one.num_classes) if order is None else order
    rows = np.arange(len(one)) if rows is None else rows
    return FeatureSet(
        features(one.features)[rows],
        np.argsort(order)[one.labels[rows]],
        head=LinearHead(one.head.weight[order], one.head.bias[order]),
        class_counts=one.class_counts[order],
        sample=None if one.sample is None else one.sample[rows],
        view=None if one.view is None else one.view[rows],
    )


@pytest.mark.parametrize("key", METHODS)
def test_half_precision_and_absent_classes(key):
    sets = expert_sets("test", noise=0.5)
    views = views_of(sets)
    plain = in_memory(sets, views, key)
    half = [[changed(one, features=lambda x: x.astype(np.float16)) for one in part] for part in (sets, views)]
    assert (in_memory(*half, key) == plain).mean() > 0.95
    for one in sets:
        assert one.features.dtype == np.float32
    if key != "early-exit":  # fits to train rows of every class
        kept = np.flatnonzero(sets[0].labels != 4)
        fewer = [changed(one, rows=kept) for one in sets]
        rows = np.flatnonzero(views[0].labels != 4)
        seen = [changed(one, rows=rows) for one in views]
        seen = [
            FeatureSet(one.features, one.labels, head=one.head, sample=np.arange(len(rows)) // 2, view=one.view)
            for one in seen
        ]
        assert (in_memory(fewer, seen, key) == plain[kept]).mean() > 0.9  # sade sees other rows


@pytest.mark.parametrize("key", [key for key in METHODS if key != "early-exit"])  # which draws rows class by class
def test_the_order_of_classes_does_not_matter(key):
    order = np.random.default_rng(1).permutation(10)
    sets = expert_sets("test", noise=0.5)
    views = views_of(sets)
    renamed = [[changed(one, order=order) for one in part] for part in (sets, views)]
    np.testing.assert_array_equal(order[in_memory(*renamed, key)], in_memory(sets, views, key))
