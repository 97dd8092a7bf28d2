"""The architecture as a contract: who may import whom. Data flows one way, and no import runs upward."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from empg.run.warm_start_cache import APART
from tests import ROOT

SOURCE = ROOT / "src" / "empg"

# Room (folder or top-level module): the rooms it may import, from the bottom of the house to the top.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "credit": set(),
    "plain_text": set(),
    "system": {"errors"},
    "yaml_text": {"errors"},
    "validation": {"errors", "yaml_text"},
    "web": {"errors", "validation"},
    "environments": {"errors", "system", "validation", "web"},
    "presets": set(),
    "recipe": {"errors", "validation", "yaml_text", "presets", "credit", "web", "environments"},
    "agent": {"errors", "environments", "recipe"},
    "policy": {"errors", "recipe", "validation"},
    "rollout": {"errors", "system", "web", "environments", "recipe", "agent", "policy"},
    "record": {"errors", "system", "yaml_text"},
    "learner": {
        "errors", "system", "credit", "web", "environments", "recipe", "agent", "policy", "rollout", "record",
    },
    "report": {"errors", "plain_text", "web", "record"},
    "play": {"errors", "plain_text", "environments", "yaml_text"},
    "run": {
        "errors", "plain_text", "yaml_text", "system", "credit", "environments", "recipe", "agent", "policy", "rollout",
        "learner", "record", "report",
    },
    "engines": {
        "errors", "system", "validation", "credit", "environments", "recipe", "agent", "policy", "rollout", "learner",
        "record", "run",
    },
    "cli": {
        "errors", "plain_text", "environments", "recipe", "presets", "record", "report", "play", "run", "study",
        "engines",
    },
    "study": {"errors", "plain_text", "system", "validation", "yaml_text", "recipe", "record", "report", "run"},
    "extras": set(),
    "__main__": {"extras", "cli"},
}  # fmt: skip
# Packages that only some rooms, or single modules, may import.
ENCODER = "environments.deepsearch.retrieval.encoder"  # a sentence-embedding model, loaded only for dense retrieval
ONLY = {
    "torch": ("credit", "policy", "rollout", "learner", "run", "system", "engines", ENCODER),
    "transformers": ("policy", "run", "engines", ENCODER),
    "trl": ("engines.trl",),
    "verl": ("engines.verl",),
}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name; a package is its `__init__`."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, also inside functions and for type checking."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


MODULES = modules()


def imported_modules(name: str) -> set[str]:
    """The modules of this package that a module imports: `a.b.C` is the module `a.b`."""
    found = set()
    for full in imports(MODULES[name]):
        while full and full not in MODULES:
            full = full.rpartition(".")[0]
        if full:
            found.add(full)
    return found - {name, "empg"}


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "empg"])
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    allowed = MAY_IMPORT[room(module)] | {room(module)}
    assert {room(imported) for imported in imported_modules(module)} <= allowed


def test_the_rooms_have_no_circle() -> None:
    tuple(TopologicalSorter(MAY_IMPORT).static_order())


def test_the_modules_have_no_circle() -> None:
    graph = {name: {m for m in imported_modules(name) if m not in packages()} for name in MODULES}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_warm_start_computes_with_no_part_that_its_cache_leaves_out() -> None:
    """Of `credit` it has the names and options of rules, which a recipe checks: those in its key have none of them."""
    starts = {"empg.learner.warm_start", "empg.run.build"} | {n for n in MODULES if n.startswith("empg.environments.")}
    reached: set[str] = set()
    while starts:
        reached |= starts
        starts = {found for name in starts for found in imported_modules(name)} - reached
    users = {room(n) for n in reached if {room(found) for found in imported_modules(n)} & APART} - APART
    assert users == {"recipe"}
    assert {room(name) for name in reached} & APART == {"credit"}


def packages() -> set[str]:
    """Modules that are an `__init__`: they only collect names, from modules that never import them."""
    return {name for name, path in MODULES.items() if path.name == "__init__.py"}


@pytest.mark.parametrize("package", ONLY)
def test_a_heavy_package_is_imported_only_where_it_belongs(package: str) -> None:
    users = {name for name, path in MODULES.items() if any(full.split(".")[0] == package for full in imports(path))}
    allowed = tuple(f"empg.{place}" for place in ONLY[package])
    assert {name for name in users if not name.startswith(allowed)} == set()


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
    long = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in functions}
    assert {name: lines for name, lines in long.items() if lines > 60} == {}


def test_the_tests_mirror_the_source() -> None:
    """A folder of tests has a folder of the package; a test module at the top has a module, or is about all of it."""
    rooms = {p.relative_to(SOURCE).as_posix() for p in SOURCE.rglob("*") if p.is_dir() and any(p.glob("*.py"))}
    tested = {p.relative_to(ROOT / "tests").as_posix() for p in (ROOT / "tests").rglob("*") if any(p.glob("test_*.py"))}
    assert tested - rooms - {".", "examples", "gpu", "packaging"} == set()
