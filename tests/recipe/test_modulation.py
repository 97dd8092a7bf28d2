"""`credit.modulation`: a rule and its options, as a section, as a name, and by overrides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from empg.credit import MODULATIONS, Modulation, ModulationInputs, StepCredit
from empg.errors import RecipeError
from empg.recipe import Recipe, dump_recipe, load_recipe, override_recipe, parse_recipe
from empg.recipe.modulation import require_turn_entropy
from empg.validation import OptionError

Load = Callable[..., dict[str, Any] | None]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a recipe with this value of the key and these overrides; return the resolved section."""

    def load(modulation: Any, *overrides: str) -> dict[str, Any] | None:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"credit": {"modulation": modulation}}), encoding="utf-8")
        found = load_recipe(path, overrides).credit.modulation
        return None if found is None else found.model_dump()

    return load


EMPG = {"name": "empg", "k": 1.0, "k_future": 1.0, "zeta": 0.1, "eps": 1e-8}


def test_the_default_is_empg_with_its_constants_in_full() -> None:
    assert yaml.safe_load(dump_recipe(Recipe()))["credit"]["modulation"] == EMPG


@pytest.mark.parametrize("name", MODULATIONS)
def test_a_name_alone_means_the_defaults_of_the_rule(load: Load, name: str) -> None:
    wanted = {"name": name, **asdict(MODULATIONS[name].options())}
    assert load(name) == load({"name": name}) == load({}, f"credit.modulation={name}") == wanted
    assert list(wanted) == list(load(name) or ())


@pytest.mark.parametrize("none", [None, "none", {"name": None}, {"name": "none"}])
def test_null_and_none_are_the_plain_base_algorithm(load: Load, none: Any) -> None:
    assert load(none) is None


def test_the_section_gives_the_options_as_the_dataclass_of_the_rule() -> None:
    section = parse_recipe({"credit": {"modulation": {"name": "clarity", "zeta": "5e-2"}}}).credit.modulation
    assert section is not None
    assert section.options == MODULATIONS["clarity"].options(zeta=0.05)


