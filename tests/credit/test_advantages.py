"""The table of advantage estimators: what is in it, and the contract of an entry."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from math import nan

import pytest
import torch
from torch import Tensor

from empg.credit import ADVANTAGES, AdvantageEstimator, AdvantageInputs, outcome_advantages
from tests import ROOT

FOLDER = ROOT / "src" / "empg" / "credit" / "advantages"
OF_EPISODES = [name for name, entry in ADVANTAGES.items() if not (entry.compares_steps or entry.needs_critic)]
OF_STEPS = [name for name, estimator in ADVANTAGES.items() if estimator.compares_steps]


def inputs(**changes: object) -> AdvantageInputs:
    """Two groups of two episodes, of 2, 1, 1 and 3 steps."""
    fields: dict = {
        "rewards": torch.tensor([1.0, 0.0, 0.5, 0.25]),
        "groups": torch.tensor([4, 4, 9, 9]),
        "episode": torch.tensor([0, 0, 1, 2, 3, 3, 3]),
    }
    return AdvantageInputs(**{**fields, **changes})


def estimator(estimate: Callable[[AdvantageInputs], Tensor], compares_within_group: bool = False) -> AdvantageEstimator:
    return AdvantageEstimator(name="mine", summary="", compares_within_group=compares_within_group, estimate=estimate)


class TestTable:
    def test_each_module_of_the_folder_is_an_entry_under_its_own_name(self) -> None:
        modules = {file.stem for file in FOLDER.glob("*.py")} - {"__init__", "base"}
        assert set(ADVANTAGES) == modules
        for name, entry in ADVANTAGES.items():
            module = importlib.import_module(f"empg.credit.advantages.{name}")
            assert module.ESTIMATOR is entry
            assert entry.name == name

    @pytest.mark.parametrize("name", ADVANTAGES)
    def test_an_estimator_is_one_short_file_whose_docstring_is_its_definition(self, name: str) -> None:
        text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        definition = importlib.import_module(f"empg.credit.advantages.{name}").__doc__
        assert len(text.splitlines()) <= (50 if ADVANTAGES[name].options is None else 80)
        assert definition is not None
        assert re.search(r"^    A\((i|i,t)\) = ", definition, re.MULTILINE)
        assert re.search(r"arXiv \d{4}\.\d{5}|, \d{4}\.$", definition)

    @pytest.mark.parametrize("name", ADVANTAGES)
    def test_the_page_on_the_method_has_a_row_for_each_estimator(self, name: str) -> None:
        page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
        assert re.search(rf"^\| [^|]+ \| `{name}` \|", page, re.MULTILINE)

    def test_groups_of_one_episode_are_for_reinforce(self) -> None:
        assert not ADVANTAGES["reinforce"].compares_within_group
        assert all(ADVANTAGES[name].compares_within_group for name in ("rloo", "grpo", "dr_grpo", "gigpo"))


class TestContract:
    @pytest.mark.parametrize("name", OF_EPISODES)
    def test_each_step_gets_the_advantage_of_its_episode(self, name: str) -> None:
        batch = inputs()
        steps = ADVANTAGES[name](batch)
        assert steps.dtype == torch.float32
        assert torch.equal(steps, outcome_advantages(batch.rewards, batch.groups, name)[batch.episode])

    @pytest.mark.parametrize("name", OF_EPISODES)
    def test_step_weighting_takes_the_steps_from_the_batch(self, name: str) -> None:
        batch = inputs(weighting="step")
        counts = torch.tensor([2, 1, 1, 3])
        assert batch.num_steps.tolist() == counts.tolist()
        wanted = outcome_advantages(batch.rewards, batch.groups, name, weighting="step", num_steps=counts)
        assert torch.equal(ADVANTAGES[name](batch), wanted[batch.episode])

    @pytest.mark.parametrize("name", ADVANTAGES)
    def test_the_advantages_have_no_gradient(self, name: str) -> None:
        rewards, step_rewards = torch.rand(4, requires_grad=True), torch.rand(7, requires_grad=True)
        values = torch.rand(7, requires_grad=True)
        states = torch.zeros(7, dtype=torch.long)
        batch = inputs(rewards=rewards, step_rewards=step_rewards, states=states, values=values)
        assert not ADVANTAGES[name](batch).requires_grad

    @pytest.mark.parametrize("name", OF_STEPS)
    @pytest.mark.parametrize("missing", ["step_rewards", "states"])
    def test_an_estimator_that_compares_steps_needs_their_rewards_and_states(self, name: str, missing: str) -> None:
        given = {"step_rewards": torch.zeros(7), "states": torch.zeros(7, dtype=torch.long)}
        del given[missing]
        wanted = f"^{missing}: {name} compares single steps: expected one value per step, got None$"
        with pytest.raises(ValueError, match=wanted):
            ADVANTAGES[name](inputs(**given))

    @pytest.mark.parametrize("name", OF_STEPS)
    def test_an_estimator_that_compares_steps_is_not_for_whole_episodes(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"^method: {name} compares single steps; call ADVANTAGES"):
            outcome_advantages(torch.zeros(2), torch.zeros(2, dtype=torch.long), name)

    @pytest.mark.parametrize("missing", ["step_rewards", "values"])
    def test_gae_needs_a_critic(self, missing: str) -> None:
        given = {"step_rewards": torch.zeros(7), "values": torch.zeros(7)}
        del given[missing]
        with pytest.raises(ValueError, match=f"^{missing}: gae needs a critic: expected one value per step, got None$"):
            ADVANTAGES["gae"](inputs(**given))
        with pytest.raises(ValueError, match=r"^method: gae needs a critic; call ADVANTAGES"):
            outcome_advantages(torch.zeros(2), torch.zeros(2, dtype=torch.long), "gae")

    def test_the_target_of_a_critic_has_one_value_per_step(self) -> None:
        entry = AdvantageEstimator(
            name="mine",
            summary="",
            compares_within_group=False,
            estimate=lambda batch: batch.values,
            value_targets=lambda batch: batch.rewards,
        )
        with pytest.raises(ValueError, match=r"^values: mine needs a critic: expected one value per step, got None$"):
            entry.critic_targets(inputs(step_rewards=torch.zeros(7)))
        with pytest.raises(ValueError, match=r"^mine: value_targets: expected \(7,\) float32, one per step, got"):
            entry.critic_targets(inputs(step_rewards=torch.zeros(7), values=torch.zeros(7)))

    def test_options_are_checked_and_leave_the_table_unchanged(self) -> None:
        changed = ADVANTAGES["gigpo"].configured(gamma=0.5)
        assert changed.options.gamma == 0.5
        assert ADVANTAGES["gigpo"].options.gamma == 0.95
        assert ADVANTAGES["grpo"].configured() is ADVANTAGES["grpo"]
        with pytest.raises(ValueError, match=r"^gamma: expected a number from 0 to 1, got 1\.5$"):
            ADVANTAGES["gigpo"].configured(gamma=1.5)
        with pytest.raises(
            ValueError, match=r"^gigpo: expected options among weight, gamma, divide_by_std, got 'lam'$"
        ):
            ADVANTAGES["gigpo"].configured(lam=1.0)
        with pytest.raises(ValueError, match=r"^grpo: expected options among none, got 'gamma'$"):
            ADVANTAGES["grpo"].configured(gamma=1.0)

    @pytest.mark.parametrize(
        "wrong", [torch.zeros(4), torch.zeros(7, dtype=torch.float64), torch.zeros(7, 1)], ids=["E", "float64", "2-d"]
    )
    def test_an_estimator_that_breaks_the_contract_is_named(self, wrong: Tensor) -> None:
        with pytest.raises(ValueError, match=r"^mine: expected \(7,\) float32, one per step, got \("):
            estimator(lambda batch: wrong)(inputs())

    def test_only_an_estimator_that_compares_needs_two_episodes_in_a_group(self) -> None:
        alone = inputs(groups=torch.tensor([4, 4, 9, 12]))
        assert estimator(lambda batch: torch.zeros(7))(alone).tolist() == [0.0] * 7
        with pytest.raises(
            ValueError, match=r"^groups: mine compares the episodes of a group, but group 9 has only one$"
        ):
            estimator(lambda batch: torch.zeros(7), compares_within_group=True)(alone)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"episode": torch.zeros(7)}, "^episode: expected integer ids, got torch.float32"),
            (
                {"episode": torch.zeros(7, 1).long()},
                r"^episode: expected one value per step, shape \(N,\), got \(7, 1\)",
            ),
            (
                {"step_rewards": torch.zeros(4)},
                r"^step_rewards: expected shape \(7,\), the shape of episode, got \(4,\)",
            ),
            ({"values": torch.zeros(4)}, r"^values: expected shape \(7,\), the shape of episode, got \(4,\)"),
            ({"states": torch.zeros(4)}, r"^states: expected shape \(7,\), the shape of episode, got \(4,\)"),
            ({"weighting": "token"}, "^weighting: expected one of episode, step, got 'token'"),
            ({"episode": torch.tensor([0, 1, -1])}, "^episode: expected indices from 0 to below 4, the length of"),
            ({"episode": torch.tensor([0, 1, 4])}, r"^episode: expected indices .* of rewards, got 0 to 4$"),
            ({"episode": torch.tensor([0, 1, 0])}, "^episode: rows of episode 0 must be contiguous and in time order$"),
            (
                {"step_rewards": torch.tensor([0.0] * 6 + [nan])},
                "^step_rewards: step 6: .* got nan",
            ),
            (
                {"values": torch.tensor([0.0] * 6 + [1e39], dtype=torch.float64)},
                r"^values: step 6: .* got 1e\+39",
            ),
            ({"states": torch.zeros(7)}, "^states: expected integer ids, got torch.float32$"),
            ({"weighting": "step", "episode": torch.tensor([0, 1, 3])}, "^episode: episode 2 has 0 steps"),
        ],
    )
    def test_bad_inputs_are_refused(self, changes: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            inputs(**changes)

    @pytest.mark.parametrize("name", ADVANTAGES)
    def test_ids_and_numbers_may_have_any_width(self, name: str) -> None:
        columns = {
            "episode": torch.tensor([0, 0, 1, 2, 3, 3, 3]),
            "groups": torch.tensor([4, 4, 9, 9]),
            "states": torch.tensor([0, 1, 0, 0, 1, 0, 0]),
        }
        numbers = {"step_rewards": torch.arange(7.0), "values": torch.arange(7.0) / 4}
        narrow = inputs(**{key: ids.int() for key, ids in columns.items()}, **numbers)
        wide = inputs(**columns, **{key: values.double() for key, values in numbers.items()})
        assert torch.equal(ADVANTAGES[name](narrow), ADVANTAGES[name](wide))
