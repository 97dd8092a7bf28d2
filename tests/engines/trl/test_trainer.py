"""`EMPGTrainer` is `GRPOTrainer` with the library's modulation between the advantages and the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("trl", reason="trl is not installed: make test-trl runs these tests")

import datasets
from trl import GRPOConfig

from empg.credit import MODULATIONS, ModulationInputs, StepTable, modulate_advantages, to_tokens
from empg.engines.trl import EMPGConfig, EMPGTrainer, EpisodeRollout, environment_reward
from empg.engines.trl.rollout import token_columns
from empg.errors import UserError
from empg.rollout.types import EndReason
from tests.engines.trl.parts import arguments, fixed_episode, small_recipe, tiny_policy

pytestmark = pytest.mark.filterwarnings("default")  # of TRL and transformers about their own names


class Observed(EMPGTrainer):
    """Keeps what the modulation got and returned, and counts the passes over the model."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.seen: list[dict[str, Tensor]] = []
        self.passes = 0
        super().__init__(*args, **more)

    def assign(self, inputs: Any, batch: Any, scores: Any) -> None:
        seen = {"base": batch["advantages"], "entropy": scores[1], "steps": self.step_ids(inputs, batch)}
        super().assign(inputs, batch, scores)
        self.seen.append({**seen, "advantages": batch["advantages"], "rewards": self._rewards})

    def _get_per_token_logps_and_entropies(self, *args: Any, **more: Any) -> Any:
        self.passes += not torch.is_grad_enabled()
        return super()._get_per_token_logps_and_entropies(*args, **more)


def fixed_rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """The fixed episodes, whatever the policy."""
    episodes = [fixed_episode(number) for number in range(len(prompts))]
    return {**token_columns(episodes, 3), "logprobs": None}


def prompts(count: int) -> Any:
    return datasets.Dataset.from_dict({"prompt": [str(number) for number in range(count)]})


