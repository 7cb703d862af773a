"""Imports go one way: between the packages, between the rooms of a package, and between files."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from rank_xmodal import scorers

ROOT = Path(__file__).parents[1]
PACKAGES = ("rank_xmodal", "data_prep", "experiments")
# From the ground up: a room knows those before it, and none behind it. A file in the package itself is a room.
ROOMS = {
    "rank_xmodal": (
        "errors", "files", "devices", "parallel", "torchvision_ops", "losses", "metrics", "data", "retrieval",
        "evaluation", "lists", "training", "scorers", "use",
    ),
    "experiments": ("results", "export", "checks", "report", "use", "serve", "run", "study", "cli"),
}  # fmt: skip


def modules():
    """Return every module of the packages by its name."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def imported(name, at_import_only=False):
    """Return the modules of ours that a module imports, whether at once or inside a function."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found = set()
    nodes = ast.walk(tree)
    if at_import_only:
        nodes = (node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    # The package itself loads its names when they are first asked for: importing it is importing nothing.
    return {other for other in found if other in MODULES and other != name} - set(PACKAGES)


def room(name):
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_imported_one_way(package):
    below = PACKAGES[: PACKAGES.index(package) + 1]
    for name in MODULES:
        if name.split(".")[0] == package:
            wrong = {other for other in imported(name) if other.split(".")[0] not in below}
            assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_are_imported_one_way(package):
    order = ROOMS[package]
    found = {room(name) for name in MODULES if name.split(".")[0] == package} - {""}
    assert found == set(order), "a new room needs its place in the order"
    for name in MODULES:
        if name.split(".")[0] != package or not room(name):
            continue
        known = order[: order.index(room(name)) + 1]
        wrong = {
            other for other in imported(name) if other.split(".")[0] == package and room(other) not in (*known, "")
        }
        assert not wrong, f"{name} imports {wrong}, of a room behind its own"


def test_there_is_no_circle_of_files():
    graph = {name: imported(name, at_import_only=True) for name in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def lines_of(function):
    """Return how many lines of code a function has; its docstring is none."""
    body = function.body
    told = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - (body[0].end_lineno - body[0].lineno + 1 if told else 0)


def functions(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_and_files_stay_small(package):
    for name, path in MODULES.items():
        if name.split(".")[0] == package:
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, name
            long = {f.name: lines_of(f) for f in functions(path) if lines_of(f) > 80}
            assert not long, f"{name}: {long}"


def test_two_scorers_of_the_library_alone_look_at_images():
    """One lets transformers decode them, one sends their bytes; to all others an image is a row of numbers."""
    readers = {"rank_xmodal.scorers.blip_itm", "rank_xmodal.scorers.remote"}
    for name, path in MODULES.items():
        if name.split(".")[0] == "rank_xmodal":
            text = path.read_text(encoding="utf-8")
            assert "PIL" not in text, name
            assert name in readers or not re.search(r"batch\.content|load_image|image_processor|data:image", text), name
    assert {scorers.class_of(name).__module__ for name in scorers.names() if scorers.get(name).needs.content} == readers


def test_the_page_on_architecture_names_every_room():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for rooms in ROOMS.values():
        assert all(f"`{room}`" in text for room in rooms)
