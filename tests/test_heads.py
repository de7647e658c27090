import numpy as np
import pytest

from ltpost import DataError, FeatureSet, LinearHead, RescaledHead, load_head
from ltpost.heads import JointHead, NormalizedMeanHead
from ltpost.scores.predict import predict

RNG = np.random.default_rng(0)
HEAD = LinearHead(RNG.normal(size=(5, 3)), RNG.normal(size=5), info={"method": "x", "tau": 0.5, "names": ["a", "b"]})
X = RNG.normal(size=(7, 3)).astype(np.float32)


def slow_logits(features, weight, bias):
    """z_ic = Σ_d x_id w_cd + b_c."""
    return np.array([[sum(x * w for x, w in zip(row, c, strict=True)) + b for c, b in zip(weight, bias, strict=True)]
                     for row in features.astype(float)])  # fmt: skip


def test_logits_equal_the_slow_formula():
    np.testing.assert_allclose(HEAD.logits(X), slow_logits(X, HEAD.weight, HEAD.bias), rtol=1e-5)
    assert HEAD.logits(X).dtype == np.float32


def test_rescaled():
    scale, offset = RNG.uniform(0.5, 2, 5), RNG.normal(size=5)
    head = RescaledHead(HEAD, scale, offset)
    np.testing.assert_allclose(head.logits(X), HEAD.logits(X) * scale + offset, rtol=1e-4, atol=1e-6)
    assert head.base is HEAD
    assert RescaledHead(HEAD, scale, -scale * HEAD.bias).bias is None


@pytest.mark.parametrize("parts", [("scale",), ("offset",), ("scale", "offset")])
def test_rescaled_twice_is_rescaled_once(parts):
    """On features, and where only logits are known: both steps become one, over the same base."""
    first, second = ({name: RNG.uniform(0.5, 2, 5) for name in parts} for _ in range(2))
    for base in (HEAD, JointHead(5)):
        once = RescaledHead(base, **first)
        twice = RescaledHead(once, **second)
        assert twice.base is base
        z = HEAD.logits(X)
        for step in (first, second):
            z = z * step.get("scale", 1) + step.get("offset", 0)
        rows = FeatureSet(labels=np.zeros(7, int), logits=HEAD.logits(X))
        got = twice.logits(X) if base is HEAD else twice.reader(rows)(slice(None))
        np.testing.assert_allclose(got, z, rtol=1e-4, atol=1e-5)


def test_stored_logits_are_rescaled_instead_of_multiplied_again():
    """Only for the classifier whose logits they are."""
    stored = FeatureSet(X, np.zeros(7, int), head=HEAD, logits=HEAD.logits(X))
    head = RescaledHead(HEAD, np.arange(1.0, 6.0))
    other = RescaledHead(LinearHead(HEAD.weight[::-1], HEAD.bias), np.arange(1.0, 6.0))
    assert (head.is_stored(stored), other.is_stored(stored), HEAD.is_stored(stored)) == (True, False, True)
    stored.read_features = None  # nothing is multiplied
    np.testing.assert_allclose(head.reader(stored)(slice(None)), HEAD.logits(X) * np.arange(1, 6), rtol=1e-5)
    with pytest.raises(TypeError):
        other.reader(stored)(slice(None))


def test_the_joint_head_reads_what_there_is():
    logits = FeatureSet(labels=np.zeros(7, int), logits=HEAD.logits(X))
    features = FeatureSet(X, np.zeros(7, int), head=HEAD)
    for rows in (logits, features):
        np.testing.assert_allclose(JointHead(5).reader(rows)(slice(2, 4)), HEAD.logits(X)[2:4], rtol=1e-5)
    with pytest.raises(DataError, match="needs 'head/weight' .* or 'logits' .* but has neither"):
        JointHead(5).reader(FeatureSet(X, np.zeros(7, int)))
    other = JointHead(5, fingerprint="of another classifier")
    assert not other.is_stored(logits)
    with pytest.raises(DataError, match="has neither"):
        other.reader(features)


def test_norms_are_of_the_rows_and_in_float64():
    head = LinearHead(np.array([[3.0, 4.0], [0.0, 1e-30]]))
    np.testing.assert_allclose(head.norms(), [5.0, 1e-30], rtol=1e-6)


LOGITS_ONLY = RescaledHead(JointHead(5), np.arange(1.0, 6.0), np.arange(5.0), info={"tau": 1.5})
KINDS = {
    "linear": HEAD,
    "linear, no bias": LinearHead(HEAD.weight),
    "rescaled": RescaledHead(HEAD, np.arange(1.0, 6.0), info={"tau": 0.1}),
    "joint": JointHead(5),
    "rescaled logits": LOGITS_ONLY,
    "normalized mean": NormalizedMeanHead(RNG.normal(size=(5, 3)), RNG.normal(size=3), {"metric": "cl2n"}),
}


