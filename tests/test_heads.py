import numpy as np
import pytest

from ltpost import DataError, LinearHead

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
    head = HEAD.rescaled(scale, offset)
    np.testing.assert_allclose(head.logits(X), HEAD.logits(X) * scale + offset, rtol=1e-4, atol=1e-6)
    assert head.joint is HEAD
    assert HEAD.rescaled(scale, -scale * HEAD.bias).bias is None


def test_norms_are_of_the_rows_and_in_float64():
    head = LinearHead(np.array([[3.0, 4.0], [0.0, 1e-30]]))
    np.testing.assert_allclose(head.norms(), [5.0, 1e-30], rtol=1e-6)


@pytest.mark.parametrize("head", [HEAD, LinearHead(HEAD.weight), HEAD.rescaled(np.arange(5.0)), LinearHead.identity(4)])
def test_save_and_load(tmp_path, head):
    back = LinearHead.load(head.save(tmp_path / "new folder" / "head.safetensors"))
    np.testing.assert_array_equal(back.weight, head.weight)
    assert (back.bias is None) == (head.bias is None)
    assert back.info == head.info
    assert back.input == head.input
    assert back.same_as(head)
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["head.safetensors"]


def test_a_safetensors_file_of_others_loads(tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.ones((2, 3), np.float32)}, tmp_path / "other.safetensors")
    assert LinearHead.load(tmp_path / "other.safetensors").shape == (2, 3)


def test_same_as():
    assert HEAD.same_as(LinearHead(HEAD.weight, HEAD.bias))
    assert not HEAD.same_as(LinearHead(HEAD.weight))
    assert not HEAD.same_as(LinearHead(HEAD.weight, HEAD.bias + 1))
    assert not HEAD.same_as(LinearHead(HEAD.weight[:4]))
    assert not LinearHead.identity(5).same_as(LinearHead(np.eye(5)))


def test_errors(tmp_path):
    with pytest.raises(DataError, match=r"weight must have shape \(C, D\), but has \(3,\)"):
        LinearHead(np.ones(3))
    with pytest.raises(DataError, match=r"bias must have shape \(2,\)"):
        LinearHead(np.ones((2, 3)), np.ones(3))
    with pytest.raises(DataError, match=r"features must have shape \(N, 3\) for this head, but have \(7, 2\)"):
        HEAD.logits(X[:, :2])
    with pytest.raises(DataError, match="no such head file"):
        LinearHead.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("weights")
    with pytest.raises(DataError, match="not a readable safetensors file"):
        LinearHead.load(tmp_path / "text.safetensors")
    from safetensors.numpy import save_file

    save_file({"w": np.ones((2, 3), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"must hold a tensor 'weight' \(C, D\), but holds \['w'\]"):
        LinearHead.load(tmp_path / "w.safetensors")
    save_file({"weight": np.full((2, 3), np.nan, np.float32)}, tmp_path / "nan.safetensors")
    with pytest.raises(DataError, match="tensor 'weight' must be finite"):
        LinearHead.load(tmp_path / "nan.safetensors")
    save_file({"weight": np.ones(3, np.float32)}, tmp_path / "flat.safetensors")
    with pytest.raises(DataError, match="flat.safetensors: head weight must have shape"):
        LinearHead.load(tmp_path / "flat.safetensors")
