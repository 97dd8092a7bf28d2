"""The critic: what it reads, what it learns, what it leaves alone, and that it is kept in checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from empg.credit import ADVANTAGES, AdvantageEstimator, AdvantageInputs, Reduce
from empg.errors import UserError
from empg.learner import critic as critic_module
from empg.learner.assign import Assigned, assign_credit
from empg.learner.batch import make_batch
from empg.learner.checkpoint import Checkpoints, DivergedError
from empg.learner.critic import Critic, ValueTargets
from empg.learner.update import Update, make_optimizer
from empg.policy.model import Policy
from empg.policy.scoring import hidden_at
from empg.recipe import Recipe
from empg.rollout.types import Episode
from empg.system.workers import Workers
from tests.credit.batches import on_workers
from tests.learner.plays import recipe, two_groups

ALONE = Workers()
PLAIN = {"name": "gae", "normalise": False, "lam": 1.0}


def ppo(agent: dict[str, Any] | None = None, advantage: Any = "gae", **critic: Any) -> Recipe:
    credit = {"advantage": advantage, "modulation": None, "critic": critic}
    return recipe(credit=credit, agent=agent or {}, rollout={"groups": 2, "group_size": 1})


def played() -> list[Episode]:
    """As `two_groups`, with the reward of each episode at its last turn."""
    episodes = two_groups()
    for episode in episodes:
        episode.turns[-1].reward = episode.reward
    return episodes


def assigned(policy: Policy, wanted: Recipe, critic: Critic | None = None) -> Assigned:
    return assign_credit(played(), wanted, ALONE, critic=critic or Critic(policy, wanted, ALONE))


def targets(returns: list[float], seed: int = 0, size: int = 32) -> ValueTargets:
    states = torch.randn(len(returns), size, generator=torch.Generator().manual_seed(seed))
    return ValueTargets(states=states, values=torch.zeros(len(returns)), returns=torch.tensor(returns))


@pytest.mark.parametrize("history", ["merged", "per_turn"])
def test_it_reads_the_last_hidden_state_before_each_turn(policy: Policy, history: str) -> None:
    wanted = ppo({"history": history})
    states = Critic(policy, wanted, ALONE).states(make_batch(played(), history), 9)
    row = 0
    for episode in played():
        read: list[int] = []
        for turn in episode.turns:
            read = [*(read if history == "merged" else []), *turn.prompt_ids]
            expected = policy.hidden(torch.tensor([read]))[0, -1]  # transformers' own pass
            torch.testing.assert_close(states[row], expected, atol=1e-4, rtol=1e-4)
            read += turn.action_ids
            row += 1
    assert row == len(states)
    assert not states.requires_grad


def test_at_first_every_value_is_0_and_the_advantage_is_the_return(policy: Policy) -> None:
    found = assigned(policy, ppo(advantage=PLAIN))
    assert found.targets is not None
    assert found.targets.values.tolist() == [0.0] * 9
    won = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(found.targets.returns, won)
    torch.testing.assert_close(found.advantages, won)


def test_a_state_that_is_not_finite_reaches_no_other_step(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a step has no finite entropy either, so it is dropped."""

    def broken(*arguments: Any) -> Tensor:
        found = hidden_at(*arguments)
        found[0] = float("nan")
        return found

    monkeypatch.setattr(critic_module, "hidden_at", broken)
    episodes = played()
    episodes[0].turns[0].entropies = [float("nan")] * len(episodes[0].turns[0].action_ids)
    found = assign_credit(episodes, ppo(), ALONE, critic=Critic(policy, ppo(), ALONE))
    assert found.dropped_steps == 1
    assert found.advantages.isfinite().all()
    assert found.targets is not None
    assert found.targets.states.isfinite().all()


def test_what_it_has_learned_is_subtracted_from_the_return(policy: Policy) -> None:
    wanted = ppo(advantage=PLAIN, lr=0.05, epochs=200, clip=100.0)
    critic = Critic(policy, wanted, ALONE)
    first = assigned(policy, wanted, critic)
    assert first.targets is not None
    before = critic.fit(first.targets)
    again = assigned(policy, wanted, critic)
    assert again.targets is not None
    after = critic.fit(again.targets)
    torch.testing.assert_close(again.advantages, again.targets.returns - again.targets.values)
    assert before["value_loss"] == pytest.approx(3 / 18)  # V = 0, and 3 of 9 returns are 1
    assert before["value_explained"] == pytest.approx(0.0, abs=1e-6)
    # The first turns of a group have one state and different returns: at best 7 / 6 of the squared errors remain.
    assert after["value_loss"] == pytest.approx(7 / 6 / 18, rel=0.1)
    assert after["value_explained"] == pytest.approx(1 - 7 / 6 / 2, rel=0.1)


