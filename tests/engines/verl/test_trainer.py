"""What the trainer reads of verl's configuration and batches, and the outputs of an episode."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl is not installed: make test-verl runs these tests")

import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from empg.credit import modulate_advantages
from empg.engines.verl import plugin
from empg.engines.verl.loop import _Played, outputs
from empg.engines.verl.trainer import EMPGTrainerSync, modulate_batch, modulation_of, statistics
from empg.errors import UserError
from empg.rollout.types import Episode, Turn

pytestmark = pytest.mark.filterwarnings("default")  # of verl


def configuration(**values: Any) -> Any:
    return OmegaConf.create({"algorithm": {"rollout_correction": {"bypass_mode": False}}, **values})


ROWS: list[dict[str, Any]] = [
    {
        "advantages": [2.0, 2.0, 0.0, 2.0],
        "entropy": [0.1, 0.3, 9.0, 0.8],
        "response_mask": [1, 1, 0, 1],
        "rm_scores": [0.0, 0.0, 0.0, 1.0],
        "extra_fields": {"step_ids": [0, 0, -1, 1]},
    },
    {
        "advantages": [-1.0, 0.0, -1.0],
        "entropy": [0.6, 9.0, 0.2],
        "response_mask": [1, 0, 1],
        "rm_scores": [0.0, 0.0, 0.0],
        "extra_fields": {},
    },
    {
        "advantages": [0.5, 0.5],
        "entropy": [0.4, 0.5],
        "response_mask": [1, 1],
        "rm_scores": [0.0, 0.0],
        "extra_fields": {},
    },
]


def batch(**first: list[float]) -> TensorDict:
    """The rows as verl stores them, with other values in the first one."""
    rows = [{**row, "loss_mask": row["response_mask"]} for row in [{**ROWS[0], **first}, *ROWS[1:]]]
    return list_of_dict_to_tensordict(
        [
            {name: value if isinstance(value, dict) else torch.tensor(value) for name, value in row.items()}
            for row in rows
        ]
    )


KEYS = ["a_0_0", "a_1_0", "b_0_0"]


def test_verl_loads_the_trainer_and_the_agent_loop() -> None:
    assert get_trainer_cls("empg_sync") is EMPGTrainerSync
    assert _agent_loop_registry["empg"] == {"_target_": "empg.engines.verl.recording.RecordedLoop"}


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.10.0")
    with pytest.raises(ImportError, match=r"expected verl 0\.9\.1, got 0\.10\.0: pip install"):
        plugin.register()


def test_a_batch_of_verl_gets_the_advantages_of_the_library() -> None:
    options = {"name": "empg", "k": 1.0, "k_future": 1.0, "zeta": 0.1}
    result = modulate_batch(batch(), KEYS, options, 0.0)
    steps = torch.tensor([[0, 0, -1, 1], [0, -1, 1, -1], [0, 0, -1, -1]])
    entropies = torch.tensor([[0.1, 0.3, 9.0, 0.8], [0.6, 9.0, 0.2, 0.0], [0.4, 0.5, 0.0, 0.0]])
    expected = modulate_advantages(torch.tensor([2.0, -1.0, 0.5]), entropies, steps)
    torch.testing.assert_close(result.advantages, expected)
    assert statistics(result)["credit/steps_per_episode"] == pytest.approx(5 / 3)


def test_without_entropies_the_error_says_what_is_missing() -> None:
    with pytest.raises(UserError, match="the batch has no field entropy"):
        modulate_batch(batch().exclude("entropy"), KEYS, {"name": "empg"}, 0.0)


def test_bypass_mode_is_an_error_before_anything_starts() -> None:
    config = OmegaConf.create({"algorithm": {"rollout_correction": {"bypass_mode": True}}})
    with pytest.raises(UserError, match=r"algorithm\.rollout_correction\.bypass_mode: expected False"):
        EMPGTrainerSync(config)


def test_advantages_of_single_tokens_are_an_error() -> None:
    data = batch(advantages=[2.0, 1.0, 0.0, 2.0])
    with pytest.raises(UserError, match="assigns credit to whole steps"):
        modulate_batch(data, KEYS, {"name": "empg"}, 0.0)


def test_the_modulation_is_a_name_or_a_mapping_and_empg_by_default() -> None:
    assert modulation_of(configuration())["name"] == "empg"
    assert modulation_of(configuration(empg={"modulation": "gtpo"}))["name"] == "gtpo"
    assert modulation_of(configuration(empg={"modulation": {"zeta": 0.3}}))["zeta"] == 0.3
    with pytest.raises(UserError, match=r"empg\.modulation"):
        modulation_of(configuration(empg={"modulation": {"zetta": 0.3}}))
    with pytest.raises(UserError, match=r"empg\.modulation\.entropy: expected turn"):
        modulation_of(configuration(empg={"modulation": {"name": "empg_variant", "entropy": "action"}}))


def episode() -> tuple[Episode, _Played]:
    turns = [
        Turn(observation="", prompt_ids=[1, 2], action_ids=[5, 6], logprobs=[], entropies=[]),
        Turn(observation="", prompt_ids=[3], action_ids=[7], logprobs=[], entropies=[]),
    ]
    played = _Played()
    for version, logprobs in ((4, [-0.1, -0.2]), (5, [-0.3])):
        fields = {"min_global_steps": version, "max_global_steps": version}
        played.add(SimpleNamespace(log_probs=logprobs, extra_fields=fields), len(logprobs))
    made = Episode(task_id="t", task_index=0, task_type="", split="train", group=0, turns=turns, reward=1.0)
    return made, played


def test_a_merged_episode_is_one_output() -> None:
    made = outputs(*episode(), merged=True)
    assert len(made) == 1
    output = made[0]
    assert (output.prompt_ids, output.response_ids) == ([1, 2], [5, 6, 3, 7])
    assert output.response_mask == [1, 1, 0, 1]
    assert output.response_logprobs == [-0.1, -0.2, 0.0, -0.3]
    assert output.reward_score == 1.0
    assert output.extra_fields["step_ids"] == [0, 0, -1, 1]
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (4, 5)
    assert set(output.extra_fields["reward_extra_info"]) == {"score", "success"}


def test_every_turn_of_a_per_turn_episode_is_an_output() -> None:
    made = outputs(*episode(), merged=False)
    assert [(output.prompt_ids, output.response_ids) for output in made] == [([1, 2], [5, 6]), ([3], [7])]
    assert [output.extra_fields["step_ids"] for output in made] == [[0, 0], [0]]
    assert {output.reward_score for output in made} == {1.0}
