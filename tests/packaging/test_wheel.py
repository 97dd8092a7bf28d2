"""The wheel in new environments, away from the repository."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

SMALL = [
    "iterations=2",
    "workers=1",
    "environment.max_steps=4",
    "warm_start.episodes=16",
    "warm_start.episodes_per_step=8",
    "rollout.groups=2",
    "rollout.group_size=3",
    "rollout.max_turn_tokens=24",
    "rollout.max_episode_tokens=512",
    "rollout.slots=4",
    "evaluation.episodes=4",
    "policy.device=cpu",
    "policy.tiny.hidden_size=32",
    "policy.tiny.layers=2",
    "policy.tiny.vocab_size=400",
    "policy.tiny.intermediate_size=64",
]


def test_it_holds_the_package_and_the_recipes(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"empg/recipes/{recipe.name}" for recipe in (ROOT / "recipes").glob("*.yaml")} <= names
    assert {"empg/py.typed", "empg/report/assets/page.html.j2", "empg/__main__.py"} <= names
    assert {name.split("/")[0] for name in names} == {"empg", f"{wheel.name.split('-py3')[0]}.dist-info"}


def test_the_method_needs_torch_alone(wheel: Path, install: Callable[..., Path], run: Any, tmp_path: Path) -> None:
    programs = install(str(wheel))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [(block, printed)] = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL)
    assert run([programs / "python", "-c", block], tmp_path) == printed
    assert "No module named 'numpy'" in run([programs / "python", "-c", "import numpy"], tmp_path, code=1)
    line = run([programs / "empg", "train", "demo"], tmp_path, code=1)
    assert line == "empg needs the extra 'train': pip install \"empg[train]\"\n"


def test_everything_trains_away_from_the_repository(
    wheel: Path, install: Callable[..., Path], run: Any, tmp_path: Path
) -> None:
    programs = install(f"empg[all] @ {wheel.as_uri()}")
    out = run([programs / "empg", "train", "demo", *SMALL, "--run", "here"], tmp_path)
    assert "iteration 2/2" in out
    assert (tmp_path / "here" / "report.html").is_file()