def test_an_estimator_of_your_own_says_what_the_critic_learns(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def reward_minus_value(inputs: AdvantageInputs) -> Tensor:
        assert inputs.step_rewards is not None
        assert inputs.values is not None
        return inputs.step_rewards - inputs.values

    def next_reward(inputs: AdvantageInputs) -> Tensor:
        assert inputs.step_rewards is not None
        return inputs.step_rewards

    entry = AdvantageEstimator(
        name="bandit",
        summary="",
        compares_within_group=False,
        estimate=reward_minus_value,
        value_targets=next_reward,
    )
    assert entry.needs_critic
    monkeypatch.setitem(ADVANTAGES, "bandit", entry)
    wanted = ppo(advantage="bandit")
    critic = Critic(policy, wanted, ALONE)
    torch.nn.init.constant_(critic.head.bias, 0.25)
    found = assigned(policy, wanted, critic)
    assert found.targets is not None
    assert found.targets.values.tolist() == [0.25] * 9
    assert found.targets.returns.tolist() == [0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert found.base_advantages.tolist() == [-0.25, 0.75, -0.25, -0.25, -0.25, -0.25, 0.75, -0.25, -0.25]


def test_a_value_is_held_back_at_the_clip(policy: Policy) -> None:
    wanted = ppo(lr=1e-4, epochs=2_000, clip=0.2)
    critic = Critic(policy, wanted, ALONE)
    size = critic.head.in_features
    aim = targets([5.0] * 4, size=size)
    critic.fit(aim)
    assert critic.values(aim.states).tolist() == pytest.approx([0.2] * 4, abs=0.05)  # the optimizer has momentum


def test_it_does_not_change_the_policy(policy: Policy) -> None:
    before = [parameter.detach().clone() for parameter in policy.parameters]
    wanted = ppo()
    critic = Critic(policy, wanted, ALONE)
    found = assigned(policy, wanted, critic)
    assert found.targets is not None
    critic.fit(found.targets)
    assert all(parameter.grad is None for parameter in policy.parameters)
    assert all(torch.equal(old, new) for old, new in zip(before, policy.parameters, strict=True))


def test_an_update_fits_it_and_reports_it(policy: Policy) -> None:
    wanted = ppo()
    critic = Critic(policy, wanted, ALONE)
    update = Update(policy, make_optimizer(policy, wanted.optimizer), wanted, ALONE, None, critic)
    stats = update(assigned(policy, wanted, critic), 0)
    assert {"value_loss", "value_explained"} <= set(stats.loss)
    assert bool(critic.head.weight.abs().max() > 0)
    nothing = update(assign_credit([], wanted, ALONE, critic=critic), 1)
    assert "value_loss" not in nothing.loss


def test_two_workers_fit_what_one_does(policy: Policy) -> None:
    wanted = ppo(lr=0.01)
    whole = Critic(policy, wanted, ALONE)
    aim = targets([1.0, 0.0, 0.5, 2.0], size=whole.head.in_features)
    statistics = whole.fit(aim)

    def work(rank: int, reduce: Reduce) -> tuple[dict[str, float], Tensor]:
        class Threads(Workers):
            def reduce(self, tensor: Tensor, op: Any) -> Tensor:
                return reduce(tensor.detach(), op)

        mine = [slice(0, 3), slice(3, 4), slice(4, 4)][rank]
        share = ValueTargets(states=aim.states[mine], values=aim.values[mine], returns=aim.returns[mine])
        critic = Critic(policy, wanted, Threads(rank, 3))
        return critic.fit(share), critic.head.weight.detach()

    for found, weight in on_workers(3, work):
        assert found == pytest.approx(statistics)
        torch.testing.assert_close(weight, whole.head.weight.detach())


def test_it_goes_on_bit_for_bit_from_a_checkpoint(policy: Policy, tmp_path: Path) -> None:
    wanted = ppo(lr=0.01)
    critic, again = Critic(policy, wanted, ALONE), Critic(policy, wanted, ALONE)
    size = critic.head.in_features
    critic.fit(targets([1.0, 0.0, 0.5], size=size))
    optimizer = make_optimizer(policy, wanted.optimizer)
    folder = Checkpoints(tmp_path).save("iter-000001", policy, optimizer, {}, critic)
    assert (folder / "critic.safetensors").exists()
    Checkpoints(tmp_path).load("iter-000001", policy, optimizer, again)
    for each in (critic, again):
        each.fit(targets([0.0, 2.0, 1.0], seed=1, size=size))
    assert torch.equal(critic.head.weight, again.head.weight)
    assert torch.equal(critic.head.bias, again.head.bias)


def test_a_critic_that_is_not_finite_is_never_written(policy: Policy, tmp_path: Path) -> None:
    critic = Critic(policy, ppo(), ALONE)
    torch.nn.init.constant_(critic.head.weight, torch.inf)
    with pytest.raises(
        DivergedError, match=r"not finite of the critic in .*: they are not saved\. Lower credit.critic.lr"
    ):
        Checkpoints(tmp_path).save("iter-000001", policy, None, {}, critic)
    assert not any(tmp_path.iterdir())


def test_a_full_gpu_names_the_size_of_the_pass(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("empg.learner.critic.hidden_at", full)
    with pytest.raises(UserError, match=r"Change optimizer\.micro_batch_tokens"):
        assigned(policy, ppo(), Critic(policy, ppo(), ALONE))


def test_a_checkpoint_without_a_critic_leaves_it_at_0(policy: Policy, tmp_path: Path) -> None:
    wanted = ppo()
    optimizer = make_optimizer(policy, wanted.optimizer)
    Checkpoints(tmp_path).save("iter-000001", policy, optimizer, {})
    critic = Critic(policy, wanted, ALONE)
    Checkpoints(tmp_path).load("iter-000001", policy, optimizer, critic)
    assert not critic.head.weight.any()
