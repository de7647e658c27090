"""Diagnostics against slow transliterations of their definitions, row by row and class by class."""

import json
from itertools import permutations

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import COUNTS, make_split

from ltpost import DataError, FeatureSet, LinearHead, RescaledHead, UsageError
from ltpost.cli import cli
from ltpost.data.priors import GROUPS, log_prior, shot_groups
from ltpost.diagnostics import DIAGNOSTICS, Subject, diagnose
from ltpost.diagnostics.importance import gradients
from ltpost.diagnostics.subject import softmax

GROUPS_OF = shot_groups(COUNTS)


@pytest.fixture(scope="module", params=["all classes", "a class absent"])
def subject(request):
    """A few rows in three blocks; other weights than the joint ones."""
    split = make_split("val", 9, seed=3)
    if request.param == "a class absent":
        split = split.subset(np.flatnonzero(split.labels != 4))
    split.block_rows = lambda: 32
    random = np.random.default_rng(1)
    head = LinearHead(split.head.weight + 0.2 * random.normal(size=(10, 16)), random.normal(size=10) / 5)
    return Subject(split, head)


def arrays(subject):
    x, y = np.asarray(subject.rows.features, float), subject.labels
    return x, y, subject.head.logits(x.astype(np.float32)).astype(float), sorted(set(y.tolist()))


def group_of(c):
    return "many" if COUNTS[c] > 100 else "few" if COUNTS[c] < 20 else "medium"


def test_norms(subject):
    found = DIAGNOSTICS["norms"](subject)
    x, y, z, classes = arrays(subject)
    for c in classes:
        assert found.per_class["weight_norm"][c] == pytest.approx(np.sqrt((subject.head.weight[c] ** 2).sum()))
        assert found.per_class["feature_norm"][c] == pytest.approx(np.mean([np.sqrt(r @ r) for r in x[y == c]]))
        assert found.per_class["accuracy"][c] == pytest.approx(np.mean(z[y == c].argmax(1) == c))
    slope = np.polyfit(np.log(COUNTS), np.log(subject.head.norms()), 1)[0]
    assert found.values["weight_norm"]["slope"] == pytest.approx(slope)
    r = np.corrcoef(np.log(COUNTS), np.log(subject.head.norms()))[0, 1]
    assert found.values["weight_norm"]["r2"] == pytest.approx(r**2)


def test_margins_and_confusion(subject):
    _, y, z, classes = arrays(subject)
    margin = [z[i, y[i]] - max(z[i, c] for c in range(10) if c != y[i]) for i in range(len(y))]
    np.testing.assert_allclose(subject.answers.margin, margin, atol=1e-5)
    found = DIAGNOSTICS["confusion"](subject)
    for true in GROUPS:
        inside = [c for c in classes if group_of(c) == true]
        for taken in GROUPS:
            shares = [np.mean([group_of(p) == taken for p in z[y == c].argmax(1)]) for c in inside]
            assert found.values[true][taken] == pytest.approx(np.mean(shares))
        assert sum(found.values[true][taken] for taken in GROUPS) == pytest.approx(1)


def test_cone(subject):
    x, y, _, classes = arrays(subject)
    unit = [row / np.sqrt(row @ row) for row in x]
    means = {}
    for a in classes:
        for b in classes:
            pairs = [unit[i] @ unit[j] for i in np.flatnonzero(y == a) for j in np.flatnonzero(y == b) if i != j]
            means[a, b] = np.mean(pairs)
    found = DIAGNOSTICS["cone"](subject)
    assert found.values["between"] == pytest.approx(np.mean([means[pair] for pair in permutations(classes, 2)]))
    assert found.values["within"] == pytest.approx(np.mean([means[c, c] for c in classes]))
    for a, row in zip(found.values["groups"], found.values["matrix"], strict=True):
        for b, value in zip(found.values["groups"], row, strict=True):
            pairs = [
                p for p in permutations(classes, 2) if a in (group_of(p[0]), "all") and b in (group_of(p[1]), "all")
            ]
            assert value == pytest.approx(np.mean([means[pair] for pair in pairs]))


def scatters(x, y, classes):
    within = sum(np.outer(r - x[y == c].mean(0), r - x[y == c].mean(0)) for c in classes for r in x[y == c])
    return within, {c: x[y == c].mean(0) for c in classes}


def test_separability(subject):
    x, y, _, classes = arrays(subject)
    within, means = scatters(x, y, classes)
    between = sum((y == c).sum() * np.outer(means[c] - x.mean(0), means[c] - x.mean(0)) for c in classes)
    expected = np.trace(np.linalg.inv(within) @ between)
    assert DIAGNOSTICS["separability"](subject).values["fdr"] == pytest.approx(expected)