def test_a_resolved_recipe_loads_as_the_same_recipe(tmp_path: Path) -> None:
    for name in MODULATIONS:
        recipe = parse_recipe({"credit": {"modulation": name}})
        (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("modulation", "message"),
    [
        ("cantred", f"credit.modulation.name: expected one of {', '.join(MODULATIONS)} or null, got 'cantred'; did you "
         "mean 'centred'?"),
        ({"name": 3}, f"credit.modulation.name: expected one of {', '.join(MODULATIONS)} or null, got 3"),
        ({"zetta": 1}, "unknown key 'credit.modulation.zetta'; did you mean 'zeta'?"),
        ({"name": "scaling", "zeta": 1}, "unknown key 'credit.modulation.zeta'; valid keys: name, k, eps"),
        ({"name": "none", "zeta": 1}, "credit.modulation: name: none takes no options, got zeta"),
        ({"zeta": -1}, "credit.modulation.zeta: expected a number from 0 to 1e+15, got -1.0"),
        ({"zeta": float("inf")}, "credit.modulation.zeta: expected a number from 0 to 1e+15, got inf"),
        ({"eps": 0}, "credit.modulation.eps: expected a number from 1e-30 to 1e+15, got 0.0"),
        ({"k": "x"}, "credit.modulation.k: expected a number, "
         "got 'x'"),
        ({"name": "empg_variant", "clarity": "lost"}, "credit.modulation.clarity: expected 'bonus', 'won', "
         "'won_end' or 'potential', got 'lost'"),
        ({"k": True}, "credit.modulation.k: expected a number, got True"),  # to pydantic, true is 1
        (3, "credit.modulation: expected a mapping, got 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(modulation: Any, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_recipe({"credit": {"modulation": modulation}})
    assert str(error.value) == f"recipe: {message}"


class TestAnotherRuleByOverride:
    """The file's options of its own rule give way; what both rules have stays; an override is never dropped."""

    @pytest.mark.parametrize(
        ("overrides", "wanted"),
        [
            (["credit.modulation.name=centred"], {"name": "centred"}),
            (["credit.modulation.name=scaling"], {"name": "scaling", "k": 2.0, "eps": 1e-8}),
            (["credit.modulation=scaling"], {"name": "scaling", "k": 1.0, "eps": 1e-8}),  # replaces the section
            (
                ["credit.modulation.name=clarity", "credit.modulation.zeta=0.05"],
                {"name": "clarity", "k_future": 1.0, "zeta": 0.05, "eps": 1e-8},
            ),
            (["credit.modulation.name=none"], None),
            (["credit.modulation.name=centred", "credit.modulation.name=empg"], {**EMPG, "k": 2.0, "zeta": 0.3}),
        ],
    )
    def test_options_of_the_file(self, load: Load, overrides: Sequence[str], wanted: dict[str, Any] | None) -> None:
        assert load({"name": "empg", "k": 2.0, "zeta": 0.3}, *overrides) == wanted

    @pytest.mark.parametrize("reverse", [False, True])
    def test_an_option_that_an_override_sets_must_fit_the_rule(self, load: Load, reverse: bool) -> None:
        overrides = ["credit.modulation.name=scaling", "credit.modulation.zeta=0.05"]
        with pytest.raises(RecipeError, match=r"unknown key 'credit\.modulation\.zeta'; valid keys: name, k, eps"):
            load({"zeta": 0.3}, *(reversed(overrides) if reverse else overrides))

    @pytest.mark.parametrize(
        "override",
        ["credit.modulation={name: scaling, zeta: 0.05}", "credit={modulation: {name: scaling, zeta: 0.05}}"],
    )
    def test_so_must_those_of_a_section_that_an_override_gives(self, load: Load, override: str) -> None:
        with pytest.raises(RecipeError, match=r"unknown key 'credit\.modulation\.zeta'; valid keys: name, k, eps"):
            load({"zeta": 0.3}, override)

    @pytest.mark.parametrize("none", [None, "none"])
    def test_an_option_does_not_switch_on_a_rule_that_the_recipe_has_switched_off(self, load: Load, none: Any) -> None:
        """A sweep of zeta over a plain baseline would else train EMPG under its name."""
        with pytest.raises(RecipeError, match=r"credit\.modulation: name: none takes no options, got zeta"):
            load(none, "credit.modulation.zeta=0.05")
        assert load(none, "credit.modulation.zeta=0.05", "credit.modulation.name=empg") == {**EMPG, "zeta": 0.05}
        assert load(none) is None

    def test_nor_does_it_switch_on_one_over_a_preset_without(self) -> None:
        with pytest.raises(RecipeError, match="none takes no options, got zeta"):
            override_recipe({}, ["algorithm=grpo", "credit.modulation.zeta=0.05"])

    def test_a_mistake_in_the_file_is_not_dropped(self, load: Load) -> None:
        with pytest.raises(RecipeError, match=r"unknown key 'credit\.modulation\.zetta'"):
            load({"name": "empg", "zetta": 0.3}, "credit.modulation.name=centred")

    def test_a_name_in_the_file_takes_options(self, load: Load) -> None:
        assert load("empg", "credit.modulation.zeta=0.05") == {**EMPG, "zeta": 0.05}
        assert load("empg", "credit.modulation=scaling", "credit.modulation.k=3") == {
            "name": "scaling",
            "k": 3.0,
            "eps": 1e-8,
        }


def test_a_new_rule_needs_no_change_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Options:
        weight: float = 2.0

    def modulate(inputs: ModulationInputs, options: Options) -> StepCredit:
        return StepCredit(advantage=options.weight * inputs.steps.advantage)

    rule = Modulation(name="louder", summary="2 A", options=Options, modulate=modulate)
    monkeypatch.setitem(MODULATIONS, "louder", rule)
    section = parse_recipe({"credit": {"modulation": "louder"}}).credit.modulation
    assert section is not None
    assert section.model_dump() == {"name": "louder", "weight": 2.0}


def test_a_trainer_that_cannot_tell_the_action_names_the_key() -> None:
    require_turn_entropy({"name": "empg_variant", "entropy": "turn"})
    require_turn_entropy({"name": "empg"})
    with pytest.raises(OptionError, match=r"^credit\.modulation\.entropy: expected turn, .*, got action$"):
        require_turn_entropy({"name": "empg_variant", "entropy": "action"})
