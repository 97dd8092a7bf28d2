"""The tools that write the locks and compare an environment with them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
LOCK = """# a comment
numpy==2.2.6 ; python_full_version < '3.11' \\
    --hash=sha256:00
numpy==2.4.6 ; python_full_version >= '3.11' \\
    --hash=sha256:01
PyYAML==6.0.4 \\
    --hash=sha256:02
"""


@pytest.fixture
def changes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("changes", ROOT / "requirements" / "changes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("python", "numpy"), [("3.10.13", "2.2.6"), ("3.12.1", "2.4.6")])
def test_the_locked_versions_are_those_of_the_interpreter(changes: ModuleType, python: str, numpy: str) -> None:
    assert changes.locked_versions(LOCK, {"python_full_version": python}) == {"numpy": numpy, "pyyaml": "6.0.4"}


def test_the_table_names_what_differs(changes: ModuleType) -> None:
    locked = {"numpy": "2.2.6", "rich": "15.0", "six": "1.17"}
    lines = changes.table(locked, {"numpy": "2.4.6", "rich": "15.0", "h2": "4"})
    assert [line.split() for line in lines] == [
        ["package", "locked", "installed"],
        ["h2", "-", "4"],
        ["numpy", "2.2.6", "2.4.6"],
        ["six", "1.17", "-"],
    ]


@pytest.mark.parametrize("name", ["dev", "textworld", "trl", "lowest"])
def test_a_lock_has_exact_versions_and_leaves_torch_out(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line[:1].isalnum()]
    assert len(lines) > 50
    assert not [line for line in lines if re.match(r"(torch|triton)=|(nvidia|cuda)-", line)]
    assert not [line for line in lines if not re.match(r"[\w.-]+==\S+ .*\\$", line)]
    assert text.count("--hash=sha256:") >= len(lines)
