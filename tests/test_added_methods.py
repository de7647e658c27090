"""Methods of other packages, through the entry point ``ltpost.methods``: here is a package with two of them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import COUNTS

from ltpost import Experiment, FeatureFolder, UsageError, compare, load_head, methods
from ltpost.cli import cli
from ltpost.comparison import missing
from ltpost.scores.predict import predict

CODE = '''
"""Two methods of somebody else."""

from typing import Literal

import numpy as np

from ltpost import Family, Method
from ltpost.heads import LinearHead


def count_power(joint, class_counts, *, base: Literal["most", "mean"] = "most"):
    """Divides by a power of the class counts.

    Args:
        joint: the joint classifier.
        class_counts: (C,).
        base: the count that is left as it is, of the most frequent class or the mean.
    """
    unit = class_counts.max() if base == "most" else class_counts.mean()
    return Family.scaled(joint, np.log(class_counts / unit), parameter="gamma")


def shrunk_classifier(head: LinearHead, *, shrink: float = 0.5, seed: int = 0):
    """Shrinks the weights of the classifier.

    Args:
        head: the joint classifier.
        shrink: what the weights are multiplied with.
        seed: unused.
    """
    return Family.single(LinearHead(shrink * head.weight, head.bias), notes=(f"seed {seed}",))


POWER = Method(
    "power",
    count_power,
    title="power of the counts",
    equation="z_c n_c^-γ",
    source="Nobody, 2026",
    chosen="γ",
    grid=(0.0, 0.25, 0.5),
    example="ltpost power --base mean",
)
SHRUNK = Method(
    "shrunk",
    shrunk_classifier,
    title="shrunk classifier",
    equation="0.5 w_c",
    source="Nobody, 2026",
    variant="head only",
    example="ltpost shrunk --shrink 0.25",
)
'''
ENTRY_POINTS = """[ltpost.methods]
power = somebodys_methods:POWER
shrunk = somebodys_methods:SHRUNK
tnorm = somebodys_methods:POWER
"""


@pytest.fixture(autouse=True)
def _installed(tmp_path, monkeypatch):
    """The package as pip leaves it: a module, and a dist-info folder that declares its entry points."""
    site = tmp_path / "site"
    about = site / "somebodys_methods-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "somebodys_methods.py").write_text(CODE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys-methods\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(site))


def good(*args):
    result = CliRunner().invoke(cli, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_they_come_after_the_methods_of_the_table_and_replace_none():
    assert methods.all_keys() == [*methods.TABLE, "power", "shrunk"]
    assert methods.get("tnorm").title == "tau-normalization"
    assert methods.get("power").title == "power of the counts"
    with pytest.raises(UsageError, match="must be one of tnorm, .* power, shrunk, but is 'powr'; did you mean power"):
        methods.get("powr")


def test_their_help():
    assert "Power of the counts: z_c n_c^-γ (Nobody, 2026)." in " ".join(good("--help").split())
    text = " ".join(good("power", "--help").split())
    assert "Divides by a power of the class counts." in text
    assert "--base [most|mean]" in text
    assert "The count that is left as it is, of the most frequent class or the mean. [default: most]" in text
    assert "[default: 0:0.5:0.25]" in text
    text = " ".join(good("shrunk", "--help").split())
    assert "Variant: head only." in text
    assert "--shrink FLOAT What the weights are multiplied with. [default: 0.5]" in text


def test_their_commands(at_home):
    printed = json.loads(good("power", "--base", "mean", "--json"))
    outcome = Experiment("features").run("power", base="mean")
    assert printed["signature"] == outcome.signature
    assert "|base:mean|gamma:" in outcome.signature
    assert [row["gamma"] for row in printed["curve"]] == [0.0, 0.25, 0.5]
    good("shrunk", "--shrink", "0.25", "--seed", "3")
    test = FeatureFolder("features")["test"]
    head = load_head("heads/shrunk.safetensors")
    np.testing.assert_array_equal(head.weight, test.head.weight * np.float32(0.25))
    assert head.info["params"] == {"shrink": 0.25}
    assert "seed 3" in Experiment("features", seed=3).run("shrunk").notes


def test_they_are_compared(at_home):
    printed = good("compare", "--methods", "decoupled,power,shrunk")
    lines = {line.split()[0] for line in printed.splitlines() if "±" in line}
    assert lines == {"joint", *methods.SETS["decoupled"], "power", "shrunk"}
    outcomes = compare(Experiment("features"), ["power", "mla"], power={"base": "most"})
    test = FeatureFolder("features")["test"]
    power, mla = (outcome.choice.family for outcome in outcomes)
    for value in (0.1, 0.3):  # n_c / n_max and π_c / π_max are the same
        np.testing.assert_array_equal(predict(power.head(value), test), predict(mla.head(value), test))
    np.testing.assert_allclose(power.head(1.0).scale, COUNTS.max() / COUNTS)


def test_what_they_need(tmp_path):
    from conftest import make_split

    make_split("val", head=None, class_counts=None).save(tmp_path / "val.h5")
    experiment = Experiment(tmp_path)
    assert (missing(experiment, "power"), missing(experiment, "shrunk")) == (["class_counts"], ["head"])