def test_separability_leaves_out_constant_features_and_knows_singular_scatter():
    split = make_split("val", 9, logits=False)
    x = np.asarray(split.features)
    more = np.concatenate([x, np.full((len(x), 1), 3, np.float32)], axis=1)
    head = LinearHead(np.pad(split.head.weight, ((0, 0), (0, 1))))
    whole = FeatureSet(more, split.labels, head=head, class_counts=COUNTS)
    found = DIAGNOSTICS["separability"](Subject(whole)).values
    assert found["features_left_out"] == 1
    assert found["fdr"] == pytest.approx(DIAGNOSTICS["separability"](Subject(split)).values["fdr"])
    twice = FeatureSet(np.concatenate([x, x], axis=1), split.labels, class_counts=COUNTS,
                       head=LinearHead(np.tile(split.head.weight, 2)))  # fmt: skip
    assert np.isnan(DIAGNOSTICS["separability"](Subject(twice)).values["fdr"])


def test_collapse(subject):
    x, y, z, classes = arrays(subject)
    within, means = scatters(x, y, classes)
    count, weight = len(classes), subject.head.weight.astype(float)
    mu = sum(means.values()) / count
    between = sum(np.outer(means[c] - mu, means[c] - mu) for c in classes) / count
    found = DIAGNOSTICS["collapse"](subject).values
    nc1 = np.trace(within / len(x) @ np.linalg.pinv(between, rcond=1e-9)) / count
    assert found["nc1"] == pytest.approx(nc1)
    for name, rows in (("means", [means[c] - mu for c in classes]), ("weights", [weight[c] for c in classes])):
        norms = [np.sqrt(r @ r) for r in rows]
        assert found[f"nc2_norms_of_{name}"] == pytest.approx(np.std(norms, ddof=1) / np.mean(norms))
        angles = [abs(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) + 1 / (count - 1)) for a, b in permutations(rows, 2)]
        assert found[f"nc2_angles_of_{name}"] == pytest.approx(np.mean(angles))
    m, w = np.array([means[c] - mu for c in classes]), weight[classes]
    assert found["nc3"] == pytest.approx(((w / np.sqrt((w**2).sum()) - m / np.sqrt((m**2).sum())) ** 2).sum())
    nearest = [min(classes, key=lambda c: ((row - means[c]) ** 2).sum()) for row in x]
    assert found["nc4"] == pytest.approx(np.mean(np.array(nearest) != z.argmax(1)))


def test_a_collapsed_problem_has_zeros_everywhere():
    simplex = np.eye(5) - 0.2
    labels = np.repeat(np.arange(5), 4)
    split = FeatureSet(simplex[labels].astype(np.float32), labels, head=LinearHead(3 * simplex),
                       class_counts=np.array([500, 300, 50, 10, 5]))  # fmt: skip
    assert all(abs(value) < 1e-6 for value in DIAGNOSTICS["collapse"](Subject(split)).values.values())
    assert DIAGNOSTICS["alignment"](Subject(split)).per_class["to_mean"] == pytest.approx(np.ones(5))


def test_alignment(subject):
    x, y, _, classes = arrays(subject)
    mu = np.mean([x[y == c].mean(0) for c in classes], axis=0)
    found = DIAGNOSTICS["alignment"](subject).per_class
    for c in classes:
        w, m = subject.head.weight[c].astype(float), x[y == c].mean(0) - mu
        assert found["to_mean"][c] == pytest.approx(w @ m / np.sqrt(w @ w) / np.sqrt(m @ m))
        cosines = [w @ row / np.sqrt(w @ w) / np.sqrt(row @ row) for row in x[y == c]]
        assert found["to_rows"][c] == pytest.approx(np.mean(cosines))


def test_the_offset_is_that_of_least_squares(subject):
    _, y, z, _ = arrays(subject)
    joint = np.asarray(subject.rows.logits, float)
    a, b = (m - m.mean(1, keepdims=True) for m in (joint, z))
    design = np.concatenate([a.reshape(-1, 1), np.tile(np.eye(10), (len(y), 1))], axis=1)
    solution = np.linalg.lstsq(design, b.ravel(), rcond=None)[0]
    found = DIAGNOSTICS["effective_prior"](subject)
    assert found.values["scale"] == pytest.approx(solution[0], rel=1e-4)
    np.testing.assert_allclose(found.per_class["offset"], solution[1:], atol=1e-4)
    change = b - solution[0] * a
    left = ((change - solution[1:]) ** 2).sum()
    assert found.values["offset_r2"] == pytest.approx(1 - left / (change**2).sum(), abs=1e-4)
    np.testing.assert_allclose(found.per_class["effective_prior"], softmax(z).mean(0), atol=1e-6)


def test_a_logit_adjustment_is_found_exactly():
    split = make_split("val", 12)
    head = RescaledHead(split.head, scale=np.full(10, 2.0), offset=-2 * 1.3 * log_prior(COUNTS))
    found = DIAGNOSTICS["effective_prior"](Subject(split, head)).values
    assert found["tau"] == pytest.approx(1.3, abs=1e-5)
    assert found["scale"] == pytest.approx(2, abs=1e-5)
    assert found["offset_r2"] == pytest.approx(1, abs=1e-6)
    assert "tau" not in DIAGNOSTICS["effective_prior"](Subject(split)).values


