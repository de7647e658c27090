"""What holds for every method of the table, whoever wrote it. A method gets these checks by being in the table.

Each check builds the folder of feature files that it is about. ``missing`` says on which of them a method runs.
"""

import json
import re

import click
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import in_processes

from ltpost import (
    DataError,
    Experiment,
    FeatureFolder,
    FeatureSet,
    LinearHead,
    UsageError,
    compare,
    compare_report,
    evaluate,
    load_head,
    methods,
)
from ltpost.cli import cli
from ltpost.comparison import missing
from ltpost.heads import CausalNormHead
from ltpost.method import NEEDS
from ltpost.scores.curve import Curve
from ltpost.scores.predict import predict

KEYS = methods.all_keys()
every_method = pytest.mark.parametrize("key", KEYS)
SPLITS = ("train", "val", "test")
ROWS_PER_CLASS = 15  # of val and of test


# -- made-up folders ---------------------------------------------------------------------------------------------------


def one_split(split, *, classes=5, dtype=np.float32, order=None, experts=1, absent=None, views=0, layers=()):
    """A long-tailed problem of a few classes, with a joint classifier whose norms follow the class counts.

    Args:
        split: train, val or test.
        classes: C.
        dtype: of the features.
        order: class c is renamed to where ``order`` has c.
        experts: E, whose features are side by side.
        absent: a class without rows in val.
        views: augmented views of every row, as ``view_rows``.
        layers: names of earlier layers.
    """
    shape = np.random.default_rng(classes)
    counts = np.geomspace(60, 4, classes).round().astype(int)
    centres = np.abs(shape.normal(size=(classes, 8)))
    parts = [(centres @ np.linalg.qr(shape.normal(size=(8, 8)))[0], shape.normal(size=classes)) for _ in range(experts)]
    rng = np.random.default_rng(SPLITS.index(split))
    labels = rng.permutation(np.repeat(np.arange(classes), counts if split == "train" else ROWS_PER_CLASS))
    features, weights, biases = [], [], []
    for means, bias in parts:
        features.append(0.05 + np.maximum(means[labels] + 0.7 * rng.normal(size=(len(labels), 8)), 0))
        weights.append((means - means.mean(0)) * (counts[:, None] / counts.max()) ** 0.25)
        biases.append(0.1 * bias + 0.3 * np.log(counts / counts.max()))
    features = np.concatenate(features, axis=1).astype(dtype)
    order = np.arange(classes) if order is None else order
    stored = {}
    for name in layers:
        means = np.abs(shape.normal(size=(classes, 6)))
        stored[name] = np.maximum(means[labels] + 0.7 * rng.normal(size=(len(labels), 6)), 0).astype(dtype)
    known = {
        "head": LinearHead((np.concatenate(weights, axis=1) / experts)[order], np.mean(biases, axis=0)[order]),
        "class_counts": counts[order],
        "expert_bias": np.stack(biases)[:, order] if experts > 1 else None,
        "attrs": {"experts": experts} if experts > 1 else {},
        "split": split,
    }
    labels = np.argsort(order)[labels]
    whole = FeatureSet(features, labels, logits=known["head"].logits(features), layers=stored, **known)
    rows = np.flatnonzero(labels != absent) if split == "val" and absent is not None else np.arange(len(labels))
    chosen = whole.subset(rows)
    if views:
        seen = np.repeat(features[rows], views, axis=0)
        seen = (seen + 0.5 * rng.normal(size=seen.shape)).astype(dtype)
        which = {"sample": np.repeat(np.arange(len(rows)), views), "view": np.tile(np.arange(views), len(rows))}
        logits = known["head"].logits(seen)
        chosen.view_rows = FeatureSet(seen, np.repeat(labels[rows], views), logits=logits, **which, **known)
    return chosen


def save_split(one, path, without, stored_as):
    """A split as a file, without some of what it has."""
    bare = {"head", "features"} & set(without)
    FeatureSet(
        None if "features" in without else np.asarray(one.features).astype(stored_as or one.features.dtype),
        one.labels,
        logits=None if "logits" in without else np.asarray(one.logits),
        head=None if bare else one.head,
        class_counts=None if "class_counts" in without else one.class_counts,
        expert_bias=None if bare else one.expert_bias,
        layers={
            name: one.read_layer(name, slice(None)).astype(stored_as or layer.dtype)
            for name, layer in one.layers.items()
            if "layers" not in without
        },
        sample=one.sample,
        view=one.view,
        attrs={} if "features" in without else one.attrs,  # several experts are columns of the features
        split=one.split,
    ).save(path)


