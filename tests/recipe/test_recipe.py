"""Recipes: a wrong one is rejected in one line that says what to fix; a valid one is read back unchanged."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.credit import ADVANTAGES, Aggregation, KLEstimator, LossConfig, Weighting, checks
from empg.errors import RecipeError
from empg.recipe import Recipe, dump_recipe, load_recipe, parse_recipe
from empg.recipe.credit import CreditSection, LossSection
from empg.validation import LARGEST, valid_keys
from tests import ROOT


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("creditt: {}", "unknown key 'creditt'; did you mean 'credit'?"),
        ("policy: {lora: {rank: 4}}", "unknown key 'policy.lora.rank'; valid keys: r, alpha, target_modules"),
        ("policy: {tiny: {hiden_size: 4}}", "unknown key 'policy.tiny.hiden_size'; did you mean 'hidden_size'?"),
        ("rollout: {group_size: 0}", "rollout.group_size: expected at least 1, got 0"),
        ("optimizer: {lr: fast}", "optimizer.lr: expected a number"),
        ("warm_start: {options: {room: small}}", "unknown key 'warm_start.options.room'; did you mean 'rooms'?"),
        ("warm_start: {options: {rooms: 3}}", "warm_start.options.rooms: "),
        ("loss: {kl_coef: .inf}", "loss.kl_coef: expected a finite number"),
        ("loss: {entropy_coef: .nan}", "loss.entropy_coef: expected a finite number"),
        ("credit: {advantage: grop}", f"credit.advantage: expected one of {', '.join(ADVANTAGES)}, got 'grop'"),
        ("credit: {advantage: grop}", "; did you mean 'grpo'?"),
        (
            "credit: {advantage: {gamma: 1}}",
            "credit.advantage: expected a name, or a section such as {name: gigpo, gamma: 0.95}",
        ),
        ("credit: {advantage: {name: grpo, gamma: 1}}", "credit.advantage: grpo has no options, got 'gamma'"),
        (
            "credit: {advantage: {name: gigpo, gama: 1}}",
            "unknown key 'credit.advantage.gama'; did you mean 'gamma'?",
        ),
        (
            "credit: {advantage: {name: gigpo, gamma: 2}}",
            "credit.advantage.gamma: expected a number from 0 to 1, got 2.0",
        ),
        (
            "credit: {advantage: {name: gigpo, weight: 1.0e+39}}",
            "credit.advantage.weight: expected a number from 0 to 1e+15, got 1e+39",
        ),
        ("credit: {advantage: {name: gigpo, weight: x}}", "credit.advantage.weight: expected a number"),
        (
            "credit: {advantage: [grpo]}",
            "credit.advantage: expected a name, or a section such as {name: gigpo, gamma: 0.95}",
        ),
        (
            "{loss: {ratio: episode}, agent: {history: per_turn}}",
            "loss.ratio=episode needs episodes in one row: set agent.history=merged or loss.ratio=step",
        ),
        (
            "algorithm: dpao",
            "algorithm: expected one of reinforce, rloo, grpo, dr_grpo, dapo, gspo, gigpo, ppo, reinforce+empg",
        ),
        ("algorithm: dpao", "got 'dpao'; did you mean 'dapo'?"),
        ("algorithm: [dapo]", "algorithm: expected a text"),
        ("environment: alfworld", "environment: expected a mapping"),
        ("{workers: 3, rollout: {groups: 16}}", "rollout.groups (16) must be a multiple of workers (3)"),
        ("rollout: {group_size: 1}", "credit.advantage=grpo compares episodes: set rollout.group_size > 1"),
        (
            "{rollout: {group_size: 1}, credit: {advantage: reinforce, modulation: grpo_s}}",
            "credit.modulation=grpo_s compares episodes: set rollout.group_size > 1",
        ),
        (
            "{rollout: {group_size: 1}, credit: {advantage: reinforce, modulation: gtpo}}",
            "credit.modulation=gtpo compares episodes: set rollout.group_size > 1",
        ),
        ("agent: {form: search_r1}", "agent.form=search_r1 has no turns but search and answer: it needs"),
        ("agent: {max_observation_tokens: 7}", "agent.max_observation_tokens: expected at least"),
        (
            "rollout: {max_episode_tokens: 2049}",
            "rollout.max_episode_tokens: expected <= policy.tiny.max_positions (2048), got 2049",
        ),
        ("policy: {tiny: {heads: 3}}", "policy.tiny: hidden_size (128) must be a multiple of 2 * heads (6)"),
        ("policy: {tiny: {kv_heads: 3}}", "policy.tiny: heads (2) must be a multiple of kv_heads (3)"),
        ("- seed: 1", "expected a mapping of keys to values, got a list"),
        ("seed", "expected a mapping of keys to values, got a str"),
        ("{name: x, recipes: [demo], variants: {a: []}}", "is a study, not a recipe: run it with empg study "),
        ("seed: [1", "is not valid YAML"),
        ("seed: !!python/object/apply:os.getpid []", "is not valid YAML"),
        ("seed: 1\nname: x\nseed: 2", "the key 'seed' occurs twice (line 3)"),
        ("name: 2026-13-45", "has a value that cannot be read: month must be in 1..12"),
        ("seed: 18446744073709551616", "seed: expected an integer below 2^63, got one of 65 bits"),
        ("policy: {tiny: {head_dim: 3}}", "policy.tiny: head_dim: expected an even number, got 3"),
        ("optimizer: {betas: [0.9]}", "optimizer.betas.1: is required"),
        ("optimizer: {betas: [0.9, 0.9, 0.9]}", "optimizer.betas: expected at most 2 values, got [0.9, 0.9, 0.9]"),
        ("optimizer: {autocast: x}", "optimizer.autocast: expected true or false or 'auto', got 'x'"),
        ("policy: {lora: {target_modules: 3}}", "policy.lora.target_modules: expected a list or 'all-linear', got 3"),
        ("evaluation: {decoding: []}", "evaluation.decoding: expected 1 or more values, got []"),
        ("agent: {date: soon}", "agent.date: expected a date such as 2026-01-31, got 'soon'"),
        ("optimizer: {betas: [2, 3]}", "optimizer.betas: expected two numbers in [0, 1), got [2.0, 3.0]"),
    ],
)
def test_a_wrong_recipe_is_rejected_in_one_line(write, text: str, message: str) -> None:
    path = write(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_error_has_its_line(write) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write("{seed: -1, nam: x}"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read .*none\.yaml: No such file"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match=r"cannot read .*: Is a directory"):
        load_recipe(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"binary\.yaml is not a UTF-8 text file"):
        load_recipe(tmp_path / "binary.yaml")


@pytest.mark.parametrize("name", ["a" * 300, "runs/" + "a" * 300, "a\0b", "runs/a\0b"])
def test_a_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(RecipeError, match=r"^(recipe 'a.* not found|cannot read )"):
        load_recipe(name)


def test_a_run_folder_in_place_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path)
    own = f"{tmp_path}/recipe.yaml"
    assert str(caught.value) == (
        f"{tmp_path} is a run folder, and its recipe is {own}; "
        f"to resume the run: empg train {own} --run {tmp_path} --resume"
    )


def test_a_run_folder_needs_no_slash_to_be_recognized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "demo"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("{}")
    with pytest.raises(RecipeError, match=r"^mine is a run folder, and its recipe is mine/recipe\.yaml; to resume"):
        load_recipe("mine")
    assert load_recipe("demo").name == "demo"  # the shipped recipe


def test_an_empty_file_is_the_default_recipe(write) -> None:
    assert load_recipe(write("")) == Recipe()


def test_overrides_reach_into_sections_and_win(write) -> None:
    path = write("{seed: 1, credit: {modulation: {k: 2}}, rollout: {groups: 4}}")
    recipe = load_recipe(
        path,
        ["seed=2", "credit.modulation.zeta=0.05", "policy.lora.r=4", "evaluation.splits=[train]", "optimizer.lr=1e-3"],
    )
    assert recipe.seed == 2
    assert recipe.credit.modulation is not None
    assert recipe.credit.modulation.options.zeta == 0.05
    assert recipe.policy.lora is not None
    assert recipe.policy.lora.r == 4
    assert recipe.evaluation.splits == ["train"]
    assert recipe.optimizer.lr == 1e-3  # YAML 1.1 reads 1e-3 as text
    assert recipe.rollout.groups == 4
    assert load_recipe(path, ["credit.modulation.zeta=0.05", "credit.modulation=null"]).credit.modulation is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", r"wrong override: expected key\.path=value, .* got 'seed'"),
        ("=3", "wrong override: expected"),
        ("seed=[1", r"override 'seed=\[1' is not valid YAML"),
        ("seed.deep=3", "'seed' is a value and has no key 'deep'"),
        ("policy.tiny.layerz=3", r"unknown key 'policy\.tiny\.layerz'; did you mean 'layers'\?"),
    ],
)
def test_wrong_overrides(write, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write("seed: 1"), [override])


def test_an_override_reaches_into_a_section_that_is_written_as_a_name(write) -> None:
    path = write("credit: {advantage: gigpo, process_reward: progress}")
    credit = load_recipe(path, ["credit.advantage.gamma=0.5", "credit.process_reward.weight=0.25"]).credit
    assert isinstance(credit.advantage, dict)
    assert isinstance(credit.process_reward, dict)
    assert (credit.advantage["gamma"], credit.process_reward["weight"]) == (0.5, 0.25)


def test_a_name_in_other_letters_is_found(write) -> None:
    with pytest.raises(RecipeError, match=r"did you mean 'grpo\+empg'\?"):
        load_recipe(write("algorithm: GRPO+EMPG"))


def test_a_tilde_is_the_home_folder(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    recipe = load_recipe(write("policy: {model: ~/models/small}"), ["warm_start.recordings=~/shop"])
    assert recipe.warm_start is not None
    assert (recipe.policy.model, recipe.warm_start.recordings) == ("/home/ada/models/small", "/home/ada/shop")


@given(
    seed=st.integers(0, 2**40),
    lr=st.floats(1e-12, 1e3),
    name=st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20),
    modulation=st.one_of(st.none(), st.fixed_dictionaries({"zeta": st.floats(0, 10), "k": st.floats(0, 10)})),
    lora=st.one_of(
        st.none(), st.fixed_dictionaries({"target_modules": st.lists(st.text("abc_", min_size=1), min_size=1)})
    ),
)
def test_dumping_and_loading_gives_the_same_recipe(tmp_path_factory, seed, lr, name, modulation, lora) -> None:
    recipe = parse_recipe(
        {
            "seed": seed,
            "name": name,
            "optimizer": {"lr": lr},
            "credit": {"modulation": modulation},
            "policy": {"lora": lora},
        }
    )
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_a_dump_holds_every_value() -> None:
    assert dump_recipe(Recipe()).count("max_episode_tokens: 1536") == 1


def test_valid_keys_of_nested_and_optional_sections() -> None:
    assert valid_keys(Recipe, ["policy", "lora"]) == ["r", "alpha", "target_modules"]
    assert "lora" in valid_keys(Recipe, ["policy"])


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().seed = 3  # type: ignore[misc]


def test_shipped_recipes_load() -> None:
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        load_recipe(path)


class TestLoss:
    """The section `loss` and the loss itself are written twice, because reading a recipe does not load torch."""

    SHARED = tuple(field.name for field in fields(LossConfig))

    def test_both_have_the_same_fields_and_defaults(self) -> None:
        section = LossSection().model_dump(exclude={"aggregation", "ratio"})
        assert section == asdict(LossConfig())

    def test_both_have_the_same_choices(self) -> None:
        for model, name, choices in (
            (LossSection, "aggregation", Aggregation),
            (LossSection, "kl_estimator", KLEstimator),
            (CreditSection, "weighting", Weighting),
        ):
            assert get_args(model.model_fields[name].annotation) == get_args(choices)

    @pytest.mark.parametrize("name", [name for name in SHARED if name != "kl_estimator"])
    @pytest.mark.parametrize("value", [-2e15, -1.0, 0.0, 1e-9, 0.5, 1.0, 1.5, 1e15, 2e15, math.inf, math.nan])
    def test_both_accept_the_same_numbers(self, name: str, value: float) -> None:
        assert checks.LARGEST == LARGEST
        assert _accepts(LossSection, name, value) is _accepts(LossConfig, name, value)


def _accepts(settings: type, name: str, value: float) -> bool:
    try:
        settings(**{name: value})
    except ValueError:
        return False
    return True


def test_not_all_groups_can_be_dropped() -> None:
    plain = {"rollout": {"group_size": 1, "groups": 4}, "credit": {"advantage": "reinforce"}}
    assert parse_recipe(plain).rollout.group_size == 1
    with pytest.raises(RecipeError, match="drop_zero_variance would drop every group"):
        parse_recipe({**plain, "credit": {"advantage": "reinforce", "drop_zero_variance": True}})


def test_resampling_needs_dropped_groups() -> None:
    with pytest.raises(RecipeError, match="max_resample replaces dropped groups"):
        parse_recipe({"credit": {"max_resample": 1}})


def test_the_options_of_an_estimator_are_complete_in_the_resolved_recipe(write) -> None:
    complete = {"name": "gigpo", "weight": 1.0, "gamma": 0.95, "divide_by_std": True}
    named = load_recipe(write("credit: {advantage: gigpo}"))
    assert named.credit.advantage == complete
    assert named.credit.estimator == ADVANTAGES["gigpo"]
    assert load_recipe(write("credit: {advantage: {name: grpo}}")).credit.advantage == "grpo"
    changed = load_recipe(write("credit: {advantage: {name: gigpo, gamma: 1}}"), ["credit.advantage.weight=0.5"])
    assert changed.credit.advantage == {**complete, "gamma": 1.0, "weight": 0.5}
    assert changed.credit.estimator == ADVANTAGES["gigpo"].configured(gamma=1.0, weight=0.5)
    assert load_recipe(write(dump_recipe(changed))) == changed


def test_replaced_values_are_by_key_path_and_leave_the_recipe_unchanged() -> None:
    recipe = parse_recipe({"warm_start": {"recordings": "plays"}, "seed": 3})
    changed = recipe.replaced({"policy.model": "m", "policy.lora": None, "warm_start.recordings": None, "seed": 4})
    assert (changed.policy.model, changed.seed, recipe.policy.model, recipe.seed) == ("m", 4, "tiny", 3)
    assert changed.warm_start is not None
    assert changed.warm_start.recordings is None
    assert changed.policy.tiny == recipe.policy.tiny
    for path in ("nothing", "policy.nothing"):
        with pytest.raises(KeyError, match="nothing"):
            recipe.replaced({path: 1})
