"""One update: it changes the policy in the right direction by the right amount, and reports what it did."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch

from empg.learner.assign import Assigned, assign_credit
from empg.learner.update import Update, learning_rate, make_optimizer
from empg.policy.load import load_policy
from empg.policy.model import Policy
from empg.policy.scoring import score_tokens
from empg.recipe import LoraSection, OptimizerSection, PolicySection, Recipe
from empg.rollout.types import Episode
from empg.system.workers import Workers
from tests.learner.plays import episode, recipe, turn, two_groups


def with_real_scores(policy: Policy, episodes: list[Episode]) -> list[Episode]:
    """The log-probabilities as if this policy had sampled the episodes (merged rows)."""
    for one in episodes:
        row: list[int] = []
        for step in one.turns:
            row += step.prompt_ids
            columns = torch.arange(len(row), len(row) + len(step.action_ids))
            row += step.action_ids
            with torch.no_grad():
                logprobs, entropies = score_tokens(policy, torch.tensor([row]), torch.zeros_like(columns), columns)
            step.logprobs, step.entropies = logprobs.tolist(), entropies.tolist()
    return episodes


def logprob(policy: Policy, one: Episode) -> float:
    """Of everything that the policy wrote in an episode."""
    return sum(sum(t.logprobs) for t in with_real_scores(policy, [copy.deepcopy(one)])[0].turns)


def make(policy: Policy, wanted: Recipe, reference: Policy | None = None) -> Update:
    return Update(policy, make_optimizer(policy, wanted.optimizer), wanted, Workers(), reference)


def assigned_for(policy: Policy, wanted: Recipe) -> Assigned:
    return assign_credit(with_real_scores(policy, two_groups()), wanted, Workers())


@pytest.mark.parametrize("aggregation", ["token_mean", "episode_mean", "constant"])
@pytest.mark.parametrize("history", ["merged", "per_turn"])
def test_a_bandit_learns_the_rewarded_arm(policy: Policy, aggregation: str, history: str) -> None:
    """One prompt, two arms of one token: what paid becomes likelier, what did not less so."""
    wanted = recipe(
        loss={"aggregation": aggregation},
        agent={"history": history},
        optimizer={"lr": 1e-3},
        credit={"modulation": {"zeta": 0}},
    )
    arms = [episode(0, 1.0, turn([20, 21], [30])), episode(0, 0.0, turn([20, 21], [31]))]
    before = [logprob(policy, arm) for arm in arms]
    update = make(policy, wanted)
    for iteration in range(3):
        update(assign_credit(with_real_scores(policy, arms), wanted, Workers()), iteration)
    after = [logprob(policy, arm) for arm in arms]
    assert after[0] > before[0] + 0.01
    assert after[1] < before[1] - 0.01


def test_the_first_gradient_is_that_of_the_weighted_log_likelihood(policy: Policy) -> None:
    """On-policy the ratio is 1: the gradient is that of -sum weight A log pi, and micro-batches add up to it."""
    wanted = recipe(optimizer={"micro_batch_tokens": 256, "max_grad_norm": 1e9})
    assigned = assigned_for(policy, wanted)
    batch = assigned.batch
    policy.model.zero_grad()
    total = torch.zeros(())
    for number, one in enumerate(assigned.episodes):
        mine = torch.nonzero(batch.episode == number)[:, 0]
        ids = torch.tensor([[i for t in one.turns for i in (*t.prompt_ids, *t.action_ids)]])
        logprobs, _ = score_tokens(policy, ids, torch.zeros_like(mine), batch.column[mine])
        total = total - (assigned.token_advantages[mine] * logprobs).mean() / len(assigned.episodes)
    total.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in policy.parameters if p.grad is not None))
    policy.model.zero_grad()
    stats = make(policy, wanted)(assigned, 0)
    assert stats.grad_norm == pytest.approx(norm, rel=1e-3)
    assert stats.tokens == stats.scored == 14
    assert stats.loss["max_ratio"] == pytest.approx(1.0, abs=1e-3)
    assert stats.mismatch == pytest.approx(0.0, abs=1e-5)
    wanted_loss = float(sum(assigned.token_advantages[batch.episode == n].mean() for n in range(5)) / -5)
    assert stats.loss["loss"] == pytest.approx(wanted_loss, abs=1e-5)


@pytest.mark.parametrize("budget", [256, 16384])
def test_the_size_of_the_passes_does_not_change_the_update(policy: Policy, budget: int) -> None:
    long = [episode(g, float(w), turn(range(20, 120), [30 + g + w])) for g in (0, 1) for w in (0, 1)]  # two rows a pass
    wanted = recipe(optimizer={"micro_batch_tokens": budget, "lr": 1e-3})
    whole = recipe(optimizer={"lr": 1e-3})
    other = copy.deepcopy(policy)
    stats = make(policy, wanted)(assign_credit(with_real_scores(policy, long), wanted, Workers()), 0)
    again = make(other, whole)(assign_credit(with_real_scores(other, long), whole, Workers()), 0)
    assert stats.grad_norm == pytest.approx(again.grad_norm, rel=1e-4)
    assert stats.loss["loss"] == pytest.approx(again.loss["loss"], abs=1e-5)


def test_minibatches_are_whole_episodes_each_once_per_epoch(policy: Policy) -> None:
    wanted = recipe(optimizer={"minibatches": 3, "epochs": 2})
    assigned = assigned_for(policy, wanted)
    update = make(policy, wanted)
    orders = []
    for epoch in range(2):
        parts = update._minibatches(assigned, 0, epoch)
        assert len(parts) == 3
        assert torch.equal(torch.stack(parts).sum(0), torch.ones(14, dtype=torch.long))
        episodes = [set(assigned.batch.episode[part].tolist()) for part in parts]
        assert sorted(map(len, episodes)) == [1, 2, 2]
        orders.append(episodes)
    assert orders[0] != orders[1]
    assert [torch.equal(a, b) for a, b in zip(
        update._minibatches(assigned, 0, 1), update._minibatches(assigned, 0, 1), strict=True
    )] == [True] * 3  # fmt: skip


def test_each_minibatch_of_an_epoch_is_one_optimizer_step(policy: Policy) -> None:
    wanted = recipe(optimizer={"minibatches": 3, "epochs": 2, "lr": 1e-4})
    update = make(policy, wanted)
    stats = update(assigned_for(policy, wanted), 0)
    counts = {int(state["step"]) for state in update.optimizer.state.values()}
    assert counts == {6}
    assert stats.tokens == 14
    assert stats.scored == 28  # each token in both epochs


def test_more_minibatches_than_episodes_leave_some_empty(policy: Policy) -> None:
    wanted = recipe(optimizer={"minibatches": 8})
    update = make(policy, wanted)
    update(assigned_for(policy, wanted), 0)
    assert {int(state["step"]) for state in update.optimizer.state.values()} == {5}


@pytest.mark.parametrize("minibatches", [1, 2])
@pytest.mark.parametrize("old", ["sampled", "recomputed"])
def test_the_mismatch_is_the_mean_difference_from_the_sampled_log_probabilities(
    policy: Policy, old: str, minibatches: int
) -> None:
    wanted = recipe(optimizer={"old_logprobs": old, "minibatches": minibatches})
    assigned = assigned_for(policy, wanted)
    assigned.batch.logprobs.add_(0.01)
    stats = make(policy, wanted)(assigned, 0)
    assert stats.mismatch == pytest.approx(0.01, rel=1e-2)
    ratio = math.exp(-0.01) if old == "sampled" else 1.0
    if minibatches == 1:
        assert stats.loss["max_ratio"] == pytest.approx(ratio, abs=1e-3)


@pytest.mark.parametrize(("ratio", "budget"), [("step", 256), ("episode", 256), ("episode", 16384)])
def test_tokens_of_a_step_or_an_episode_share_one_ratio(policy: Policy, ratio: str, budget: int) -> None:
    """Whatever the passes: the old log-probabilities differ by token, and the largest ratio is that of a sequence."""
    wanted = recipe(loss={"ratio": ratio}, optimizer={"micro_batch_tokens": budget})
    assigned = assigned_for(policy, wanted)
    moved = torch.linspace(-0.5, 0.5, 14)
    assigned.batch.logprobs.sub_(moved)
    batch = assigned.batch
    sequences = batch.step if ratio == "step" else batch.episode
    largest = max(float(moved[sequences == one].mean()) for one in sequences.unique())
    stats = make(policy, wanted)(assigned, 0)
    assert stats.loss["max_ratio"] == pytest.approx(math.exp(largest), rel=1e-3)


def test_the_loss_of_several_steps_is_their_mean(policy: Policy) -> None:
    """With a rate of almost nothing every epoch has the same loss, and two epochs the same as one."""
    losses = []
    for epochs in (1, 2):
        wanted = recipe(optimizer={"epochs": epochs, "lr": 1e-12})
        losses.append(make(copy.deepcopy(policy), wanted)(assigned_for(policy, wanted), 0).loss["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted(policy: Policy) -> None:
    wanted = recipe()
    assigned = assigned_for(policy, wanted)
    assigned.advantages[3] = math.inf
    before = [p.clone() for p in policy.parameters]
    stats = make(policy, wanted)(assigned, 0)
    assert stats.skipped == 1
    assert all(torch.equal(p, b) for p, b in zip(policy.parameters, before, strict=True))
    assert all(p.grad is None for p in policy.parameters)


def test_an_empty_batch_takes_no_optimizer_step(policy: Policy) -> None:
    wanted = recipe()
    before = [p.clone() for p in policy.parameters]
    stats = make(policy, wanted)(assign_credit([], wanted, Workers()), 0)
    assert (stats.tokens, stats.skipped, stats.grad_norm, stats.loss["loss"]) == (0, 0, 0.0, 0.0)
    assert all(torch.equal(p, b) for p, b in zip(policy.parameters, before, strict=True))


def test_a_kl_penalty_reduces_the_distance_to_the_reference(policy: Policy) -> None:
    reference = policy.reference()
    with torch.no_grad():
        for parameter in policy.parameters:
            parameter.mul_(1.05)
    wanted = recipe(loss={"kl_coef": 100.0}, optimizer={"lr": 2e-4})
    update = make(policy, wanted, reference)
    kls = [update(assigned_for(policy, wanted), i).loss["kl_reference"] for i in range(12)]
    assert kls[0] > 1e-3
    assert kls[-1] < 0.5 * kls[0]


@pytest.fixture
def adapted(policy: Policy, tmp_path: Path) -> Policy:
    """The tiny policy with a new LoRA adapter."""
    pytest.importorskip("peft")
    policy.save(tmp_path)
    return load_policy(PolicySection(model=str(tmp_path), device="cpu", lora=LoraSection(r=2)))


@pytest.mark.parametrize("sections", [{}, {"autocast": True}, {"autocast": True, "gradient_checkpointing": True}])
def test_a_penalty_with_the_adapter_switched_off_trains_the_adapter(adapted: Policy, sections: dict[str, bool]) -> None:
    """Policy and reference have one model. The gradient of the first step is that of a copy as the reference."""
    wanted = recipe(loss={"kl_coef": 10.0}, optimizer={"lr": 1e-2, "epochs": 2, "max_grad_norm": 1e9, **sections})
    assigned = assigned_for(adapted, wanted)
    results = []
    for shared in (True, False):
        other = load_policy(PolicySection(model=adapted.model.name_or_path, device="cpu", lora=LoraSection(r=2)))
        reference = other.reference()
        assert reference.model is other.model
        if not shared:
            reference = Policy(copy.deepcopy(other.model), other.tokenizer, other.device)
        stats = make(other, wanted, reference)(assigned, 0)
        assert stats.loss["kl_reference"] > 0  # after the first of two steps
        results.append((stats, [p.detach().clone() for p in other.parameters]))
    (ours, mine), (theirs, copied) = results
    assert ours.loss["kl_reference"] == pytest.approx(theirs.loss["kl_reference"], rel=0.1 if sections else 1e-4)
    assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=0.1 if sections else 1e-3)
    for one, two in zip(mine, copied, strict=True):
        torch.testing.assert_close(one, two, atol=2e-2 if sections else 1e-4, rtol=0)


@pytest.mark.parametrize(("small_llama", "autocast"), [(True, False), (False, False), (False, True)])
def test_gradient_checkpointing_does_not_change_the_update(policy: Policy, small_llama: bool, autocast: bool) -> None:
    policy.is_small_llama = small_llama
    results = []
    for recomputed in (False, True):
        section = {"autocast": autocast, "gradient_checkpointing": recomputed, "old_logprobs": "recomputed"}
        wanted = recipe(optimizer=section)
        other = copy.deepcopy(policy)
        stats = make(other, wanted)(assigned_for(other, wanted), 0)
        results.append((stats.grad_norm, stats.loss["loss"], [p.detach() for p in other.parameters]))
    (norm, loss, weights), (norm_again, loss_again, weights_again) = results
    assert (norm, loss) == (norm_again, loss_again)
    assert all(torch.equal(one, two) for one, two in zip(weights, weights_again, strict=True))


def test_an_entropy_bonus_raises_entropy(policy: Policy) -> None:
    wanted = recipe(loss={"entropy_coef": 1.0}, optimizer={"lr": 1e-3})
    update = make(policy, wanted)
    entropies = [update(assigned_for(policy, wanted), i).loss["entropy"] for i in range(5)]
    assert entropies[-1] > entropies[0] + 0.01


def test_the_gradient_is_clipped_by_its_global_norm(policy: Policy) -> None:
    """SGD's step is the gradient itself: its length is the bound, and what is reported is the length before."""
    wanted = recipe(optimizer={"max_grad_norm": 1e-3, "lr": 1.0})
    before = [p.detach().clone() for p in policy.parameters]
    optimizer = torch.optim.SGD(policy.parameters, lr=1.0)
    stats = Update(policy, optimizer, wanted, Workers(), None)(assigned_for(policy, wanted), 0)
    moved = math.sqrt(
        sum(float((p.detach() - b).square().sum()) for p, b in zip(policy.parameters, before, strict=True))
    )
    assert stats.grad_norm > 1e-2
    assert moved == pytest.approx(1e-3, rel=2e-2)