def write(folder, *, without=(), stored_as=None, causal_head=False, zero_shot=False, **options):
    """A folder of the three splits.

    Args:
        folder: where it is made.
        without: some of "train", "features", "head", "logits", "class_counts", "views", "layers", "causal_head" and
            "zero_shot", which it then lacks.
        stored_as: the type that the features are stored as, after they were rounded to ``dtype``.
        causal_head: whether there is a classifier of CausalNorm.
        zero_shot: whether there is a zero-shot classifier.
        **options: of :func:`one_split`.
    """
    for split in SPLITS:
        if split == "train" and "train" in without:
            continue
        one = one_split(split, **options)
        save_split(one, folder / f"{split}.h5", without, stored_as)
        if options.get("views") and split != "train" and "views" not in without:
            save_split(one.view_rows, folder / f"{split}-views.h5", without, stored_as)
    train = one_split("train", **options)
    if causal_head and "causal_head" not in without:
        embed = np.asarray(train.features, np.float32).mean(0)
        CausalNormHead(train.head.weight, embed).save(folder / "causal_norm.safetensors")
    if zero_shot and "zero_shot" not in without:
        noise = np.random.default_rng(7).normal(size=train.head.weight.shape)
        order = options.get("order")
        weight = train.head.weight + 0.3 * (noise if order is None else noise[order])
        LinearHead(2 * weight.astype(np.float32)).save(folder / "zero_shot.safetensors")
    return folder


#: name of a kind of folder to the options of ``write``; a method runs on the first that suffices
KINDS = {
    "features": {},
    "experts": {"experts": 3},
    "views": {"experts": 3, "views": 2},
    "layers": {"layers": ("early", "late")},
    "causal-norm": {"causal_head": True},
    "zero-shot": {"zero_shot": True},
}
EVERYTHING = {name: value for options in KINDS.values() for name, value in options.items()}

