"""The presets of `algorithm`: what each sets, and which value wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from empg.presets import PRESETS
from empg.recipe import Recipe, dump_recipe, load_recipe, parse_recipe
from empg.recipe.credit import CreditSection, LossSection
from tests import ROOT

DEMO = ROOT / "recipes" / "demo.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def keys(recipe: Recipe) -> tuple[object, ...]:
    credit, loss = recipe.credit, recipe.loss
    return (
        credit.estimator.name, credit.modulation is not None, credit.drop_zero_variance, credit.max_resample,
        credit.overlong_penalty, credit.overlong_ramp, loss.ratio, loss.aggregation, loss.clip_low, loss.clip_high,
    )  # fmt: skip


PLAIN = ("episode_mean", 0.2, 0.2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reinforce", ("reinforce", False, False, 0, 0.0, 0.0, "token", "token_mean", 0.2, 0.2)),
        ("rloo", ("rloo", False, False, 0, 0.0, 0.0, "token", "constant", 0.2, 0.2)),
        ("grpo", ("grpo", False, False, 0, 0.0, 0.0, "token", *PLAIN)),
        ("dr_grpo", ("dr_grpo", False, False, 0, 0.0, 0.0, "token", "constant", 0.2, 0.2)),
        ("dapo", ("grpo", False, True, 3, 0.5, 0.2, "token", "token_mean", 0.2, 0.28)),
        ("gspo", ("grpo", False, False, 0, 0.0, 0.0, "episode", "episode_mean", 3e-4, 4e-4)),
        ("gigpo", ("gigpo", False, False, 0, 0.0, 0.0, "token", *PLAIN)),
        ("ppo", ("gae", False, False, 0, 0.0, 0.0, "token", "token_mean", 0.2, 0.2)),
    ],
)
def test_what_a_preset_sets_with_and_without_the_method(name: str, expected: tuple[object, ...]) -> None:
    assert keys(parse_recipe({"algorithm": name})) == expected
    assert keys(parse_recipe({"algorithm": f"{name}+empg"})) == (expected[0], True, *expected[2:])


def test_all_presets_set_the_same_keys() -> None:
    assert len({tuple(sorted(preset)) for preset in PRESETS.values()}) == 1


def test_a_recipe_overrides_its_preset(tmp_path: Path) -> None:
    path = write(tmp_path, "{algorithm: dapo, credit: {max_resample: 1}, loss: {clip_high: 0.3}}")
    recipe = load_recipe(path, ["credit.modulation={zeta: 0.05}", "loss.clip_low=0.1"])
    assert keys(recipe) == ("grpo", True, True, 1, 0.5, 0.2, "token", "token_mean", 0.1, 0.3)
    gigpo = load_recipe(write(tmp_path, "algorithm: gigpo"), ["credit.advantage.gamma=1"])
    assert gigpo.credit.estimator.options.gamma == 1.0


def test_a_section_that_was_built_in_python_has_its_preset_too() -> None:
    recipe = Recipe(algorithm="dapo", loss=LossSection(clip_high=0.3), credit=CreditSection(max_resample=1))
    assert recipe == parse_recipe({"algorithm": "dapo", "loss": {"clip_high": 0.3}, "credit": {"max_resample": 1}})


def test_an_algorithm_on_the_command_line_overrides_the_file_but_no_other_override() -> None:
    recipe = load_recipe(DEMO, ["loss.clip_high=0.3", "algorithm=dapo", "loss.clip_low=0.1"])
    assert keys(recipe) == ("grpo", False, True, 3, 0.5, 0.2, "token", "token_mean", 0.1, 0.3)
    demo = load_recipe(DEMO)
    assert recipe.credit.invalid_penalty == demo.credit.invalid_penalty  # no preset sets it
    assert recipe.rollout == demo.rollout


def test_a_preset_keeps_the_options_of_a_section_that_it_names_too(tmp_path: Path) -> None:
    path = write(tmp_path, "credit: {advantage: {name: gigpo, gamma: 0.9}, modulation: {name: empg, zeta: 0.05}}")
    same = load_recipe(path, ["algorithm=gigpo+empg"]).credit
    assert same.modulation is not None
    assert (same.modulation.options.zeta, same.estimator.options.gamma) == (0.05, 0.9)
    PRESETS["own"] = {**PRESETS["gigpo"], "credit.advantage": "gigpo"}  # a name alone says the same
    try:
        assert load_recipe(path, ["algorithm=own"]).credit.estimator.options.gamma == 0.9
    finally:
        del PRESETS["own"]
    unnamed = load_recipe(write(tmp_path, "credit: {modulation: {zeta: 0.05}}"), ["algorithm=gigpo+empg"]).credit
    assert unnamed.modulation is not None
    assert unnamed.modulation.options.zeta == 0.05
    reached = load_recipe(path, ["algorithm=grpo", "credit.advantage.name=gigpo", "credit.advantage.gamma=0.9"]).credit
    assert (reached.estimator.name, reached.estimator.options.gamma) == ("gigpo", 0.9)
    other = load_recipe(path, ["algorithm=rloo"]).credit
    assert (other.modulation, other.advantage) == (None, "rloo")


@pytest.mark.parametrize("name", PRESETS)
def test_a_resolved_recipe_is_read_back_unchanged(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(DEMO, [f"algorithm={name}", "loss.kl_coef=0.01"])
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


def test_without_an_algorithm_nothing_is_preset() -> None:
    assert parse_recipe({}).algorithm is None
    assert load_recipe(DEMO, ["algorithm=null"]) == load_recipe(DEMO)
