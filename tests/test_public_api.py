import inspect
import subprocess
import sys

import ltpost


def test_all_names_are_there_and_described():
    for name in ltpost.__all__:
        value = getattr(ltpost, name)
        if name != "__version__":
            assert inspect.getdoc(value), name


def test_importing_ltpost_is_light():
    code = "import sys, ltpost; sys.exit(bool({'torch', 'pandas', 'scipy', 'matplotlib', 'click'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_names_are_attribute_errors():
    assert not hasattr(ltpost, "svm")


def test_the_notebook_lines_of_the_design(folder):
    val, test = ltpost.load(folder / "val.h5"), ltpost.load(folder / "test.h5")
    family = ltpost.tau_norm(val.head)
    curve = family.curve(val)
    head = family.head(curve.best().tau)
    result = ltpost.evaluate(head, test)
    assert all("<table" in shown._repr_html_() for shown in (result, val, curve, ltpost.Experiment(folder).run("la")))
    assert "Many" in str(result)
    assert result.to_frame().shape[0] == 1
    assert result.per_class.shape == (10,)


def test_the_core_never_imports_extract():
    for path in sorted(__import__("pathlib").Path(ltpost.__file__).parent.rglob("*.py")):
        if path.name not in ("demo.py", "__init__.py"):  # they load it by name when it is asked for
            assert "ltpost.extract" not in path.read_text().replace("``ltpost.extract``", "").replace(
                "ltpost.extract)", ""
            ), path