#: methods that may predict one class only on two classes: a whole log prior of 60 to 4 outweighs these joint logits
ONE_OF_TWO = ("pc-softmax", "em", "map-em", "bbse", "rlls")
#: options with which a method predicts both of two classes
FOR_TWO = {
    "gm": {"epochs": 300},  # so few rows are few steps of SGD
    "do-head": {"prefer": "few"},  # the other class is medium-shot
    "cdt-head": {"strengths": (1e-4,)},  # the rare class learns slowly behind its temperature
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Gives the folder of feature files that options of ``write`` describe. Each is written once; nobody changes it."""
    written, home = {}, tmp_path_factory.mktemp("folders")

    def folder(**options):
        name = re.sub(r"\s+", " ", repr(sorted(options.items())))
        if name not in written:
            written[name] = write(home / str(len(written)), **options)
        return written[name]

    return folder


@pytest.fixture(scope="module")
def opened():
    """Gives the experiment on a folder of these. Each is read once; checks of files and devices open their own."""
    experiments = {}

    def experiment(folder):
        if folder not in experiments:
            experiments[folder] = Experiment(folder)
        return experiments[folder]

    return experiment


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """No check here is about the interval of a value; ``test_confidence`` has those."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Curve.bootstrap_best.__kwdefaults__, "num", 10)
        yield


def kind_for(key, folders, opened):
    """The options of the first kind of folder that suffices for a method."""
    for options in KINDS.values():
        if not missing(opened(folders(**options)), key):
            return options
    raise AssertionError(f"{key} runs on none of {', '.join(KINDS)}; give test_every_method a folder that it runs on")


@pytest.fixture(scope="module")
def kinds(folders, opened):
    """Key of a method to the options of the first kind of folder that suffices for it."""
    return {key: kind_for(key, folders, opened) for key in KEYS}


@pytest.fixture
def made(key, kinds, folders):
    """Gives folders that suffice for the method, with changes."""
    return lambda **changes: folders(**{**kinds[key], **changes})


@pytest.fixture(scope="module")
def outcomes():
    """Key, folder and options to what the method gave there."""
    return {}


@pytest.fixture
def outcome_on(key, opened, outcomes):
    """Gives what the method gives on a folder with these options; it runs there once."""

    def outcome(folder, **options):
        case = (key, folder, repr(sorted(options.items())))
        if case not in outcomes:
            outcomes[case] = opened(folder).run(key, **options)
        return outcomes[case]

    return outcome


@pytest.fixture
def plain(key, outcome_on):
    """Gives what the method gives on a folder with its defaults."""
    return lambda folder: outcome_on(folder, **QUICK.get(key, {}))


@pytest.fixture
def quick(key, outcome_on):
    """Gives what the method gives on a folder after few steps."""
    return lambda folder: outcome_on(folder, **few_steps(key))


#: options with which methods run that would take seconds
QUICK = {"crt-val": {"strengths": (1.0, 0.1)}, "crt-la": {"strengths": (1.0, 0.1)}}


def few_steps(key):
    """Options with which a method that is fitted takes few steps."""
    options = methods.get(key).options
    solver = options["solver"].default if "solver" in options else "sgd"
    if "epochs" in options and solver == "sgd":
        return {"epochs": 2}
    return {"strengths": (0.1,)} if "strengths" in options else {}


def run(experiment, key, **options):
    return experiment.run(key, **{**QUICK.get(key, {}), **options})


def figures_of(outcome):
    """Split and name of a row to its hits per class."""
    return {(row.split, row.name): row.hits.tolist() for row in outcome.results}


def bytes_of(head):
    return {name: (tensor.dtype.str, tensor.shape, tensor.tobytes()) for name, tensor in head.state()[1].items()}


def without_chance(key):
    """Options with which the method draws no random numbers, where it has such."""
    solver = methods.get(key).options.get("solver")
    return {"solver": "convex"} if solver is not None and "convex" in solver.choices else {}


# -- the declaration ---------------------------------------------------------------------------------------------------


@every_method
def test_is_described(key):
    method = methods.get(key)
    assert method.key == key
    for words in (method.title, method.equation, method.source):
        assert words.strip() == words != ""
    assert re.fullmatch(r"[A-Z][^\n]+[^.\s]", method.does), "the first sentence of the docstring, for the README"
    assert method.variant in ("exact", "head only")
    assert set(method.needs) <= set(NEEDS)
    words = method.example.split()
    assert words[:2] == ["ltpost", key]
    cli.get_command(click.Context(cli), key).make_context(key, words[2:])


def squeezed(text):
    """Without the white space at which a terminal may break lines."""
    return "".join(text.split())


@every_method
def test_help_has_every_option_with_its_default_and_choices(key):
    result = CliRunner().invoke(cli, [key, "--help"])
    assert result.exit_code == 0, result.output
    shown, method = squeezed(result.stdout), methods.get(key)
    assert squeezed(method.equation) in shown
    context = cli.get_command(click.Context(cli), key).make_context(key, [])
    for parameter in context.command.params:
        flags, about = parameter.get_help_record(context)
        assert squeezed(flags + about) in shown
        assert len(about) > 10, f"{flags} has no help"
        says_default = re.search(r"\[default: .+\]|\bDefault ", about)
        asked_for = isinstance(parameter.type, click.Path) and context.params.get(parameter.name) is None  # a file
        assert says_default or parameter.is_flag or asked_for, f"{flags} says no default"
        if isinstance(parameter.type, click.Choice):
            assert "|".join(map(str, parameter.type.choices)) in flags
    for name, option in method.options.items():
        flags = [max(parameter.opts, key=len) for parameter in context.command.params if parameter.name == name]
        assert flags == [f"--{name.replace('_', '-')}"]
        assert squeezed(option.help)[1:] in shown
        if option.default is not None:
            default = option.default
            text = ",".join(f"{value:g}" for value in default) if isinstance(default, tuple) else str(default)
            assert squeezed(f"[default: {text}]") in shown, name


def another_value(option, tmp_path):
    """Values that differ from the default, to be tried in turn."""
    if option.name == "target_prior" and not option.choices:
        tmp_path.joinpath("prior.txt").write_text("5\n1\n2\n1\n1\n")
        return [str(tmp_path / "prior.txt")]
    if option.name in ("other", "base"):
        return [str(one_split("train").head.save(tmp_path / "other.safetensors"))]
    if option.name == "neighbours" and option.type is tuple:
        return [(3.0, 8.0)]
    if option.name == "only":
        return ["late"]
    if option.choices:
        return [choice for choice in option.choices if choice != option.default]
    default = option.default
    if option.type is bool:
        return [not default]
    if option.type is tuple:
        return [(0.5, 0.2), (0.2, 0.7, 0.1)]
    if option.type is str:
        return ["val", "test", "train"]
    if default is None:
        return [1, 2, 0] if option.type is int else [0.5, 0.01, 2.0]
    return (
        [default + 1, default + 2, 2 * default, 0]
        if option.type is int
        else [default / 2, 2 * default, default + 0.1, 0.5]
    )


@every_method
def test_every_option_changes_the_signature(key, made, outcome_on, tmp_path):
    """So that two different heads never have the same."""
    method, folder = methods.get(key), made()
    from ltpost.fit.options import CONVEX_ONLY

    for name, option in method.options.items():
        base = {} if name == "solver" else few_steps(key)
        if "solver" in method.options and name != "solver":
            convex = name in CONVEX_ONLY
            base = {"solver": "convex", "strengths": (0.1,)} if convex else {"solver": "sgd", "epochs": 2}
        base.pop(name, None)
        values = another_value(option, tmp_path)
        plain, changed = outcome_on(folder, **base), []
        for value in values:
            try:
                outcome = outcome_on(folder, **base, **{name: value})
            except (UsageError, DataError):  # not every number is possible
                continue
            assert outcome.head.info["signature"] == outcome.signature
            if outcome.signature != plain.signature:
                changed.append(value)
                break
            assert bytes_of(outcome.head) == bytes_of(plain.head), f"{name}= {value} is not in the signature"
        assert changed, f"no value of {values} for {name}= is in the signature"


@every_method
def test_an_option_that_it_does_not_have_is_a_usage_error(key, made, opened):
    with pytest.raises(UsageError, match=rf"foo= is no option of {key}; it has"):
        opened(made()).run(key, foo=1)
    if not methods.get(key).grid:
        with pytest.raises(UsageError, match=rf"grid= is no option of {key}; it has"):
            opened(made()).run(key, grid=(0.0, 1.0))


# -- running it --------------------------------------------------------------------------------------------------------


@every_method
def test_runs_alike_twice_and_leaves_the_files_alone(key, made, plain):
    folder = made()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    outcome, again = run(Experiment(folder), key), plain(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert bytes_of(outcome.head) == bytes_of(again.head)
    assert figures_of(outcome) == figures_of(again)
    assert outcome.signature == again.signature
    assert f"method:{key}|" in outcome.signature
    assert json.dumps(outcome.as_dict(), allow_nan=False, default=lambda value: value.item())


@every_method
def test_arrays_in_memory_are_not_changed(key, made):
    folder = FeatureFolder(made())
    for split in SPLITS:
        stored = folder[split]
        stored._features.source, stored._logits.source = np.array(stored.features), np.array(stored.logits)
    everything = {
        (split, name): value
        for split in SPLITS
        for name, value in {
            "features": folder[split].features,
            "logits": folder[split].logits,
            "labels": folder[split].labels,
            "counts": folder[split].class_counts,
            "weight": folder[split].head.weight,
            "bias": folder[split].head.bias,
        }.items()
    }
    before = {name: array.copy() for name, array in everything.items()}
    run(Experiment(folder), key)
    for name, array in everything.items():
        assert array.flags.writeable, name
        np.testing.assert_array_equal(array, before[name], err_msg=str(name))


@every_method
def test_permuted_classes_permute_the_result(key, made, outcome_on):
    order = np.array([3, 0, 4, 1, 2])
    options = without_chance(key)
    folders = made(), made(order=order)
    plain, permuted = (outcome_on(folder, **QUICK.get(key, {}), **options) for folder in folders)
    draws = "seed" in methods.get(key).settings and not options
    for mine, other in zip(plain.results, permuted.results, strict=True):
        if draws or "cross-fitted" in mine.detail:  # folds and batches are of other rows
            assert mine.figures.all == pytest.approx(other.figures.all, abs=0.1)
        else:
            np.testing.assert_allclose(mine.hits[order], other.hits, atol=1)  # a row may lie on the boundary


@every_method
@pytest.mark.parametrize("logits", [True, False], ids=["stored logits", "features alone"])
def test_a_saved_head_has_the_same_figures(key, logits, made, plain, tmp_path):
    folder = made(without=() if logits else ("logits",))
    outcome = plain(folder)
    saved = load_head(outcome.save_head(tmp_path / "head.safetensors"))
    assert saved.info == json.loads(json.dumps(outcome.head.info))
    assert saved.info["signature"] == outcome.signature
    assert saved.info["method"] == key
    test = FeatureFolder(folder)["test"]
    row = next(row for row in outcome.results if (row.split, row.name) == ("test", key))
    assert evaluate(saved, test).hits.tolist() == row.hits.tolist()
    words = ["evaluate", "--head", str(tmp_path / "head.safetensors"), "--features", str(folder), "--json"]
    printed = json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).stdout)
    assert printed["test"][str(tmp_path / "head.safetensors")] == row.as_dict()