@pytest.mark.parametrize("head", KINDS.values(), ids=KINDS)
def test_save_and_load(tmp_path, head):
    back = load_head(head.save(tmp_path / "new folder" / "head.safetensors"))
    assert back.info == head.info
    assert back.num_classes == 5
    assert (back.linear() is None) == (head.linear() is None)
    if head.linear() is not None:
        np.testing.assert_array_equal(back.linear().weight, head.linear().weight)
        np.testing.assert_array_equal(back.linear().bias, head.linear().bias)
    for rows in (
        FeatureSet(X, np.zeros(7, int), head=HEAD),
        FeatureSet(X, np.zeros(7, int), head=HEAD, logits=HEAD.logits(X)),
        FeatureSet(labels=np.zeros(7, int), logits=HEAD.logits(X)),
    ):
        if rows.num_features is None and not head.is_stored(rows):
            continue  # a linear layer and a nearest mean need features
        np.testing.assert_allclose(back.reader(rows)(slice(None)), head.reader(rows)(slice(None)), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(predict(back, rows), predict(head, rows))
    again = back.save(tmp_path / "again.safetensors")
    assert again.read_bytes() == (tmp_path / "new folder" / "head.safetensors").read_bytes()
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["head.safetensors"]


def test_rescaled_logits_are_saved_as_scale_and_offset(tmp_path):
    from safetensors.numpy import load_file

    tensors = load_file(LOGITS_ONLY.save(tmp_path / "head.safetensors"))
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"scale": (5,), "offset": (5,)}


def test_a_rescaled_classifier_is_saved_as_a_linear_layer_for_other_programs(tmp_path):
    from safetensors.numpy import load_file

    head = KINDS["rescaled"]
    tensors = load_file(head.save(tmp_path / "head.safetensors"))
    np.testing.assert_array_equal(tensors["weight"], head.weight)
    np.testing.assert_array_equal(tensors["bias"], head.bias)
    assert "scale" in tensors


def test_a_saved_classifier_is_not_rescaled_by_the_logits_of_another_one(tmp_path):
    """Read back, a rescaled classifier takes stored logits only where they are of the classifier that it rescales."""
    back = load_head(KINDS["rescaled"].save(tmp_path / "head.safetensors"))
    stranger = LinearHead(HEAD.weight[::-1], HEAD.bias)
    own = FeatureSet(X, np.zeros(7, int), head=HEAD, logits=HEAD.logits(X))
    other = FeatureSet(X, np.zeros(7, int), head=stranger, logits=stranger.logits(X))
    assert (back.is_stored(own), back.is_stored(other)) == (True, False)
    np.testing.assert_allclose(back.reader(other)(slice(None)), KINDS["rescaled"].logits(X), rtol=1e-5)


def test_a_safetensors_file_of_others_loads(tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.ones((2, 3), np.float32)}, tmp_path / "other.safetensors")
    assert load_head(tmp_path / "other.safetensors").shape == (2, 3)


def test_same_as():
    assert HEAD.same_as(LinearHead(HEAD.weight, HEAD.bias))
    assert not HEAD.same_as(LinearHead(HEAD.weight))
    assert not HEAD.same_as(LinearHead(HEAD.weight, HEAD.bias + 1))
    assert not HEAD.same_as(LinearHead(HEAD.weight[:4]))


def test_errors(tmp_path):
    with pytest.raises(DataError, match=r"weight must have shape \(C, D\), but has \(3,\)"):
        LinearHead(np.ones(3))
    with pytest.raises(DataError, match=r"bias must have shape \(2,\)"):
        LinearHead(np.ones((2, 3)), np.ones(3))
    for name in ("scale", "offset"):
        with pytest.raises(DataError, match=rf"the {name} of a rescaled head must have shape .*\(5,\) .* has \(4,\)"):
            RescaledHead(HEAD, **{name: np.ones(4)})
    with pytest.raises(DataError, match=r"features must have shape \(N, 3\) for this head, but have \(7, 2\)"):
        HEAD.logits(X[:, :2])
    with pytest.raises(DataError, match="no such head file"):
        load_head(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("weights")
    with pytest.raises(DataError, match="not a readable safetensors file"):
        load_head(tmp_path / "text.safetensors")
    from safetensors.numpy import save_file

    save_file({"w": np.ones((2, 3), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"must hold a tensor 'weight' \(C, D\), but holds \['w'\]"):
        load_head(tmp_path / "w.safetensors")
    save_file({"weight": np.full((2, 3), np.nan, np.float32)}, tmp_path / "nan.safetensors")
    with pytest.raises(DataError, match="tensor 'weight' must be finite"):
        load_head(tmp_path / "nan.safetensors")
    save_file({"weight": np.ones(3, np.float32)}, tmp_path / "flat.safetensors")
    with pytest.raises(DataError, match="flat.safetensors: head weight must have shape"):
        load_head(tmp_path / "flat.safetensors")


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match="cannot be written, as 'weight' of the head holds NaN or infinity"):
        LinearHead(np.full((2, 3), np.inf)).save(tmp_path / "head.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{", "metadata entry 'ltpost-head' is damaged"),
        ('{"spec": {"kind": "linear"}}', "metadata entry 'ltpost-head' is damaged"),
        ('{"spec": {"kind": "forest"}, "info": {}}', "is not a head that this ltpost can read"),
        ('{"spec": {"kind": "rescaled"}, "info": {}}', "is not a head that this ltpost can read"),
        ('{"spec": {"kind": "normalized-mean"}, "info": {}}', "is not a head that this ltpost can read"),
    ],
)
def test_damaged_head_files(tmp_path, entry, message):
    from safetensors.numpy import save_file

    save_file({"weight": np.ones((2, 3), np.float32)}, tmp_path / "x.safetensors", metadata={"ltpost-head": entry})
    with pytest.raises(DataError, match=rf"x\.safetensors: .*{message}"):
        load_head(tmp_path / "x.safetensors")