def test_weight_decay_applies_to_matrices_only(policy: Policy) -> None:
    matrices, vectors = make_optimizer(policy, OptimizerSection(weight_decay=0.1)).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(policy.parameters)


def test_schedules_by_hand() -> None:
    def rates(schedule: str, warmup: int) -> list[float]:
        section = OptimizerSection(lr=1.0, schedule=schedule, warmup_iterations=warmup)
        return [round(learning_rate(section, i, 4), 4) for i in range(4)]

    assert rates("constant", 0) == [1, 1, 1, 1]
    assert rates("linear", 0) == [1, 0.75, 0.5, 0.25]
    assert rates("linear", 2) == [0.5, 1, 1, 0.5]
    assert rates("cosine", 0) == [1, 0.8536, 0.5, 0.1464]


def test_bfloat16_passes_stay_close(policy: Policy) -> None:
    exact, fast = recipe(), recipe(optimizer={"autocast": True})
    other = copy.deepcopy(policy)
    stats = make(policy, exact)(assigned_for(policy, exact), 0)
    close = make(other, fast)(assigned_for(other, fast), 0)
    assert close.grad_norm == pytest.approx(stats.grad_norm, rel=0.1)
    assert 0 < close.mismatch < 0.2
    assert all(p.dtype == torch.float32 for p in other.parameters)