@every_method
def test_logits_alone_give_what_features_and_logits_give(key, made, plain, opened, tmp_path):
    """Where the method needs nothing else; and the saved head is evaluated as itself, not as the joint classifier."""
    folder = made(without=("features",))
    if missing(opened(folder), key):
        pytest.skip(f"{key} needs more than logits")
    whole, outcome = plain(made()), plain(folder)
    assert figures_of(outcome) == figures_of(whole)
    saved = load_head(outcome.save_head(tmp_path / "head.safetensors"))
    row = next(row for row in outcome.results if (row.split, row.name) == ("test", key))
    assert evaluate(saved, FeatureFolder(folder)["test"]).hits.tolist() == row.hits.tolist()
    classes = saved.num_classes
    assert all(tensor.shape != (classes, classes) for tensor in saved.state()[1].values()), "no C x C matrix"


@every_method
def test_the_curve_is_that_of_the_evaluated_heads(key, made, plain):
    outcome = plain(made())
    if outcome.curve is None:
        assert outcome.best is None
        assert outcome.parameter is None
        return
    split, family = FeatureFolder(made())["val"], outcome.choice.family
    curve = family.curve(split, grid=outcome.grid)
    values = curve.grid() if curve.is_tabulated else np.linspace(min(outcome.grid), max(outcome.grid), 21)
    seen = set()
    for value in values:
        right = predict(family.head(value), split) == split.labels
        clear = np.ones(len(split), bool)
        if not curve.is_tabulated:  # float32 may decide a tie at the end of an interval otherwise
            clear = np.minimum(np.abs(curve.low - value), np.abs(curve.high - value)) > 1e-5
        np.testing.assert_array_equal(curve.correct(value)[clear], right[clear])
        seen.add(right.tobytes())
    assert len(seen) > 1, "the heads differ"
    assert outcome.best.low <= outcome.best.value <= outcome.best.high
    near = 0 if curve.is_tabulated else 0.5 * (0.25 / len(split)) ** 0.5  # half a standard error, at most
    assert outcome.best.score >= max(row.all for row in outcome.curve.at(values)) - near - 1e-9


