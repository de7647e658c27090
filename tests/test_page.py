"""ltpost.page: the report in one HTML file, opened in a real browser where there is one."""

import base64
import importlib.util
import json
import re
import shutil
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import COUNTS, make_split

import ltpost
from ltpost.cli import cli
from ltpost.data.priors import shot_groups
from ltpost.errors import DataError, UsageError
from ltpost.page import write_report
from ltpost.page.content import STEPS, confused_pairs, content, slider_values
from ltpost.page.packed import drawn, packed, safe_json
from ltpost.scores.changes import changes
from ltpost.scores.exact import ExactCurve
from ltpost.tables import percent

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None or importlib.util.find_spec("playwright") is None, reason="needs playwright and a Chromium"
)
#: names that would run a script, or end the element that the data is in, if they were parsed anywhere
ATTACKS = ["</script><img src=x onerror=window.attacked=1>", "<!--<script>", "{{script}}", "a & b", "\u2028 猫 ‖"]
NAMES = ATTACKS + [f"class {c}" for c in range(len(ATTACKS), len(COUNTS))]
METHODS = ["tnorm", "la", "ncm", "lda"]
FIGURES = ("many", "medium", "few", "all", "top1")


def unpack(value):
    """An array of the page, as data.js unpacks it."""
    kinds = {"Uint": "u", "Int": "i", "Float": "f"}
    letters, bits = re.fullmatch(r"([A-Za-z]+)(\d+)Array", value["array"]).groups()
    return np.frombuffer(zlib.decompress(base64.b64decode(value["zlib"])), f"<{kinds[letters]}{int(bits) // 8}")


def numbers_of(path):
    """The JSON inside of a page."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(text)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """An experiment with untrusted names, what methods gave, and the page."""
    parts = {split: make_split(split, class_names=NAMES) for split in ("train", "val", "test")}
    experiment = ltpost.Experiment(**parts)
    outcomes = ltpost.compare(experiment, METHODS)
    path = write_report(
        experiment, outcomes, tmp_path_factory.mktemp("report") / "report.html", title="<b>Title</b> & more"
    )
    return SimpleNamespace(experiment=experiment, outcomes={one.method: one for one in outcomes}, path=path)


# -- numbers ----------------------------------------------------------------------------------------------------


def test_changes_add_up_to_the_hits_of_every_class(report):
    for method in ("tnorm", "lda"):
        curve, values = report.outcomes[method].curve, slider_values(report.outcomes[method])
        found = changes(curve, values)
        for position in {0, len(values) // 3, len(values) - 1}:
            right = curve.labels[curve.correct(values[position])]
            np.testing.assert_array_equal(found.hits(position, 10), np.bincount(right, minlength=10))


def test_changes_at_the_ends_of_intervals():
    """A row is right at both ends of its interval, and not beyond; one that never is does not count."""
    low, high = np.array([0.5, 0.2, 0.9, -np.inf, 3.0]), np.array([0.5, np.inf, 0.1, 0.0, 4.0])
    curve = ExactCurve("tau", low, high, np.array([0, 0, 0, 1, 1]), None, 2)
    values = np.array([0.0, 0.25, 0.5, 0.5000001, 2.0])
    found = changes(curve, values)
    assert [found.hits(k, 2).tolist() for k in range(5)] == [[0, 1], [1, 0], [2, 0], [1, 0], [1, 0]]


def test_the_slider_stops_at_the_chosen_value(report):
    values = slider_values(report.outcomes["tnorm"])
    assert STEPS + 1 <= len(values) <= STEPS + 2
    assert report.outcomes["tnorm"].best.value in values
    assert {0.0, 0.1, 1.0, 2.0} <= set(values)
    numbers = numbers_of(report.path)["curves"]["tnorm"]
    assert unpack(numbers["values"])[numbers["chosen"]] == report.outcomes["tnorm"].best.value


def test_arrays_are_packed_as_they_are():
    for values in ([0, 255], [-1, 127], [0, 65_535], [-40_000, 5], [70_000], [], [0.1, -1e300]):
        np.testing.assert_array_equal(unpack(packed(np.array(values))), values)
    with pytest.raises(ValueError, match="32-bit"):
        packed(np.array([2**40]))


def test_drawn_numbers_keep_four_digits_and_their_gaps():
    values = np.array([-3.0, np.nan, 0.12345, 7.0, np.inf])
    made = drawn(values)
    levels = unpack(made["levels"])
    np.testing.assert_array_equal(levels == 65_535, ~np.isfinite(values))
    back = made["low"] + levels / 65_534 * (made["high"] - made["low"])
    np.testing.assert_allclose(back[[0, 2, 3]], values[[0, 2, 3]], atol=1e-4)


def test_confused_pairs():
    labels, predicted = np.array([0, 0, 0, 1, 2, 2]), np.array([1, 1, 0, 1, 0, 0])
    assert confused_pairs(labels, predicted, 3) == [[0, 1, 2], [2, 0, 2]]


def test_a_row_takes_about_two_bytes():
    """ImageNet-LT: 20 rows of each of 1,000 classes, here with random intervals, which compress worst."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(1000), 20)
    low = rng.uniform(-1, 2, 20_000)
    curve = ExactCurve("tau", low, low + rng.exponential(1, 20_000), labels, shot_groups(np.arange(1000)), 1000)
    found = changes(curve, np.linspace(0, 2, 2001))
    size = len(safe_json([packed(np.diff(found.position)), packed(found.amount), packed(found.of_class)]))
    assert size < 6 * 20_000


