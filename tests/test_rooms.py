"""The rooms of the house: modules import in one direction, from the floors below. Read from the sources themselves."""

import ast
import configparser
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ltpost

ROOT = Path(ltpost.__file__).parent

#: from the ground up; a module may import from its own floor and from those below. ``a.*`` are the modules of a folder.
FLOORS = [
    ["errors", "_version", "output", "tables", "plots"],
    ["heads.*"],
    ["data.*"],
    ["scores.*"],
    ["calibration"],
    ["conformal", "rejection"],
    ["diagnostics.*"],
    ["family"],
    ["method", "model_selection", "fit.*"],
    ["turn"],
    ["methods.*"],
    ["report.*", "evaluation", "outcome", "material", "predictions"],
    ["wording", "more_figures"],
    ["experiment"],
    ["comparison", "page.*"],
    ["ladder.*"],
    ["ltpost"],  # the package itself, ltpost/__init__.py
    ["demo", "sklearn"],
    ["cli.*", "__main__"],
]


def module_name(path):
    """``data.load`` of ltpost/data/load.py; ``heads`` of ltpost/heads/__init__.py; ``ltpost`` of ltpost/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or "ltpost"


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported_modules(source, modules):
    """The modules of ltpost that a source text imports, anywhere: at the top, in functions, for type checking only."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            (name,) = node.args
            if isinstance(name, ast.Constant):
                names = [(name.value, None)]
            else:  # f"ltpost.cli.{...}": every module of that folder
                assert isinstance(name, ast.JoinedStr)
                folder = name.values[0].value.removeprefix("ltpost.").removesuffix(".")
                found |= {module for module in modules if module.startswith(f"{folder}.")}
        for module, name in names:
            if module.split(".")[0] == "ltpost":
                inner = module.removeprefix("ltpost").lstrip(".")
                longer = ".".join(part for part in (inner, name) if part)
                found.add(longer if longer in modules else inner or "ltpost")
    return found


IMPORTS = {name: imported_modules(path.read_text(), MODULES) - {name} for name, path in MODULES.items()}


def floor_of(module):
    folder = module.split(".")[0]
    (floor,) = [
        number
        for number, rooms in enumerate(FLOORS)
        for room in rooms
        if room == module or (room == f"{folder}.*" and (ROOT / folder).is_dir())
    ]
    return floor


def core(modules):
    """Without ltpost.extract, which depends on the core, and which the core may only load by name."""
    return {module for module in modules if module.split(".")[0] != "extract"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_its_own_floor_and_below(module):
    above = {other for other in core(IMPORTS[module]) if floor_of(other) > floor_of(module)}
    assert not above, f"{module} imports from above: {sorted(above)}"


def test_every_room_is_on_a_floor():
    rooms = {room for floor in FLOORS for room in floor}
    assert {floor_of(module) for module in MODULES} == set(range(len(FLOORS)))
    for room in rooms:
        assert any(module == room or f"{module.split('.')[0]}.*" == room for module in MODULES), f"{room} is empty"


def test_no_module_imports_itself_by_way_of_others():
    """The table of methods and the list of commands import what they list on demand, by name; those are left out."""
    arrows = {name: core(others) for name, others in IMPORTS.items()}
    for table, folder in (("methods", "methods."), ("cli", "cli.")):
        arrows[table] = {other for other in arrows[table] if not other.startswith(folder)}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_what_is_imported_exists():
    for module, others in IMPORTS.items():
        unknown = core(others) - set(MODULES)
        assert not unknown, (module, unknown)


def test_only_the_demo_and_the_lazy_top_level_name_load_the_extraction():
    users = {name for name, others in IMPORTS.items() if any(other.split(".")[0] == "extract" for other in others)}
    assert users == {"demo", "ltpost"}


#: modules that may import torch when they are imported themselves: they load when something is computed with it
FIT = (
    "combined", "full_batch", "lbfgs", "models", "path", "precision", "projected", "prototypes", "regression",
    "rescaling", "sgd", "solve",
)  # fmt: skip
WITH_TORCH = {"data.tensors", "scores.on_device", "demo", *(f"fit.{name}" for name in FIT)}


def top_level_imports(tree):
    """Names of packages that are imported when the module is."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_who_imports_torch():
    users = {
        module
        for module, path in MODULES.items()
        if "torch" in {name.split(".")[0] for name in top_level_imports(ast.parse(path.read_text()))}
    }
    assert users == WITH_TORCH


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ltpost.data import tensors", {"data.tensors"}),
        ("from ltpost.data.tensors import Matrix", {"data.tensors"}),
        ("import ltpost", {"ltpost"}),
        ("from ltpost import Experiment, methods", {"ltpost", "methods"}),
        ("import ltpost.errors, numpy", {"errors"}),
        ("def f():\n    from ltpost import plots", {"plots"}),
        ("if TYPE_CHECKING:\n    from ltpost.experiment import Experiment", {"experiment"}),
        ("import_module('ltpost.extract')", {"extract"}),
        ("import_module(f'ltpost.scores.{name}')", {"scores.predict", "scores.sweep"}),
    ],
)
def test_imports_are_found_wherever_they_are(source, expected):
    modules = {"data", "data.tensors", "errors", "plots", "experiment", "methods", "scores.predict", "scores.sweep"}
    assert imported_modules(source, modules) == expected


def test_the_wheel_has_every_package():
    config = configparser.ConfigParser()
    top = Path(__file__).parents[1]
    config.read(top / "setup.cfg")
    places = [place for folder in ("ltpost", "extract") for place in (top / folder).rglob("__init__.py")]
    names = [".".join(place.parent.relative_to(top).parts) for place in places]
    packages = {f"ltpost.{name}" if name.startswith("extract") else name for name in names}
    assert set(config["options"]["packages"].split()) == packages
