"""A study file: what it asks for, and one line for everything that is wrong with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from empg.errors import UserError
from empg.study.plan import RunKey, load_study, plan
from tests import ROOT

STUDY: dict[str, Any] = {
    "name": "mini",
    "recipes": ["demo"],
    "base": "grpo",
    "variants": {"grpo": ["credit.modulation=null"], "empg": []},
    "seeds": [0, 1],
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return path


def test_the_runs_come_seed_by_seed(tmp_path: Path) -> None:
    keys = load_study(write(tmp_path)).keys
    assert [key.name for key in keys] == ["demo-grpo-s0", "demo-empg-s0", "demo-grpo-s1", "demo-empg-s1"]


def test_a_run_has_the_overrides_of_the_study_then_of_its_variant(tmp_path: Path) -> None:
    changes = {"overrides": ["iterations=3", "workers=1"], "variants": {"grpo": ["iterations=4"]}, "seeds": [7]}
    file = write(tmp_path, splits=["valid_seen"], tasks=5, **changes)
    [run] = plan(load_study(file), file)
    assert run.key == RunKey("demo", "grpo", 7)
    assert (run.recipe.iterations, run.recipe.workers, run.recipe.seed, run.recipe.name) == (4, 1, 7, "demo-grpo-s7")
    assert (run.recipe.evaluation.splits, run.recipe.evaluation.episodes) == (["valid_seen"], 5)
    assert run.arguments[:4] == ("demo", "iterations=3", "workers=1", "iterations=4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, "unknown key 'seed'; did you mean 'seeds'?"),
        ({"base": "emgp"}, "base: expected one of grpo, empg, got 'emgp'; did you mean 'empg'?"),
        ({"control": "centred"}, "control: expected one of grpo, empg, got 'centred'"),
        ({"control": "grpo"}, "control: 'grpo' is the base already; name another variant, or none"),
        ({"seeds": [1, 1]}, "seeds: 1 occurs twice; remove one"),
        ({"splits": ["a", "a"]}, "splits: 'a' occurs twice; remove one"),
        ({"recipes": ["demo", "other/demo.yaml"]}, "recipes: 'demo' occurs twice; remove or rename one"),
        ({"seeds": []}, "seeds: expected 1 or more values, got []"),
        ({"name": "a/b"},
         "name: 'a/b' is not a valid name: expected a letter or digit, and up to 59 more, dots or underscores"),
        ({"variants": {"grpo": [], "a b": []}},
         "variants: 'a b' is not a valid name: expected a letter or digit, and up to 59 more, dots or underscores"),
        ({"overrides": ["seed=3"]}, "override 'seed=3': seed is set by the study; remove it"),
        ({"overrides": ["evaluation={splits: [a]}"]},
         "override 'evaluation={splits: [a]}': evaluation.splits is set by the study; remove it"),
        ({"seeds": [True]}, "seeds.0: expected an integer, got True"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_that_names_the_file(tmp_path: Path, changes: Any, message: str) -> None:
    file = write(tmp_path, **changes)
    with pytest.raises(UserError) as error:
        load_study(file)
    assert str(error.value) == f"{file}: {message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {"grpo": ["credit.modulationg=1"]}}, "recipe demo, variant grpo: recipes/demo.yaml: unknown key"),
        (
            {"variants": {"grpo": ["credit.modulation"]}},
            "recipe demo, variant grpo: wrong override: expected key.path=value",
        ),
        ({"recipes": ["deom"]}, "recipe deom, variant grpo: recipe 'deom' not found"),
        ({"seeds": [-1]}, "recipe demo, variant grpo: recipes/demo.yaml: seed: expected at least 0"),
    ],
)
def test_mistakes_in_a_recipe_name_the_variant(tmp_path: Path, changes: Any, message: str) -> None:
    file = write(tmp_path, **changes)
    with pytest.raises(UserError) as error:
        plan(load_study(file), file)
    text = str(error.value).replace(f"{ROOT}/", "")
    assert text.startswith(f"{file}: {message}")
    assert "\n" not in text


@pytest.mark.parametrize("file", sorted((ROOT / "recipes" / "studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_studies_are_valid(file: Path) -> None:
    study = load_study(file)
    assert study.name == file.stem
    assert len(plan(study, file)) == len(study.seeds) * len(study.recipes) * len(study.variants)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("iterations=20", "iterations is 30 in variant grpo and 20 in empg, which cannot be compared"),
        ("evaluation.temperature=0.5", "evaluation.temperature is 1.0 in variant grpo and 0.5 in empg"),
        ("evaluation.decoding=[greedy]", "evaluation.decoding is ['sampled'] in variant grpo and ['greedy'] in empg"),
    ],
)
def test_variants_that_could_not_be_compared_are_refused_before_training(
    tmp_path: Path, override: str, message: str
) -> None:
    file = write(tmp_path, variants={"grpo": [], "empg": [override]}, overrides=[])
    with pytest.raises(UserError, match=re.escape(message)):
        plan(load_study(file), file)
    both = write(tmp_path, variants={"grpo": [], "empg": ["evaluation.every=10"]}, overrides=[override])
    assert plan(load_study(both), both)


def test_a_recipe_is_not_a_study(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("name: mine\nseed: 1\npolicy: {model: tiny}\n")
    with pytest.raises(UserError, match=r"recipe\.yaml is a recipe, not a study: train it with empg train "):
        load_study(file)