# -- the file ----------------------------------------------------------------------------------------------------


def test_no_text_breaks_out_of_the_file(report):
    text = report.path.read_text()
    assert "<img" not in text
    assert "<b>" not in text
    assert "&lt;b&gt;Title&lt;/b&gt; &amp; more" in text
    assert text.count("<script") == text.count("</script>") == 2
    assert numbers_of(report.path)["classes"]["names"] == NAMES


def test_the_file_needs_no_network(report):
    assert set(re.findall(r"https?://[^\s\"'<>)]+", report.path.read_text())) == {"http://www.w3.org/2000/svg"}


def test_failures_leave_what_was_there(report, tmp_path):
    with pytest.raises(UsageError, match="outcomes= is empty"):
        write_report(report.experiment, [], tmp_path / "report.html")
    with pytest.raises(DataError, match="cannot be written, it is a folder"):
        write_report(report.experiment, [report.outcomes["ncm"]], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_training_counts_and_features(tmp_path):
    parts = {}
    for split in ("val", "test"):
        full = make_split(split)
        parts[split] = ltpost.FeatureSet(None, full.labels, logits=np.asarray(full.logits), split=split)
    experiment = ltpost.Experiment(**parts)
    path = write_report(experiment, [experiment.run("eigenprior")], tmp_path / "report.html")
    numbers = numbers_of(path)
    assert numbers["classes"]["counts"] is None
    assert "class_counts" in numbers["heads"]["joint"]["diagnosis"]["left_out"]["all"]
    assert len(numbers["heads"]["joint"]["pairs"]) > 0


def test_reliability_is_that_of_the_calibrated_head():
    experiment = ltpost.Experiment(val=make_split("val"), test=make_split("test"), calibration="temperature")
    outcome = experiment.run("pc-softmax")
    numbers = content(experiment, [outcome], "")["heads"]["pc-softmax"]["reliability"]
    assert numbers["fitted"]
    assert numbers["ece"] == outcome.results[1].more["calibration"]["ece"]
    assert sum(numbers["share"]) == pytest.approx(1, abs=1e-3)


def test_large_reports_leave_out_pictures_of_the_diagnostics(report, monkeypatch):
    monkeypatch.setattr("ltpost.page.content._MOST_SERIES", 5)
    numbers = content(report.experiment, [report.outcomes["tnorm"]], "")
    findings = numbers["heads"]["tnorm"]["diagnosis"]["findings"]
    assert findings["margins"]["series"] == {}
    assert findings["margins"]["rows"]
    assert findings["norms"]["series"]


def test_the_command(at_home):
    words = ["report", "--methods", "tnorm,experts", "--out", "my.html", "--title", "Mine"]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.startswith(
        "not run: mean, balpoe, ace, mix-experts, early-exit; features does not hold several"
    )
    assert result.stdout.endswith("report: my.html\n")
    assert list(numbers_of(at_home / "my.html")["curves"]) == ["tnorm"]


# -- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser):
    """Open a page; at the end no error must have been said, and nothing but the file loaded."""
    said, loaded, contexts = [], [], []

    def opened(path, width=1000, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: loaded.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("main[data-ready]", timeout=20_000)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert all(url.startswith(("file:", "blob:")) for url in loaded), loaded


def tiles(page):
    return [page.inner_text(f"#tile-{name}") for name in FIGURES]


def move(page, position):
    page.eval_on_selector(
        "#value", "(input, to) => { input.value = to; input.dispatchEvent(new Event('input')); }", str(position)
    )


def cells(page, table):
    """Rows of a table by its name, as texts."""
    return page.eval_on_selector_all(
        f'table[aria-label="{table}"] tbody tr', "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )


@needs_browser
def test_the_slider_shows_what_the_library_says(report, open_page):
    page = open_page(report.path)
    page.click("#slider-classes summary")
    for method in ("tnorm", "la", "lda"):
        page.select_option("#method select", method)
        outcome = report.outcomes[method]
        values, curve = slider_values(outcome), outcome.curve
        assert int(page.get_attribute("#value", "max")) == len(values) - 1
        for position in (int(np.searchsorted(values, outcome.best.value)), 0, len(values) // 3, len(values) - 1):
            move(page, position)
            (figures,) = curve.at([values[position]])
            assert tiles(page) == [percent(getattr(figures, name)) for name in FIGURES]
            assert page.inner_text("#value-text").endswith(f"= {float(f'{values[position]:.4g}'):g}")
            right = np.bincount(curve.labels[curve.correct(values[position])], minlength=10)
            name = page.eval_on_selector("#slider-classes table", "table => table.getAttribute('aria-label')")
            assert [row[4:6] for row in cells(page, name)] == [[str(hits), percent(hits / 30)] for hits in right]
    assert len({tuple(tiles(page)) for position in (0, 3) if move(page, position) is None}) == 2  # it moves


@needs_browser
def test_the_slider_moves_with_the_keys(report, open_page):
    page = open_page(report.path)
    before = page.inner_text("#value-text")
    page.focus("#value")
    page.keyboard.press("Home")
    assert page.inner_text("#value-text") == "τ = 0"
    page.click("text=chosen:")
    assert page.inner_text("#value-text") == before


@needs_browser
def test_the_tables_hold_the_figures_of_the_report(report, open_page):
    page = open_page(report.path)
    shown = cells(page, "all methods on test")
    results = [report.experiment.joint_results[0], *(outcome.results[1] for outcome in report.outcomes.values())]
    assert [row[0] for row in shown] == ["joint", "τ-norm", "LA", "NCM", "LDA"]
    for row, result in zip(shown, results, strict=True):
        assert result.split == "test"
        assert [cell.split()[0] for cell in row[1:6]] == [percent(getattr(result.figures, name)) for name in FIGURES]
        low, high = result.intervals["all"]
        value = result.figures.all
        assert row[4].endswith(f"±{100 * max(high - value, value - low):.1f}")
    page.click('table[aria-label="all methods on test"] >> text=Few')
    few = [float(row[3].split()[0]) for row in cells(page, "all methods on test")]
    assert few == sorted(few, reverse=True)


@needs_browser
def test_classes_are_filtered_sorted_and_never_parsed(report, open_page):
    page = open_page(report.path)
    result = report.outcomes["tnorm"].results[1]
    shown = cells(page, "every class")
    assert [row[0] for row in shown] == NAMES
    assert [row[5] for row in shown] == [percent(value) for value in result.per_class]
    page.fill('input[aria-label="filter: every class"]', "</SCRIPT>")
    assert [row[0] for row in cells(page, "every class")] == NAMES[:1]
    page.fill('input[aria-label="filter: every class"]', "")
    page.select_option("#classes select", "few")
    page.click('table[aria-label="every class"] >> text=Training')
    assert [int(row[1]) for row in cells(page, "every class")] == [19, 8, 3]
    assert page.evaluate("window.attacked") is None
    assert page.query_selector("img") is None
    assert page.title() == "<b>Title</b> & more"


@needs_browser
def test_every_section_is_there_for_every_method(report, open_page):
    page = open_page(report.path)
    for method in METHODS:
        page.select_option("#method select", method)
        for name in ("pareto", "counts", "reliability"):
            assert page.query_selector(f"#{name} svg path.dots") is not None, (method, name)
        assert page.inner_text("#confusion h3 >> nth=1") == ltpost.methods.label_of(method)
        page.eval_on_selector_all("#diagnostics details", "all => all.forEach(one => { one.open = true; })")
        assert report.outcomes[method].signature in page.inner_text("#notes")
    page.wait_for_selector("#diagnostics svg path.dots")
    assert "ECE" in page.inner_text("#reliability")
    page.select_option("#method select", "ncm")
    assert "NCM has no value to choose along" in page.inner_text("#slider")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone(report, open_page, scheme):
    """400 pixels: the page itself does not scroll sideways, texts do not shrink, and dark mode is dark."""
    page = open_page(report.path, 400, scheme)
    page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    sizes = "all => Math.min(...all.map(one => parseFloat(getComputedStyle(one).fontSize)))"
    assert page.eval_on_selector_all("svg text, td, p, button", sizes) >= 12
    assert page.eval_on_selector("#value", "input => input.getBoundingClientRect().width") > 200
    red, green, blue = (
        int(part) for part in re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    )
    assert (max(red, green, blue) < 60) == (scheme == "dark")


@needs_browser
def test_no_training_counts_and_one_method_without_a_choice(open_page, tmp_path):
    parts = {split: make_split(split) for split in ("val", "test")}
    for part in parts.values():
        part.class_counts = None
    experiment = ltpost.Experiment(**parts)
    outcomes = [experiment.run("tnorm")]
    page = open_page(write_report(experiment, outcomes, tmp_path / "report.html"))
    (figures,) = outcomes[0].curve.at([outcomes[0].best.value])
    assert tiles(page) == ["–", "–", "–", percent(figures.all), percent(figures.top1)]
    assert "not known" in page.inner_text("#counts")
