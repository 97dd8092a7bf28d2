"""From episodes to advantages: which episodes count, how rewards are shaped, which steps are dropped."""

from __future__ import annotations

import math

import pytest
import torch

from empg.credit import (
    ADVANTAGES,
    MODULATIONS,
    AdvantageEstimator,
    AdvantageInputs,
    EMPGConfig,
    StepTable,
    modulate,
    outcome_advantages,
)
from empg.credit.segments import segments_of
from empg.errors import RecipeError
from empg.learner.assign import assign_credit, groups_with_signal, overlong_share, shaped_reward
from empg.rollout.types import EndReason
from empg.system.workers import Workers
from tests.learner.plays import episode, recipe, turn, two_groups

ALONE = Workers()


def test_steps_get_the_credit_of_the_method_from_the_outcome_of_their_episode() -> None:
    episodes = two_groups()
    assigned = assign_credit(episodes, recipe(), ALONE)
    outcome = outcome_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1, 1]), "grpo")
    entropies = torch.tensor([0.2, 0.9, 1.4, 0.1, 0.3, 2.0, 0.6, 0.7, 0.8])
    owner = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 4])
    torch.testing.assert_close(assigned.base_advantages, outcome[owner])
    wanted = modulate(StepTable(entropy=entropies, episode=owner, advantage=outcome[owner])).advantage
    torch.testing.assert_close(assigned.advantages, wanted)
    assert abs(float(assigned.advantages.mean())) < 1e-6
    steps = [0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8]
    torch.testing.assert_close(assigned.token_advantages, wanted[steps])
    assert bool(assigned.keep.all())


@pytest.mark.parametrize(("constant", "value"), [("k", 3.0), ("k_future", 3.0), ("zeta", 0.5), ("eps", 0.5)])
def test_every_constant_of_the_recipe_reaches_the_equations(constant: str, value: float) -> None:
    plain = assign_credit(two_groups(), recipe(), ALONE)
    changed = assign_credit(two_groups(), recipe(credit={"modulation": {constant: value}}), ALONE)
    entropies = torch.tensor([0.2, 0.9, 1.4, 0.1, 0.3, 2.0, 0.6, 0.7, 0.8])
    owner = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 4])
    table = StepTable(entropy=entropies, episode=owner, advantage=plain.base_advantages)
    torch.testing.assert_close(changed.advantages, modulate(table, EMPGConfig(**{constant: value})).advantage)
    assert (changed.advantages - plain.advantages).abs().max() > 1e-2


def test_a_modulation_sees_how_far_the_run_has_come() -> None:
    falling = recipe(credit={"modulation": {"name": "empg_variant", "zeta": 0.4, "zeta_schedule": "linear"}})
    half = recipe(credit={"modulation": {"zeta": 0.2}})
    wanted = assign_credit(two_groups(), half, ALONE).advantages
    torch.testing.assert_close(assign_credit(two_groups(), falling, ALONE, finished=0.5).advantages, wanted)


def test_the_entropy_of_an_action_is_the_mean_over_its_tokens() -> None:
    """Two tokens of thought and one or two of action: 1.5, 0.5 and, without a thought, (0.2 + 0.4) / 2 = 0.3 nats."""
    written = [([0.1, 0.3, 1.0, 2.0], 2), ([4.0, 2.0, 0.5], 2), ([0.2, 0.4], 0)]
    turns = [turn([1], range(len(entropies)), action_start=start) for entropies, start in written]
    for each, (entropies, _) in zip(turns, written, strict=True):
        each.entropies = entropies
    episodes = [episode(0, 1.0, *turns[:2]), episode(0, 0.0, turns[2])]
    modulation = {"name": "empg_variant", "entropy": "action"}
    assigned = assign_credit(episodes, recipe(credit={"modulation": modulation}), ALONE)
    table = StepTable(
        entropy=torch.tensor([1.5, 0.5, 0.3]), episode=torch.tensor([0, 0, 1]), advantage=assigned.base_advantages
    )
    torch.testing.assert_close(assigned.advantages, modulate(table).advantage)
    assert [each.entropy for each in turns] == pytest.approx([0.85, 6.5 / 3, 0.3])  # the paper's


def test_a_modulation_sees_the_rewards_and_groups_of_the_episodes_that_are_trained_on() -> None:
    """GTPO ignores the base advantage: only the winners' and losers' entropies within a group matter."""
    credit = {"modulation": "gtpo", "overlong_penalty": 0.5}
    episodes = [
        episode(0, 0.0, turn([1], [2], 1.0)),
        episode(1, 1.0, turn([1], [2], 1.0), turn([3], [4], math.nan)),
        episode(1, 1.0, turn([1], [2], 3.0)),
        episode(1, 0.25, turn([1], [2], 9.0), end=EndReason.TOKEN_LIMIT),
        episode(0, 0.0, turn([1], [2], 3.0)),
    ]
    assigned = assign_credit(episodes, recipe(credit=credit), ALONE)
    torch.testing.assert_close(assigned.advantages, torch.tensor([-1.0, -1.0, 0.0, 1.0, 0.0, 1.0]))
    assert assigned.credit.scale is None