#: a need to what a folder lacks then; several experts are lacking where there is one
LACKING = {
    **{need: (need,) for need in ("train", "head", "class_counts", "views", "layers", "causal_head", "zero_shot")},
    "joint": ("head", "logits"),
}


@every_method
def test_each_need_that_is_missing_has_its_message(key, made, folders, opened):
    method = methods.get(key)
    for need in method.needs:
        if need in ("val", "target"):
            continue  # a split to choose on and rows to classify are always there
        if need == "class_counts" and "train" in method.needs:
            assert not missing(opened(made(without=LACKING[need])), key)  # they are counted in train.h5
            continue
        if need in LACKING:
            without = LACKING[need] if "train" in method.needs or need == "train" else (*LACKING[need], "train")
            folder = made(without=without)
        else:
            folder = folders()
        experiment = opened(folder)
        assert need in missing(experiment, key)
        with pytest.raises(DataError, match=re.escape(method.title)) as caught:
            experiment.run(key)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


@every_method
def test_a_need_that_reads_features_is_missing_where_there_are_logits_only(key, made, opened):
    for need in {"causal_head", "zero_shot"} & set(methods.get(key).needs):
        experiment = opened(made(without=("features",)))
        assert need in missing(experiment, key)
        with pytest.raises(DataError, match=r"holds no 'features', only logits; extract them with ltpost extract"):
            experiment.run(key)


