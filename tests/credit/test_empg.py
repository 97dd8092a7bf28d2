"""EMPG itself: the equations against the reference, the properties they have, and their edge cases."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from empg.credit import EMPGConfig, StepTable, modulate, modulate_advantages, to_tokens
from tests.credit import reference
from tests.credit.batches import Batch, batches, constants

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 2e-5}


def table(
    entropy: list[float], episode: list[int], advantage: list[float], process: list[float] | None = None
) -> StepTable:
    reward = None if process is None else torch.tensor(process)
    columns = {
        "entropy": torch.tensor(entropy),
        "episode": torch.tensor(episode).long(),
        "advantage": torch.tensor(advantage),
    }
    return StepTable(**columns, process_reward=reward)


class TestEquations:
    def test_by_hand(self) -> None:
        # Episode 0 won (A = 1) with steps of 0.5, 1.0 and 1.5 nats; episode 1 lost (A = -1) with one step of 0.5 nats.
        # Hn = 0, 1/2, 1, 0. With k = k' = ln 4: exp(-k Hn) = 1, 1/2, 1/4, 1, their mean 11/16.
        steps = table([0.5, 1.0, 1.5, 0.5], [0, 0, 0, 1], [1.0, 1.0, 1.0, -1.0])
        credit = modulate(steps, EMPGConfig(k=math.log(4), k_future=math.log(4), zeta=0.1))
        g = torch.tensor([16 / 11, 8 / 11, 4 / 11, 16 / 11])
        modulated = torch.tensor([16 / 11 + 0.05, 8 / 11 + 0.025, 4 / 11, -16 / 11])
        torch.testing.assert_close(credit.normalised_entropy, torch.tensor([0.0, 0.5, 1.0, 0.0]))
        torch.testing.assert_close(credit.scale, g)
        torch.testing.assert_close(credit.clarity, torch.tensor([0.5, 0.25, 0.0, 0.0]))
        torch.testing.assert_close(credit.modulated, modulated)
        torch.testing.assert_close(credit.advantage, modulated - modulated.mean())

    @given(batches(), constants)
    def test_every_intermediate_equals_the_reference(self, batch: Batch, constants: dict[str, Any]) -> None:
        credit = modulate(batch.table(), EMPGConfig(**constants))
        expected = reference.empg(batch.advantages, batch.entropies, **constants)
        np.testing.assert_allclose(batch.table().entropy, expected.entropy, rtol=1e-6)
        np.testing.assert_allclose(credit.normalised_entropy, expected.normalised, **CLOSE)
        np.testing.assert_allclose(credit.scale, expected.g, **CLOSE)
        np.testing.assert_allclose(credit.clarity, expected.f_next, **CLOSE)
        np.testing.assert_allclose(credit.modulated, expected.modulated, **CLOSE)
        np.testing.assert_allclose(credit.advantage, expected.final, **CLOSE)

    @given(
        tokens=st.lists(st.floats(0.001953125, 8.0, width=32), min_size=2, max_size=40),
        rng=st.randoms(use_true_random=False),
    )
    def test_steps_of_the_same_tokens_have_g_of_exactly_one(self, tokens: list[float], rng: random.Random) -> None:
        # In float32 the sums would differ in their last bit, and min-max would turn that into 0 and 1.
        rows = [rng.sample(tokens, len(tokens)) for _ in range(6)] + [[*tokens, *tokens]]
        width = 2 * len(tokens)
        entropies = torch.tensor([row + [math.nan] * (width - len(row)) for row in rows])
        step_ids = torch.tensor([[0] * len(row) + [-1] * (width - len(row)) for row in rows])
        advantages = torch.arange(7.0)
        credit = modulate(StepTable.from_tokens(advantages, entropies, step_ids))
        assert torch.equal(credit.scale, torch.ones(7))
        final = modulate_advantages(advantages, entropies, step_ids)
        torch.testing.assert_close(final[:, 0], advantages - advantages.mean())

    @given(batches(), st.data())
    def test_process_rewards_are_added_before_centring(self, batch: Batch, data: st.DataObject) -> None:
        rewards = [[data.draw(st.integers(-8, 8)) / 8 for _ in steps] for steps in batch.entropies]
        plain = batch.table()
        flat = torch.tensor([reward for episode in rewards for reward in episode])
        columns = {"entropy": plain.entropy, "episode": plain.episode, "advantage": plain.advantage}
        credit = modulate(StepTable(**columns, process_reward=flat))
        expected = reference.empg(batch.advantages, batch.entropies, process_rewards=rewards)
        np.testing.assert_allclose(credit.modulated, expected.modulated, **CLOSE)
        np.testing.assert_allclose(credit.advantage, expected.final, **CLOSE)

    @given(batches(), constants)
    def test_each_token_carries_the_advantage_of_its_step(self, batch: Batch, constants: dict[str, Any]) -> None:
        advantages, entropies, step_ids = batch.tensors()
        tokens = modulate_advantages(advantages, entropies, step_ids, **constants)
        expected = iter(reference.empg(batch.advantages, batch.entropies, **constants).final)
        for row, steps in enumerate(batch.entropies):
            for step in range(len(steps)):
                mine = tokens[row][step_ids[row] == step]
                np.testing.assert_allclose(mine, np.full(len(steps[step]), next(expected)), **CLOSE)
        assert (tokens[step_ids < 0] == 0).all()

    @given(batches())
    def test_advantages_per_token_and_per_episode_are_the_same(self, batch: Batch) -> None:
        advantages, entropies, step_ids = batch.tensors()
        per_token = torch.where(step_ids >= 0, advantages[:, None], torch.nan)
        one, other = (modulate_advantages(a, entropies, step_ids) for a in (advantages, per_token))
        assert torch.equal(one, other)


class TestProperties:
    @given(batches(), constants)
    def test_scaling_has_mean_one(self, batch: Batch, constants: dict[str, Any]) -> None:
        scale = modulate(batch.table(), EMPGConfig(**constants)).scale
        assert scale.double().mean().item() == pytest.approx(1, abs=1e-6)

    @given(batches(), constants)
    def test_final_advantage_has_mean_zero(self, batch: Batch, constants: dict[str, Any]) -> None:
        credit = modulate(batch.table(), EMPGConfig(**constants))
        assert credit.advantage.double().mean().item() == pytest.approx(0, abs=2e-6)

    @given(batches())
    def test_both_parts_off_leaves_the_centred_outcome_advantage(self, batch: Batch) -> None:
        steps = batch.table()
        credit = modulate(steps, EMPGConfig(k=0, zeta=0))
        torch.testing.assert_close(credit.advantage, steps.advantage - steps.advantage.mean())

    @given(batches(), st.randoms(use_true_random=False))
    def test_permuting_episodes_permutes_the_result(self, batch: Batch, rng: random.Random) -> None:
        order = list(range(len(batch.advantages)))
        rng.shuffle(order)
        advantages, entropies, step_ids = batch.tensors()
        straight = modulate_advantages(advantages, entropies, step_ids)
        shuffled = modulate_advantages(advantages[order], entropies[order], step_ids[order])
        torch.testing.assert_close(shuffled, straight[order], rtol=1e-5, atol=1e-6)

    @given(batches())
    def test_confident_steps_weigh_more_and_signs_do_not_change(self, batch: Batch) -> None:
        steps = batch.table()
        credit = modulate(steps, EMPGConfig(zeta=0))
        most_confident_first = credit.scale[steps.entropy.argsort()]
        assert (most_confident_first.diff() <= 0).all()
        assert torch.equal(credit.modulated.sign(), steps.advantage.sign())

    def test_scaling_spans_at_most_a_factor_e_with_k_one(self) -> None:
        scale = modulate(table([0.0, 0.3, 9.0], [0, 1, 2], [1.0, 1.0, 1.0])).scale
        assert (scale.max() / scale.min()).item() == pytest.approx(math.e, rel=1e-5)

    def test_the_last_step_is_lowered_by_the_mean_bonus(self) -> None:
        credit = modulate(table([0.2, 0.9, 0.4], [0, 0, 0], [0.0, 0.0, 0.0]), EMPGConfig(zeta=0.3))
        assert credit.advantage[-1].item() == pytest.approx(-0.3 * credit.clarity.mean().item(), rel=1e-6)

    def test_results_are_repeatable(self) -> None:
        torch.manual_seed(0)
        entropies, advantages = torch.rand(64, 300), torch.randn(64)
        step_ids = torch.arange(300).div(7, rounding_mode="floor").expand(64, -1)
        first = modulate_advantages(advantages, entropies, step_ids)
        assert all(torch.equal(first, modulate_advantages(advantages, entropies, step_ids)) for _ in range(5))


class TestEdgeCases:
    def test_one_step_in_the_batch(self) -> None:
        credit = modulate(table([0.7], [0], [2.0]))
        assert credit.normalised_entropy.item() == 0
        assert credit.scale.item() == 1
        assert credit.clarity.item() == 0
        assert credit.modulated.item() == 2
        assert credit.advantage.item() == 0

    def test_all_entropies_equal(self) -> None:
        credit = modulate(table([0.1] * 4, [0, 0, 1, 1], [1.0, 1.0, -1.0, -1.0]), EMPGConfig(zeta=0))
        assert torch.equal(credit.scale, torch.ones(4))
        assert torch.equal(credit.advantage, torch.tensor([1.0, 1.0, -1.0, -1.0]))

    def test_equal_tokens_in_steps_of_unequal_lengths_are_equal_steps(self) -> None:
        batch = Batch([1.0, -1.0], [[[0.1] * n for n in (1, 3, 6)], [[0.1] * n for n in (7, 10, 11)]])
        assert torch.equal(modulate(batch.table()).scale, torch.ones(6))

    def test_without_advantage_only_the_bonus_is_left(self) -> None:
        credit = modulate(table([0.1, 0.9, 0.5], [0, 0, 1], [0.0, 0.0, 0.0]), EMPGConfig(zeta=0.1))
        torch.testing.assert_close(credit.modulated, 0.1 * credit.clarity)

    def test_a_batch_without_steps(self) -> None:
        credit = modulate(table([], [], []))
        assert credit.advantage.shape == (0,)
        nothing = torch.full((2, 3), -1)
        assert torch.equal(modulate_advantages(torch.ones(2), torch.zeros(2, 3), nothing), torch.zeros(2, 3))

    def test_a_row_without_steps_has_no_effect(self) -> None:
        batch = Batch([1.0, -1.0], [[[0.2], [0.4]], [[0.9]]])
        advantages, entropies, step_ids = batch.tensors()
        blank = torch.full_like(step_ids[:1], -1)
        padded = modulate_advantages(
            torch.cat([advantages, torch.tensor([torch.nan])]),
            torch.cat([entropies, entropies[:1]]),
            torch.cat([step_ids, blank]),
        )
        assert torch.equal(padded[:2], modulate_advantages(advantages, entropies, step_ids))
        assert torch.equal(padded[2], torch.zeros_like(padded[2]))

    def test_a_truncated_episode_ends_with_its_last_step(self) -> None:
        whole = modulate(table([0.2, 0.4, 0.6], [0, 0, 0], [1.0] * 3))
        cut = modulate(table([0.2, 0.4], [0, 0], [1.0] * 2))
        assert whole.clarity[1] > 0
        assert cut.clarity[1] == 0

    def test_a_huge_k_stays_finite(self) -> None:
        credit = modulate(table([0.0, 5.0, 10.0], [0, 0, 0], [1.0] * 3), EMPGConfig(k=1e6, k_future=1e6))
        assert credit.advantage.isfinite().all()
        assert credit.scale[0].item() == pytest.approx(3)

    @pytest.mark.parametrize(
        ("wrong", "bounds"),
        [
            ({"k": -1.0}, "0 to 1e+15"),
            ({"k": 1e39}, "0 to 1e+15"),
            ({"k_future": math.nan}, "0 to 1e+15"),
            ({"zeta": math.inf}, "0 to 1e+15"),
            ({"eps": 0.0}, "1e-30 to 1e+15"),
            ({"eps": 1e-320}, "1e-30 to 1e+15"),
            ({"k": "1"}, "0 to 1e+15"),
            ({"k": None}, "0 to 1e+15"),
        ],
    )
    def test_invalid_constants_are_named(self, wrong: dict[str, Any], bounds: str) -> None:
        [(name, value)] = wrong.items()
        found = f"{name}: expected a number from {bounds}, got {value!r}"
        with pytest.raises(ValueError, match="^" + re.escape(found)):
            EMPGConfig(**wrong)

    @pytest.mark.parametrize("constants", [{"eps": 1e-30}, {"eps": 1e15}, {"k": 1e15, "k_future": 1e15, "zeta": 1e15}])
    @pytest.mark.parametrize("entropy", [[0.5, 0.5, 0.5], [0.0, 1e-7, 10.0]])
    def test_extreme_constants_stay_finite(self, constants: dict[str, float], entropy: list[float]) -> None:
        credit = modulate(table(entropy, [0, 0, 1], [1.0, 1.0, -1.0]), EMPGConfig(**constants))
        assert credit.scale.isfinite().all()
        assert credit.advantage.isfinite().all()


class TestTensors:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_any_float_in_float32_out(self, dtype: torch.dtype) -> None:
        advantages, entropies, step_ids = Batch([1.0, -1.0], [[[0.25], [0.5]], [[1.0]]]).tensors()
        out = modulate_advantages(advantages.to(dtype), entropies.to(dtype), step_ids)
        assert out.dtype == torch.float32
        assert torch.equal(out, modulate_advantages(advantages, entropies, step_ids))

    @pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
    def test_any_integer_step_ids(self, dtype: torch.dtype) -> None:
        advantages, entropies, step_ids = Batch([1.0, -1.0], [[[0.25], [0.5]], [[1.0]]]).tensors()
        expected = modulate_advantages(advantages, entropies, step_ids)
        assert torch.equal(modulate_advantages(advantages, entropies, step_ids.to(dtype)), expected)

    def test_no_gradient_flows_through_the_credit(self) -> None:
        advantages, entropies, step_ids = Batch([1.0, -1.0], [[[0.2], [0.4]], [[0.9]]]).tensors()
        out = modulate_advantages(advantages.requires_grad_(), entropies.requires_grad_(), step_ids)
        assert not out.requires_grad
        steps = StepTable.from_tokens(advantages, entropies, step_ids)
        assert not steps.entropy.requires_grad
        assert not steps.advantage.requires_grad

    def test_inputs_are_not_modified(self) -> None:
        inputs = Batch([1.0, -1.0], [[[0.2], [0.4]], [[0.9]]]).tensors()
        before = [tensor.clone() for tensor in inputs]
        modulate_advantages(*inputs)
        assert all(a.equal(b) or a.nan_to_num().equal(b.nan_to_num()) for a, b in zip(inputs, before, strict=True))

    def test_to_tokens_is_the_inverse(self) -> None:
        step_ids = torch.tensor([[-1, 0, 0, -1, 1], [0, -1, -1, -1, -1]])
        expected = torch.tensor([[0.0, 5.0, 5.0, 0.0, 6.0], [7.0, 0.0, 0.0, 0.0, 0.0]])
        assert torch.equal(to_tokens(torch.tensor([5.0, 6.0, 7.0]), step_ids), expected)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_the_same_on_a_gpu(self) -> None:
        torch.manual_seed(0)
        entropies, advantages = torch.rand(8, 60), torch.randn(8)
        step_ids = torch.arange(60).div(7, rounding_mode="floor").expand(8, -1)
        on_gpu = modulate_advantages(advantages.cuda(), entropies.cuda(), step_ids.cuda())
        torch.testing.assert_close(on_gpu.cpu(), modulate_advantages(advantages, entropies, step_ids))