def test_importance_equals_the_derivative_by_differences(subject):
    x, y, _, classes = arrays(subject)
    weight, bias = subject.head.weight.astype(float), subject.head.bias.astype(float)

    def loss(group, w):
        z = x @ w.T + bias
        nll = np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]
        return np.mean([nll[y == c].mean() for c in classes if group_of(c) == group])

    for group, gradient in gradients(subject).items():
        for c, d in ((0, 0), (4, 7), (9, 15)):
            step = np.zeros_like(weight)
            step[c, d] = 1e-5
            expected = (loss(group, weight + step) - loss(group, weight - step)) / 2e-5
            assert gradient[c, d] == pytest.approx(expected, abs=1e-6)
    found = DIAGNOSTICS["importance"](subject).values
    importance = (weight * gradients(subject)["few"]) ** 2
    assert found["few"]["total"] == pytest.approx(importance.sum())
    many = [c for c in classes if group_of(c) == "many"]
    assert found["few"]["many"] == pytest.approx(importance[many].sum() / importance.sum())
    top = np.sort(importance.ravel())[::-1][: round(0.1 * importance.size)]
    assert found["few"]["top10"] == pytest.approx(top.sum() / importance.sum())


def test_gains(subject):
    _, y, z, classes = arrays(subject)
    before = np.asarray(subject.rows.logits).argmax(1) == y
    found = DIAGNOSTICS["gains"](subject)
    gain = {c: np.mean((z.argmax(1) == y)[y == c]) - np.mean(before[y == c]) for c in classes}
    for c in classes:
        assert found.per_class["gain"][c] == pytest.approx(gain[c])
    assert found.values["all"]["gained"] == sum(value > 1e-12 for value in gain.values())
    assert found.values["all"]["difference"] == pytest.approx(np.mean(list(gain.values())))
    assert all(gain[c] > 0 for c in found.values["most_gained"])
    with pytest.raises(DataError, match="name a head"):
        DIAGNOSTICS["gains"](Subject(subject.rows))


def test_rows_without_features_leave_out_what_needs_them():
    split = make_split("val", 5)
    rows = FeatureSet(labels=split.labels, logits=split.logits, class_counts=COUNTS)
    found = diagnose(rows)
    assert set(found.findings) == {"margins", "confusion", "effective_prior"}
    assert "no linear layer" in found.left_out["norms"]
    assert "holds no 'features'" in found.left_out["cone"]
    assert "left out" in str(found)


def test_messages():
    split = make_split("val", 5)
    with pytest.raises(UsageError, match="only= must name diagnostics out of norms, .* but names 'norm'"):
        diagnose(split, only=["norm"])
    with pytest.raises(DataError, match="has no 'class_counts'"):
        diagnose(FeatureSet(split.features, split.labels, head=split.head))
    with pytest.raises(DataError, match="has C = 10 classes, but the head has 3"):
        diagnose(split, LinearHead(np.ones((3, 16))))
    with pytest.raises(DataError, match="nothing to diagnose"):
        diagnose(split.subset(np.array([], int)))


def test_two_classes_and_one_row_each():
    split = FeatureSet(
        np.eye(2, dtype=np.float32), np.arange(2), head=LinearHead(np.eye(2)), class_counts=np.array([200, 5])
    )
    found = diagnose(split)
    json.dumps(found.as_dict(), allow_nan=False)
    assert " nan" not in str(found)


def test_the_command(at_home):
    run = CliRunner().invoke
    assert run(cli, ["la"]).exit_code == 0
    text = run(cli, ["diagnose", "--head", "heads/la.safetensors"], catch_exceptions=False).output
    assert all(f"\n{key}: " in text for key in DIAGNOSTICS)
    assert text.startswith("heads/la.safetensors on test, 300 rows")
    found = json.loads(run(cli, ["diagnose", "--only", "norms, gains", "--split", "val", "--json"]).output)
    assert len(found["norms"]["per_class"]["weight_norm"]) == 10
    assert "name a head" in found["left_out"]["gains"]
    failed = run(cli, ["diagnose", "--only", "norm"])
    assert failed.exit_code == 2
    assert "--only must name diagnostics" in failed.output


def test_pictures(at_home):
    pytest.importorskip("matplotlib")
    assert CliRunner().invoke(cli, ["la"]).exit_code == 0
    args = ["diagnose", "--head", "heads/la.safetensors", "--pictures", "pictures"]
    assert CliRunner().invoke(cli, args, catch_exceptions=False).exit_code == 0
    assert {path.stem for path in (at_home / "pictures").iterdir()} == set(DIAGNOSTICS)
    ax = DIAGNOSTICS["norms"](Subject(make_split("val", 5))).plot()
    assert ax.get_title(loc="left") == "norms"
    assert len(ax.lines[0].get_xdata()) == 10
