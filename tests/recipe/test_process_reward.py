"""`credit.process_reward`: a name, or a section of the name and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from empg.errors import RecipeError
from empg.recipe import dump_recipe, load_recipe, parse_recipe
from empg.recipe.process_reward import FunctionReward, JudgeReward, ProgressReward

JUDGE = {"name": "judge", "url": "https://localhost/v1", "model": "judge-1"}


def resolved(given: Any) -> Any:
    return parse_recipe({"credit": {"process_reward": given}}).credit


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, None),
        ("progress", {"name": "progress", "weight": 0.1, "gamma": 1.0}),
        ({"name": "progress", "weight": 1}, {"name": "progress", "weight": 1.0, "gamma": 1.0}),
        ("mine:f", {"name": "mine:f", "weight": 1.0}),
        ({"name": "mine:f", "weight": 0.5}, {"name": "mine:f", "weight": 0.5}),
        (
            JUDGE,
            {
                **JUDGE,
                "weight": 0.1,
                "key_variable": "JUDGE_API_KEY",
                "max_tokens": 1_024,
                "parallel": 8,
                "cache": None,
                "per_second": None,
                "timeout": None,
                "attempts": None,
            },
        ),
    ],
)
def test_the_resolved_recipe_has_all_options(given: Any, wanted: Any) -> None:
    assert resolved(given).process_reward == wanted


@pytest.mark.parametrize(
    ("given", "model"), [("mine:f", FunctionReward), ("progress", ProgressReward), (JUDGE, JudgeReward)]
)
def test_the_options_come_as_their_model(given: Any, model: type) -> None:
    assert type(resolved(given).step_reward) is model
    assert resolved(None).step_reward is None


def test_a_resolved_recipe_loads_as_the_same_recipe(tmp_path: Path) -> None:
    for given in ("progress", "mine:f", {**JUDGE, "cache": "ratings"}):
        recipe = parse_recipe({"credit": {"process_reward": given}})
        (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(tmp_path / "recipe.yaml") == recipe
        weighted = load_recipe(tmp_path / "recipe.yaml", ["credit.process_reward.weight=0.25"])
        assert weighted.credit.step_reward is not None
        assert weighted.credit.step_reward.weight == 0.25


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("progrez", "credit.process_reward: expected progress, judge or package.module:function, or a section with one "
         "as its name, got 'progrez'; did you mean 'progress'?"),
        ({"name": "x", "weight": 1}, "credit.process_reward: expected progress, judge or package.module:function, or a "
         "section with one as its name, got {'name': 'x', 'weight': 1}"),
        (3, "credit.process_reward: expected progress, judge or package.module:function, or a section with one as its "
         "name, got 3"),
        ({"weight": 1}, "credit.process_reward: expected progress, judge or package.module:function, or a section with "
         "one as its name, got {'weight': 1}"),
        ({"name": "progress", "gama": 1}, "unknown key 'credit.process_reward.gama'; did you mean 'gamma'?"),
        ({"name": "progress", "gamma": 2}, "credit.process_reward.gamma: expected at most "
         "1, got 2"),
        ({"name": "mine:f", "weight": -1}, "credit.process_reward.weight: expected at least 0, "
         "got -1"),
        ({"name": "judge", "url": "https://localhost/v1"}, "credit.process_reward.model: is required, but not given"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(given: Any, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_recipe({"credit": {"process_reward": given}})
    assert str(error.value) == f"recipe: {message}"