@every_method
def test_what_it_does_not_need_may_be_missing(key, made, quick, opened):
    needs = set(methods.get(key).needs)
    unneeded = {
        "train": "train" not in needs,
        "head": not {"head", "experts"} & needs,
        "logits": True,
        "class_counts": "class_counts" not in needs,
    }
    for name in (name for name, free in unneeded.items() if free):
        folder = made(without=(name,))
        assert missing(opened(folder), key) == []
        outcome = quick(folder)
        assert outcome.results[-1].name in (key, "joint")
    everything = tuple(name for name, free in unneeded.items() if free)
    if not {"joint", "head"} & needs:  # the logits are computed where the classifier is known
        outcome = quick(made(without=everything))
        joint = ["joint"] if "experts" in needs else []  # several experts have a joint classifier
        assert [row.name for row in outcome.results] == [*joint, key, *joint, key]


@every_method
def test_two_classes(key, made):
    outcome = run(Experiment(made(classes=2)), key, **FOR_TWO.get(key, {}))
    row = next(row for row in outcome.results if (row.split, row.name) == ("test", key))
    assert row.hits.shape == (2,)
    assert row.figures.all >= 0.5 if key in ONE_OF_TWO else row.figures.all > 0.5


@every_method
def test_a_class_that_val_does_not_have(key, made, quick):
    outcome = quick(made(absent=4))
    assert outcome.head.num_classes == 5
    rows = {(row.split, row.name): row for row in outcome.results}
    assert rows["val", key].as_dict()["classes_without_rows"] == [4]
    assert rows["test", key].totals.tolist() == [ROWS_PER_CLASS] * 5


@every_method
def test_float16_features_give_what_their_values_give(key, made, quick):
    found, expected = quick(made(dtype=np.float16)), quick(made(dtype=np.float16, stored_as=np.float32))
    for mine, other in zip(found.results, expected.results, strict=True):
        np.testing.assert_allclose(mine.hits, other.hits, atol=1)


@every_method
def test_on_a_device(key, made, quick, fake_device):
    """Everything that knows devices gets the one that was asked for, and the figures stay."""
    folder = made()
    expected = quick(folder)
    fake_device.clear()
    outcome = Experiment(folder, device="fake").run(key, **few_steps(key))
    assert set(fake_device) == {"fake"}
    reported = [row for row in outcome.results if "cross-fitted" not in row.detail]
    assert len(fake_device) >= len(reported)
    for mine, other in zip(outcome.results, expected.results, strict=True):
        np.testing.assert_allclose(mine.hits, other.hits, atol=1)


#: methods that refuse several processes, with the reason
ONE_PROCESS = {
    "knn": "every row to classify is compared with all training rows",
    "tailcalib": "it finds the nearest classes and draws rows around them, one class after the other",
    "alphanet": "it trains on all classifiers of a class's neighbours",
    "early-exit": "its gates are trained on rows that are drawn from all of train",
}


#: by how many of 75 rows two processes may differ from one, where it is more than one row
ROWS_APART = {"gcl": 5}  # each process draws noise of its own


#: one of several processes: compares methods, and the first one prints the results
COMPARE = """
import json, sys
from ltpost import Experiment, compare, compare_report
from ltpost.data import distributed
from ltpost.scores.curve import Curve
Curve.bootstrap_best.__kwdefaults__["num"] = 10  # no check is about the interval of a value
options = json.loads(sys.argv[2])
distributed.start()
report = compare_report(compare(Experiment(sys.argv[1], progress=False), list(options), **options))
if distributed.rank() == 0:
    print(json.dumps(report.as_dict(), default=float))
distributed.stop()
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The results of one process and of two, of every method that does not refuse several: split, key, figures."""
    home = tmp_path_factory.mktemp("together")
    write(home / "features", **EVERYTHING)
    options = {key: few_steps(key) for key in KEYS if key not in ONE_PROCESS}
    alone = compare_report(compare(Experiment(home / "features"), list(options), **options)).as_dict()
    words = (str(home / "features"), json.dumps(options))
    (home / "program.py").write_text(COMPARE)
    outputs, codes = in_processes(home, 2, *words, program=str(home / "program.py"))
    assert codes == [0, 0], outputs
    return alone, json.loads(outputs[0][0])


@pytest.mark.xdist_group("together")
@every_method
def test_two_processes_give_what_one_gives(key, together):
    if key in ONE_PROCESS:
        pytest.skip(ONE_PROCESS[key])
    alone, both = together
    for split in ("test", "val"):
        assert both[split][key]["rows"] == alone[split][key]["rows"]
        rows = ROWS_APART.get(key, 1)
        assert both[split][key]["all"] == pytest.approx(alone[split][key]["all"], abs=(rows + 0.1) / 75)
