"""Common implementation mistakes of EMPG, each as a test that fails for it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from empg.credit import (
    EMPGConfig,
    KLEstimator,
    LossConfig,
    StepTable,
    kl_divergence,
    modulate,
    modulate_advantages,
    outcome_advantages,
    policy_loss,
    step_ids_from_mask,
)
from tests.credit.batches import GARBAGE, Batch

BATCH = Batch([1.0, -1.0], [[[0.5, 0.7], [0.1], [0.9]], [[0.4], [0.2, 0.3]]])


def flat(tokens: Tensor, step_ids: Tensor) -> Tensor:
    return tokens[step_ids >= 0]


@pytest.mark.parametrize("garbage", [0.0, -7.0, 1e9, math.inf, math.nan])
def test_padding_and_observations_are_outside_every_statistic(garbage: float) -> None:
    advantages, entropies, step_ids = BATCH.tensors()
    clean = flat(modulate_advantages(advantages, entropies.nan_to_num(0.5), step_ids), step_ids)
    polluted = torch.where(step_ids >= 0, entropies, garbage)
    assert torch.equal(flat(modulate_advantages(advantages, polluted, step_ids), step_ids), clean)
    wide, wide_ids = torch.full((2, 40), garbage), torch.full((2, 40), -1)
    wide[:, -step_ids.shape[1] :], wide_ids[:, -step_ids.shape[1] :] = polluted, step_ids  # left padding
    assert torch.equal(flat(modulate_advantages(advantages, wide, wide_ids), wide_ids), clean)


def test_more_observation_tokens_change_nothing() -> None:
    few, many = BATCH.tensors(gap=1), BATCH.tensors(gap=9)
    assert torch.equal(flat(modulate_advantages(*few), few[2]), flat(modulate_advantages(*many), many[2]))


def test_a_repeated_row_has_no_effect_if_its_step_ids_are_minus_one() -> None:
    # Engines repeat rows to fill their last batch. Unchanged, these rows would count twice.
    advantages, entropies, step_ids = BATCH.tensors()
    filled = [torch.cat([tensor, tensor[:1]]) for tensor in (advantages, entropies, step_ids)]
    clean = modulate_advantages(advantages, entropies, step_ids)
    assert not torch.allclose(modulate_advantages(*filled)[:2], clean)
    filled[2][2] = -1
    assert torch.equal(modulate_advantages(*filled)[:2], clean)


def test_turns_and_their_order_come_from_step_ids_not_from_text_or_token_ids() -> None:
    # The mask alone gives the turns, for any vocabulary; their order is the order in time.
    mask = torch.tensor([[0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0]])
    assert step_ids_from_mask(mask).tolist() == [[-1, 0, 0, -1, -1, 1, -1, 2, 2, 2, -1]]


def test_many_steps_stay_in_order() -> None:
    # With ten steps or more, sorting by text would put step 10 after step 1.
    steps = 12
    entropy = torch.linspace(0, 1, steps)
    credit = modulate(StepTable(entropy=entropy, episode=torch.zeros(steps).long(), advantage=torch.zeros(steps)))
    torch.testing.assert_close(credit.clarity[:-1], torch.exp(-entropy[1:]))


def test_each_g_scales_its_own_step_only() -> None:
    # Multiplying every g into the whole batch would leave each step with the product of all.
    steps = BATCH.table()
    credit = modulate(steps, EMPGConfig(zeta=0))
    torch.testing.assert_close(credit.modulated / steps.advantage, credit.scale)
    raised = torch.where(steps.episode == 0, 5.0, steps.advantage)
    other = StepTable(entropy=steps.entropy, episode=steps.episode, advantage=raised)
    assert torch.equal(modulate(other, EMPGConfig(zeta=0)).modulated[3:], credit.modulated[3:])


def test_the_next_step_is_never_taken_from_the_next_episode() -> None:
    advantages, entropies, step_ids = BATCH.tensors()
    steps = BATCH.table()
    clarity = modulate(steps).clarity
    assert clarity[~steps.has_next].tolist() == [0.0, 0.0]
    assert (clarity[steps.has_next] > 0).all()
    swapped = modulate(StepTable.from_tokens(advantages.flip(0), entropies.flip(0), step_ids.flip(0))).clarity
    assert torch.equal(swapped, torch.cat([clarity[3:], clarity[:3]]))


@pytest.mark.parametrize(
    ("constant", "changed"),
    [({"k": 2.0}, "scale"), ({"k_future": 2.0}, "clarity"), ({"zeta": 0.5}, "modulated"), ({"eps": 0.5}, "scale")],
)
def test_every_constant_reaches_its_term(constant: dict[str, Any], changed: str) -> None:
    default, other = modulate(BATCH.table()), modulate(BATCH.table(), EMPGConfig(**constant))
    assert not torch.allclose(getattr(default, changed), getattr(other, changed))
    assert not torch.allclose(modulate_advantages(*BATCH.tensors()), modulate_advantages(*BATCH.tensors(), **constant))
    untouched = {"k": "clarity", "k_future": "scale", "zeta": "scale"}.get(next(iter(constant)))
    assert untouched is None or torch.equal(getattr(default, untouched), getattr(other, untouched))


def test_long_episodes_count_more_only_under_step_weighting() -> None:
    rewards, groups, num_steps = torch.tensor([1.0, 0.0]), torch.tensor([0, 0]), torch.tensor([1, 3])
    assert outcome_advantages(rewards, groups, "dr_grpo", num_steps=num_steps).tolist() == [0.5, -0.5]
    assert outcome_advantages(rewards, groups, "dr_grpo", weighting="step", num_steps=num_steps).tolist() == [
        0.75,
        -0.25,
    ]


def test_the_closing_token_of_a_turn_is_one_of_its_tokens() -> None:
    steps = StepTable.from_tokens(torch.ones(1), torch.tensor([[0.2, 0.4, 0.9]]), torch.tensor([[0, 0, 0]]))
    assert steps.entropy.item() == pytest.approx(0.5)


def test_no_credit_leaks_onto_observations() -> None:
    advantages, entropies, step_ids = BATCH.tensors()
    tokens = modulate_advantages(advantages, entropies, step_ids)
    assert torch.equal(tokens != 0, step_ids >= 0)


def test_centring_is_over_steps_not_tokens() -> None:
    # A long step is one step. Centring over tokens would let it count by its length.
    advantages, entropies, step_ids = Batch([1.0, -1.0], [[[0.5] * 9], [[0.5]]]).tensors()
    tokens = modulate_advantages(advantages, entropies, step_ids, zeta=0.0)
    assert flat(tokens, step_ids).tolist() == [1.0] * 9 + [-1.0]


def test_normalisation_is_over_the_batch_not_the_episode() -> None:
    # Within each episode alone, both would run from 0 to 1.
    credit = modulate(Batch([1.0, 1.0], [[[0.0], [1.0]], [[3.0], [4.0]]]).table())
    torch.testing.assert_close(credit.normalised_entropy, torch.tensor([0.0, 0.25, 0.75, 1.0]))


@pytest.mark.parametrize("far", [-1e4, -90.0, 90.0, 1e4])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_does_not_overflow_to_nan(far: float, estimator: KLEstimator) -> None:
    logprobs = torch.tensor([-1.0 - far], requires_grad=True)
    kl = kl_divergence(logprobs, torch.tensor([-1.0]), estimator)
    kl.sum().backward()
    assert kl.isfinite().all()
    assert logprobs.grad is not None
    assert logprobs.grad.isfinite().all()


def test_kl_keeps_its_gradient_far_from_the_reference() -> None:
    # The exponent is bounded only on the side where it overflows: the other side keeps its gradient.
    logprobs = torch.tensor([-0.1], requires_grad=True)
    kl_divergence(logprobs, torch.tensor([-200.0]), "k3").sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(1)


def test_one_extreme_token_does_not_spoil_an_update() -> None:
    logprobs = torch.tensor([-1.0, -0.5], requires_grad=True)
    old, ref = torch.tensor([-3e4, -0.5]), torch.tensor([-1.0, 3e4])
    ones = torch.ones(2)
    loss, stats = policy_loss(logprobs, old, -ones, ones, LossConfig(kl_coef=0.1), ref_logprobs=ref)
    loss.backward()
    assert loss.isfinite()
    assert logprobs.grad is not None
    assert logprobs.grad.isfinite().all()
    assert all(math.isfinite(value) for value in stats.metrics().values())


def test_an_entropy_that_is_not_finite_is_an_error_that_names_its_step() -> None:
    advantages, entropies, step_ids = BATCH.tensors()
    entropies[1][step_ids[1] == 1] = GARBAGE
    with pytest.raises(ValueError, match="row 1, step 1"):
        modulate_advantages(advantages, entropies, step_ids)