def test_without_the_method_a_step_gets_the_advantage_of_its_episode_and_its_process_reward() -> None:
    episodes = two_groups()
    episodes[0].turns[1].process_reward = 0.25
    episodes[4].turns[0].valid = False
    assigned = assign_credit(
        episodes, recipe(credit={"modulation": None, "advantage": "dr_grpo", "invalid_penalty": 0.5}), ALONE
    )
    third = 1 / 3
    wanted = [0.5, 0.75, -0.5, -third, -third, -third, 2 * third, -third - 0.5, -third]
    torch.testing.assert_close(assigned.advantages, torch.tensor(wanted))
    assert assigned.credit.modulated is None


def test_a_process_reward_is_added_to_the_clarity_bonus() -> None:
    plain = assign_credit(two_groups(), recipe(), ALONE)
    episodes = two_groups()
    episodes[0].turns[0].valid = False
    punished = assign_credit(episodes, recipe(credit={"invalid_penalty": 0.9}), ALONE)
    difference = punished.advantages - plain.advantages
    torch.testing.assert_close(difference[0], torch.tensor(-0.9 + 0.1))  # nine steps share the centring
    torch.testing.assert_close(difference[1:], torch.full((8,), 0.1))


@pytest.mark.parametrize("what", ["entropy", "logprob"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_dropped_and_counted_and_changes_no_other(what: str, value: float) -> None:
    episodes = two_groups()
    broken = episodes[2].turns[1]
    (broken.entropies if what == "entropy" else broken.logprobs)[1] = value
    assigned = assign_credit(episodes, recipe(), ALONE)
    assert assigned.dropped_steps == 1
    assert assigned.counted.tolist() == [True] * 4 + [False] + [True] * 4
    assert assigned.keep.tolist() == [True] * 7 + [False] * 2 + [True] * 5
    assert assigned.advantages[4] == 0
    assert bool(assigned.advantages.isfinite().all())
    # The others' credit is that of a batch in which the step never was.
    del episodes[2].turns[1]
    torch.testing.assert_close(
        assigned.advantages[assigned.counted], assign_credit(episodes, recipe(), ALONE).advantages
    )


def test_zero_variance_groups_are_dropped_on_request() -> None:
    episodes = [*two_groups(), episode(2, 0.0, turn([1], [2])), episode(2, 0.0, turn([1], [3]), turn([1], [4]))]
    kept = assign_credit(episodes, recipe(), ALONE)
    assert (kept.zero_variance_groups, kept.groups) == (1, 3)
    assert bool(kept.counted.all())
    dropped = assign_credit(episodes, recipe(credit={"drop_zero_variance": True}), ALONE)
    assert (dropped.zero_variance_groups, dropped.groups) == (1, 3)
    assert dropped.signal.tolist() == [True] * 5 + [False] * 2
    assert dropped.counted.tolist() == [True] * 9 + [False] * 3
    torch.testing.assert_close(dropped.advantages[:9], assign_credit(two_groups(), recipe(), ALONE).advantages)
    assert dropped.dropped_steps == 0


@pytest.mark.parametrize("method", ["reinforce", "grpo", "rloo", "dr_grpo", "gigpo"])
def test_dropped_groups_are_in_no_statistic_of_the_estimator(method: str) -> None:
    lost = [episode(group, 0.0, turn([1], [2])) for group in (2, 2, 3, 3)]
    settings = recipe(credit={"advantage": method, "drop_zero_variance": True})
    alone, among = (assign_credit(played, settings, ALONE) for played in (two_groups(), two_groups() + lost))
    count = len(alone.base_advantages)
    assert among.base_advantages[:count].tolist() == alone.base_advantages.tolist()
    assert among.base_advantages[count:].tolist() == [0.0] * len(lost)
    assert assign_credit(lost, settings, ALONE).counted.any().item() is False


def test_a_turn_without_tokens_is_no_step() -> None:
    whole, gap = two_groups(), two_groups()
    gap[0].turns.insert(1, turn([1], []))
    found, expected = (assign_credit(played, recipe(), ALONE) for played in (gap, whole))
    assert found.counted.tolist() == [True, False] + [True] * (len(found.counted) - 2)
    assert found.advantages[found.counted].tolist() == expected.advantages.tolist()


def test_a_new_estimator_with_step_level_advantages_needs_no_change_of_the_trainer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As GiGPO does: beside the episode, steps of a group that start from the same state are compared."""

    def same_state(inputs: AdvantageInputs) -> torch.Tensor:
        assert inputs.states is not None
        assert inputs.step_rewards is not None
        key = inputs.groups[inputs.episode] * 1000 + inputs.states
        alike = segments_of(key)
        return inputs.step_rewards - (alike.sum(inputs.step_rewards) / alike.sizes)[alike.index]

    entry = AdvantageEstimator(name="same_state", summary="", compares_within_group=True, estimate=same_state)
    monkeypatch.setitem(ADVANTAGES, "same_state", entry)
    episodes = two_groups()
    steps = [turn for one in episodes for turn in one.turns]  # of group 0: 0, 1, 2; of group 1: 3 to 8
    for step, observation in zip(steps, "abaaabaca", strict=True):
        step.observation = observation
    for step, reward in zip(steps, [1, 5, 0, 0, 3, 7, 0, 2, 1], strict=True):
        step.reward = float(reward)
    assigned = assign_credit(episodes, recipe(credit={"advantage": "same_state", "modulation": None}), ALONE)
    # Group 0: a (1, 0), b (5). Group 1: a (0, 3, 0, 1), b (7), c (2).
    assert assigned.base_advantages.tolist() == [0.5, 0, -0.5, -1, 2, 0, -1, 0, 0]
    assert torch.equal(assigned.advantages, assigned.base_advantages)
    with pytest.raises(RecipeError, match=r"credit\.advantage=same_state compares episodes"):
        recipe(credit={"advantage": "same_state"}, rollout={"group_size": 1})


def test_episodes_that_ended_in_an_environment_error_are_not_compared() -> None:
    episodes = two_groups()
    episodes[4].end = EndReason.ENV_ERROR
    episodes[0].end = EndReason.ENV_ERROR  # leaves episode 1 alone in its group
    assigned = assign_credit(episodes, recipe(), ALONE)
    assert assigned.episodes == [episodes[2], episodes[3]]
    wanted = torch.tensor([-1.0, -1.0, -1.0, 1.0]) / math.sqrt(2)  # three steps and one
    torch.testing.assert_close(assigned.base_advantages, wanted, atol=1e-5, rtol=1e-5)
    alone = assign_credit(episodes, recipe(credit={"advantage": "reinforce"}), ALONE)
    assert alone.episodes == episodes[1:4]


def test_an_episode_without_turns_is_not_compared() -> None:
    assigned = assign_credit([*two_groups(), episode(1, 1.0, end=EndReason.TOKEN_LIMIT)], recipe(), ALONE)
    assert len(assigned.episodes) == 5


def test_reaching_the_token_limit_costs_the_penalty_of_the_recipe() -> None:
    cut = episode(0, 0.0, turn([1], [2]), end=EndReason.TOKEN_LIMIT)
    lost = episode(0, 0.0, turn([1], [3]))
    penalty = recipe(credit={"overlong_penalty": 0.5})
    assert (shaped_reward(cut, penalty), shaped_reward(lost, penalty)) == (-0.5, 0.0)
    assert groups_with_signal([cut, lost], penalty) == 1
    assert groups_with_signal([cut, lost], recipe()) == 0
    wanted = pytest.approx([-0.7071, 0.7071], abs=1e-3)
    assert assign_credit([cut, lost], penalty, ALONE).base_advantages.tolist() == wanted


@pytest.mark.parametrize(
    ("history", "length", "share"),
    [
        ("merged", 80, 0.0),  # the limit is 100 tokens, and its last fifth is the ramp
        ("merged", 85, 0.25),
        ("merged", 100, 1.0),
        ("per_turn", 85, 0.0),  # two contexts of 43 and 42 tokens
    ],
)
def test_the_overlong_penalty_rises_over_the_last_part_of_the_token_limit(
    history: str, length: int, share: float
) -> None:
    """Equation 13 of DAPO, arXiv 2503.14476, for the longest context of an episode, prompts included."""
    ramp = recipe(
        rollout={"max_episode_tokens": 100},
        agent={"history": history},
        credit={"overlong_penalty": 0.5, "overlong_ramp": 0.2},
    )
    played = episode(0, 1.0, turn([1] * 40, [2] * 3), turn([1], [2] * (length - 44)))
    assert overlong_share(played, ramp) == pytest.approx(share)
    assert shaped_reward(played, ramp) == pytest.approx(1.0 - 0.5 * share)
    played.end = EndReason.TOKEN_LIMIT  # the next prompt did not fit, whatever the length so far
    assert shaped_reward(played, ramp) == 0.5


def test_a_penalty_is_part_of_the_reward_of_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[AdvantageInputs] = []

    def look(inputs: AdvantageInputs) -> torch.Tensor:
        seen.append(inputs)
        return torch.zeros(len(inputs.episode))

    entry = AdvantageEstimator(name="look", summary="", compares_within_group=True, estimate=look)
    monkeypatch.setitem(ADVANTAGES, "look", entry)
    episodes = two_groups()
    for one in episodes:
        one.turns[-1].reward = one.reward
    episodes[2].end = EndReason.TOKEN_LIMIT
    assign_credit(episodes, recipe(credit={"advantage": "look", "overlong_penalty": 0.5}), ALONE)
    assert seen[0].step_rewards is not None
    assert seen[0].step_rewards.tolist() == [0, 1, 0, 0, 0, -0.5, 1, 0, 0]
    assert seen[0].rewards.tolist() == [1, 0, -0.5, 1, 0]


def test_the_options_of_gigpo_reach_the_estimator() -> None:
    episodes = two_groups()
    for one in episodes:
        one.turns[-1].reward = one.reward
    plain, doubled = (
        assign_credit(
            episodes, recipe(credit={"advantage": {"name": "gigpo", "weight": weight}, "modulation": None}), ALONE
        ).advantages
        for weight in (0.0, 2.0)
    )
    assert torch.equal(
        plain, assign_credit(episodes, recipe(credit={"advantage": "grpo", "modulation": None}), ALONE).advantages
    )
    # All observations are equal, so that the steps of a group are compared. Returns of group 0: 0.95, 1, 0.
    mean, std = 1.95 / 3, torch.tensor([0.95, 1.0, 0.0]).std()
    step = (torch.tensor([0.95, 1.0, 0.0]) - mean) / std
    torch.testing.assert_close(doubled[:3] - plain[:3], 2 * step, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("overlong", "end", "cut", "fined"),
    [
        (0.5, EndReason.TOKEN_LIMIT, True, False),  # the episode's reward has the fine for it
        (0.0, EndReason.TOKEN_LIMIT, True, True),  # no other fine
        (0.5, EndReason.TOKEN_LIMIT, False, True),  # malformed by itself; then the next prompt did not fit
        (0.5, EndReason.LOST, True, True),  # no fine for the length
    ],
)
def test_a_turn_that_the_token_limit_cut_is_fined_once(overlong: float, end: EndReason, cut: bool, fined: bool) -> None:
    episodes = [episode(0, 0.0, turn([1], [2], valid=False, cut=cut), end=end), episode(0, 0.0, turn([1], [3]))]
    fines = recipe(credit={"overlong_penalty": overlong, "invalid_penalty": 0.25})
    assert assign_credit(episodes, fines, ALONE).process_reward.tolist() == [-0.25 * fined, 0.0]


@pytest.mark.parametrize("method", [name for name, entry in ADVANTAGES.items() if not entry.needs_critic])
@pytest.mark.parametrize("modulation", [None, *MODULATIONS])
def test_no_episodes_make_an_empty_update(method: str, modulation: str | None) -> None:
    assigned = assign_credit([], recipe(credit={"advantage": method, "modulation": modulation}), ALONE)
    assert len(assigned.batch) == len(assigned.advantages) == 0


def test_both_row_formats_train_the_same_tokens_with_the_same_credit() -> None:
    merged, per_turn = (
        assign_credit(two_groups(), recipe(agent={"history": history}), ALONE) for history in ("merged", "per_turn")
    )
    assert len(merged.batch.rows) == 5
    assert len(per_turn.batch.rows) == 9

    def trained(assigned):
        batch = assigned.batch
        return [batch.rows[row][column] for row, column in zip(batch.row.tolist(), batch.column.tolist(), strict=True)]

    assert trained(merged) == trained(per_turn) == [*range(30, 33), *range(33, 36), *range(36, 44)]
    assert torch.equal(merged.token_advantages, per_turn.token_advantages)
    assert torch.equal(merged.batch.step, per_turn.batch.step)


def test_a_group_has_signal_exactly_if_its_credit_says_so() -> None:
    """Rewards that float32 cannot tell apart are equal, for resampling and for the advantage."""
    close = [episode(0, 0.1, turn([1], [2])), episode(0, 0.1 + 1e-12, turn([1], [3]))]
    for played in (close, two_groups(), [*close, episode(1, 0.5, turn([1], [2]))], []):
        assigned = assign_credit(played, recipe(), ALONE)
        assert groups_with_signal(played, recipe()) == assigned.groups - assigned.zero_variance_groups