def trained(folder: Path, rollout: Any = fixed_rollout, reward: Any = environment_reward, **changes: Any) -> Observed:
    policy = tiny_policy()
    trainer = Observed(
        policy.model,
        reward,
        EMPGConfig(**arguments(folder, **changes)),
        train_dataset=prompts(2 * changes.get("max_steps", 1)),
        processing_class=policy.tokenizer,
        rollout_func=rollout,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("modulation", ["empg", {"name": "empg", "k": 2.0, "k_future": 0.5, "zeta": 0.03}])
def test_the_advantages_are_those_of_the_library(tmp_path: Path, modulation: Any) -> None:
    [seen] = trained(tmp_path, modulation=modulation).seen
    options = {} if modulation == "empg" else {key: modulation[key] for key in ("k", "k_future", "zeta")}
    expected = modulate_advantages(seen["base"], seen["entropy"], seen["steps"], **options)
    assert torch.equal(seen["advantages"], expected)
    assert len(expected.unique()) > 8
    assert not expected[seen["steps"] < 0].any()


def test_the_entropy_of_actions_needs_a_rollout_of_ours(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^modulation\.entropy: expected turn, because this trainer cannot tell the"):
        trained(tmp_path, modulation={"name": "empg_variant", "entropy": "action"})


def test_the_entropies_are_those_of_the_sampling_distribution(tmp_path: Path) -> None:
    [seen] = trained(tmp_path, temperature=0.7, learning_rate=0.0).seen
    model = tiny_policy().model
    for number in range(8):
        columns = token_columns([fixed_episode(number)], 3)
        ids = torch.tensor(columns["prompt_ids"][0] + columns["completion_ids"][0])
        logits = model(ids[None]).logits[0] / 0.7
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        written = seen["steps"][number] >= 0
        start = len(columns["prompt_ids"][0]) - 1
        there = entropy[start : start + len(columns["completion_ids"][0])]
        torch.testing.assert_close(seen["entropy"][number][written], there[written[: len(there)]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"])
def test_every_loss_of_trl_takes_the_advantages_of_steps(tmp_path: Path, loss: str) -> None:
    [record, _] = trained(tmp_path, loss_type=loss).state.log_history
    assert record["grad_norm"] > 0


def test_another_modulation_sees_rewards_and_groups(tmp_path: Path) -> None:
    [seen] = trained(tmp_path, modulation="gtpo").seen
    table = StepTable.from_tokens(seen["base"], seen["entropy"], seen["steps"])
    inputs = ModulationInputs(steps=table, rewards=seen["rewards"], groups=torch.tensor([0] * 4 + [1] * 4))
    assert torch.equal(seen["advantages"], to_tokens(MODULATIONS["gtpo"](inputs).advantage, seen["steps"]))


@pytest.mark.parametrize("modulation", sorted(MODULATIONS))
def test_a_completion_without_a_reward_is_left_out(tmp_path: Path, modulation: str) -> None:
    def reward(episode_reward: list[float], **columns: Any) -> list[float | None]:
        known = [0, 1, 2, 4]  # one of the first group has no reward; one of the second has nothing to be compared with
        return [value if row in known else None for row, value in enumerate(episode_reward)]

    [seen] = trained(tmp_path, reward=reward, modulation=modulation).seen
    assert not seen["advantages"][3:].any()
    table = StepTable.from_tokens(seen["base"][:3], seen["entropy"][:3], seen["steps"][:3])
    inputs = ModulationInputs(steps=table, rewards=torch.tensor([0.0, 1.0, 1.0]), groups=torch.tensor([0] * 3))
    assert torch.equal(seen["advantages"][:3], to_tokens(MODULATIONS[modulation](inputs).advantage, seen["steps"][:3]))


@pytest.mark.parametrize("modulation", sorted(MODULATIONS))
def test_a_batch_without_any_reward_trains_nothing(tmp_path: Path, modulation: str) -> None:
    trainer = trained(tmp_path, reward=lambda completions, **_: [None] * len(completions), modulation=modulation)
    assert not trainer.seen[0]["advantages"].any()
    assert trainer.state.log_history[0]["grad_norm"] == 0


def test_an_episode_whose_environment_failed_is_no_lost_episode(tmp_path: Path) -> None:
    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        episodes = [fixed_episode(number) for number in range(len(prompts))]
        episodes[0].end = episodes[3].end = EndReason.ENV_ERROR  # the other two of the group have won
        return {**token_columns(episodes, 3), "logprobs": None}

    [seen] = trained(tmp_path, rollout).seen
    assert (seen["steps"][[0, 3]] == -1).all()
    assert not seen["base"][:4].any()
    assert not seen["advantages"][[0, 3]].any()


def test_the_constant_of_the_loss_is_the_limit_of_an_episode(tmp_path: Path) -> None:
    rollout = EpisodeRollout(small_recipe())
    policy = tiny_policy()
    config = EMPGConfig(**arguments(tmp_path, loss_type="dr_grpo"))
    trainer = EMPGTrainer(
        policy.model, environment_reward, config, train_dataset=rollout.dataset(),
        processing_class=policy.tokenizer, rollout_func=rollout,
    )  # fmt: skip
    assert trainer.max_completion_length == 512
    assert trainer.generation_config.max_new_tokens == 16  # that of one turn


def test_without_a_modulation_it_is_grpo(tmp_path: Path) -> None:
    trainer = trained(tmp_path, modulation=None)
    assert trainer.seen == []  # its advantages stay as they are
    assert trainer.passes == 0  # and it needs no entropies


@pytest.mark.parametrize(
    "changes",
    [
        {},  # TRL needs no old policy
        {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "max_steps": 2},  # its pass is used
        {"num_iterations": 2, "max_steps": 2},
    ],
    ids=["own pass", "several optimizer steps", "several epochs"],
)
def test_old_policy_and_entropy_share_one_pass(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert trained(tmp_path, **changes).passes == 1


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_pass_of_an_adapter_s_reference_is_not_taken_for_the_policy_s(tmp_path: Path, epochs: int) -> None:
    peft = pytest.importorskip("peft")
    policy = tiny_policy()
    adapter = peft.get_peft_model(
        policy.model, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    )
    trainer = Observed(
        adapter,
        environment_reward,
        EMPGConfig(**arguments(tmp_path, beta=0.1, num_iterations=epochs, learning_rate=0.0)),
        train_dataset=prompts(2),
        processing_class=policy.tokenizer,
        rollout_func=fixed_rollout,
    )
    trainer.train()
    assert trainer.passes == 2
    plain = trained(tmp_path, learning_rate=0.0).seen[0]["entropy"]
    assert not torch.allclose(trainer.seen[0]["entropy"], plain, atol=1e-4)


def test_steps_without_text_between_them_stay_apart(tmp_path: Path) -> None:
    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        columns = fixed_rollout(prompts, trainer)
        rows = len(prompts)
        return {
            **columns,
            "completion_ids": [[50 + row, 60, 70, 80] for row in range(rows)],
            "env_mask": [[1, 1, 1, 1]] * rows,
            "step_ids": [[0, 0, 1, 1]] * rows,
        }

    [seen] = trained(tmp_path, rollout).seen
    assert seen["steps"].tolist() == [[0, 0, 1, 1]] * 8
    assert (seen["advantages"][:, 0] != seen["advantages"][:, 2]).all()


@pytest.mark.parametrize(
    ("steps", "mask", "expected"),
    [
        ([0, 0, 2, 2], [1, 1, 1, 1], [0, 0, 1, 1]),
        ([0, 0, 1, 1], [0, 0, 1, 1], [-1, -1, 0, 0]),  # a step without a token in the loss leaves no gap
        ([0, 0], [1, 1, 1, 1], "step_ids: row 0: expected 4, one for each token, got 2"),
        ([0, 0, 1, 1, 2], [1, 1, 1, 1], "step_ids: row 0: expected 4, one for each token, got 5"),
        (None, [1, 1, 1, 1], "step_ids: row 0: expected 4, one for each token, got NoneType"),
    ],
)
def test_steps_have_one_number_for_each_token(tmp_path: Path, steps: Any, mask: list[int], expected: Any) -> None:
    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        rows = len(prompts)
        ids = [[50 + row, 60, 70, 80] for row in range(rows)]
        same = {"completion_ids": ids, "env_mask": [mask] * rows, "step_ids": [steps] * rows}
        return {**fixed_rollout(prompts, trainer), **same}

    if isinstance(expected, str):
        with pytest.raises(UserError, match=f"^{expected}$"):
            trained(tmp_path, rollout)
    else:
        assert trained(tmp_path, rollout).seen[0]["steps"].tolist() == [expected] * 8


def test_an_ordinary_data_set_and_reward_function_train(tmp_path: Path) -> None:
    def length(completions: list[str], **columns: Any) -> list[float]:
        return [float(len(text) % 5) for text in completions]

    trainer = trained(tmp_path, rollout=None, reward=length, max_steps=2)
    assert len(trainer.seen) == 2
    for seen in trainer.seen:
        assert seen["steps"].max() == 0  # one step per completion
        assert torch.equal(seen["advantages"], modulate_advantages(seen["base"], seen["entropy"], seen["steps"]))
    logged = [record for record in trainer.state.log_history if "loss" in record]
    assert {"entropy/step_mean", "credit/scale_min", "credit/scale_max", "credit/advantage_abs_mean"} <= logged[
        0
    ].keys()
    assert logged[0]["grad_norm"] > 0


def test_a_truncated_completion_has_no_step(tmp_path: Path) -> None:
    trainer = trained(
        tmp_path, rollout=None, reward=lambda completions, **_: [1.0, 0.0] * 4, mask_truncated_completions=True
    )
    assert (trainer.seen[0]["steps"] == -1).any(1).any()


@pytest.mark.parametrize(
    ("modulation", "message"),
    [
        ("emgp", "modulation.name: expected one of .* got 'emgp'; did you mean 'empg'"),
        ({"name": "empg", "zeat": 1}, "unknown key 'modulation.zeat'..?[Dd]id you mean 'modulation.zeta|zeta'"),
        ({"k": -1.0}, "modulation.k: expected"),
        (3, "modulation: expected a name, a mapping or None, got 3"),
    ],
)
def test_a_wrong_modulation_is_a_user_error(tmp_path: Path, modulation: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        EMPGConfig(**arguments(tmp_path, modulation=modulation))


def test_a_ratio_per_completion_is_refused_with_a_modulation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="importance_sampling_level: a modulation expects token, got sequence"):
        EMPGConfig(**arguments(tmp_path, importance_sampling_level="sequence"))
    EMPGConfig(**arguments(tmp_path, importance_sampling_level="sequence", modulation=None))


def test_the_configuration_has_every_option(tmp_path: Path) -> None:
    config = EMPGConfig(**arguments(tmp_path, modulation={"zeta": 0.2}))
    assert config.modulation == {"name": "empg", "k": 1.0, "k_future": 1.0, "zeta": 0.2, "eps": 1e-8}
    gtpo = EMPGConfig(**arguments(tmp_path, modulation="gtpo")).modulation
    assert EMPGConfig(**arguments(tmp_path, modulation='{"name": "gtpo"}')).modulation == gtpo  # of a command line
    assert EMPGConfig(**arguments(tmp_path, modulation="none")).modulation is None


def test_another_configuration_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="args: expected EMPGConfig, got GRPOConfig"):
        EMPGTrainer(tiny_policy().model, environment_reward, GRPOConfig(**arguments(tmp_path)))
