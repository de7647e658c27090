"""The rooms of extract/: a module imports only what lies below it, and so do folders."""

import ast
import configparser
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXTRACT = ROOT / "extract"


def imports() -> dict[str, set[str]]:
    """Every module to the modules of extract/ that it imports, at the top or inside functions."""
    arrows: dict[str, set[str]] = {}
    for file in EXTRACT.rglob("*.py"):
        module = ".".join(file.with_suffix("").relative_to(EXTRACT).parts)
        nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        found = {node.module.removeprefix("ltpost.extract.") for node in nodes if node.module is not None}
        prefixed = {node.module for node in nodes if (node.module or "").startswith("ltpost.extract.")}
        arrows[module] = {name for name in found if f"ltpost.extract.{name}" in prefixed}
    return arrows


def between_rooms(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for module, targets in arrows.items():
        room = module.split(".")[0]
        rooms.setdefault(room, set()).update(target.split(".")[0] for target in targets)
        rooms[room].discard(room)
    return rooms


def test_no_circles():
    arrows = imports()
    assert len(arrows) > 30
    rooms = between_rooms(arrows)
    assert {"pixels", "messages"} <= rooms["data"]
    for graph in (arrows, rooms):
        assert list(graphlib.TopologicalSorter(graph).static_order())


def test_a_circle_would_be_found():
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter(between_rooms({"a.x": {"b.y"}, "b.z": {"a.w"}})).static_order())


def test_every_room_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = {name for name in setup["options"]["packages"].split() if name.startswith("ltpost.extract.")}
    assert listed == {f"ltpost.extract.{file.parent.name}" for file in EXTRACT.glob("*/__init__.py")}


def test_files_are_short():
    long = {file.name: lines for file in EXTRACT.rglob("*.py") if (lines := len(file.read_text().splitlines())) > 310}
    assert not long
