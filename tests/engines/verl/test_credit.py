"""The advantages of a verl batch equal those of `empg.credit` on the same steps, whatever the order of its rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from empg.credit import MODULATIONS, ModulationInputs, StepTable, modulate_advantages, step_ids_from_mask
from empg.engines.verl.credit import modulate_rows, step_ids_of

WIDTH = 12


def batch(seed: int = 0, groups: int = 2, size: int = 3):
    """Rows of one output per episode: two runs of written tokens each."""
    generator = torch.Generator().manual_seed(seed)
    rows = groups * size
    mask = torch.zeros(rows, WIDTH, dtype=torch.long)
    for row in range(rows):
        mask[row, : 2 + row % 3] = 1
        mask[row, 6 : 8 + row % 2] = 1
    rewards = torch.rand(rows, generator=generator)
    advantages = torch.randn(rows, generator=generator)[:, None] * mask
    entropies = torch.rand(rows, WIDTH, generator=generator)
    keys = [f"task_{group}_{session}_0" for group in range(groups) for session in range(size)]
    return keys, advantages, entropies, mask, rewards


@pytest.mark.parametrize("name", MODULATIONS)
def test_the_advantages_are_those_of_the_rule(name: str) -> None:
    keys, advantages, entropies, mask, rewards = batch()
    steps = step_ids_from_mask(mask)
    result = modulate_rows(keys, advantages, entropies, steps, rewards, {"name": name}, finished=0.25)

    table = StepTable.from_tokens(advantages.max(1).values + advantages.min(1).values, entropies, steps)
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    rule = MODULATIONS[name]
    seen = ModulationInputs(steps=table, rewards=rewards, groups=groups, finished=0.25)
    expected = rule(seen, rule.options()).advantage
    torch.testing.assert_close(result.credit.advantage, expected, rtol=0, atol=0)
    assert torch.equal(result.advantages[mask == 1].unique(), expected.unique())
    assert not result.advantages[mask == 0].any()


def test_empg_equals_the_function_of_the_library() -> None:
    keys, advantages, entropies, mask, rewards = batch()
    steps = step_ids_from_mask(mask)
    options = {"name": "empg", "k": 0.5, "k_future": 2.0, "zeta": 0.3}
    result = modulate_rows(keys, advantages, entropies, steps, rewards, options)
    scalar = advantages.sum(1) / mask.sum(1)
    expected = modulate_advantages(scalar, entropies, steps, k=0.5, k_future=2.0, zeta=0.3)
    torch.testing.assert_close(result.advantages, expected)


def test_the_order_of_the_rows_does_not_matter() -> None:
    keys, advantages, entropies, mask, rewards = batch()
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    steps = step_ids_from_mask(mask)
    one = modulate_rows(keys, advantages, entropies, steps, rewards, {"name": "empg"})
    two = modulate_rows(
        [keys[row] for row in order],
        advantages[order],
        entropies[order],
        steps[order],
        rewards[order],
        {"name": "empg"},
    )
    torch.testing.assert_close(two.advantages, one.advantages[order])


def test_outputs_of_a_session_are_one_episode() -> None:
    """An episode in one row equals the same episode with each of its steps in a row, in whatever order these come."""
    keys, advantages, entropies, mask, rewards = batch()
    steps = step_ids_from_mask(mask)
    whole = modulate_rows(keys, advantages, entropies, steps, rewards, {"name": "empg"})
    parts: list[tuple[Any, ...]] = [
        (f"{key[:-2]}_{step}", advantages[row], entropies[row], torch.where(steps[row] == step, 0, -1), rewards[row])
        for step in (1, 0)
        for row, key in enumerate(keys)
    ]
    advantages_, entropies_, steps_, rewards_ = (torch.stack([part[i] for part in parts]) for i in range(1, 5))
    divided = modulate_rows(
        [part[0] for part in parts], advantages_ * (steps_ >= 0), entropies_, steps_, rewards_, {"name": "empg"}
    )
    assert divided.steps.step.max() == 1
    second, first = divided.advantages.split(len(keys))
    torch.testing.assert_close(first + second, whole.advantages)


def test_rows_that_verl_adds_as_padding_take_no_part() -> None:
    keys, advantages, entropies, mask, rewards = batch()
    steps = step_ids_from_mask(mask)
    alone = modulate_rows(keys, advantages, entropies, steps, rewards, {"name": "empg"})
    padded = modulate_rows(
        ["pad9_0_0", *keys],
        torch.cat([torch.zeros(1, WIDTH), advantages]),
        torch.cat([torch.full((1, WIDTH), 50.0), entropies]),
        torch.cat([torch.full((1, WIDTH), -1), steps]),
        torch.cat([torch.zeros(1), rewards]),
        {"name": "empg"},
    )
    torch.testing.assert_close(padded.advantages[1:], alone.advantages)
    assert not padded.advantages[0].any()


def test_a_batch_without_steps_has_no_advantages() -> None:
    none = torch.zeros(1, 3)
    assert not modulate_rows(["a_0_0"], none, none, none.long() - 1, torch.zeros(1), {"name": "empg"}).advantages.any()


def test_advantages_that_vary_within_a_step_are_an_error() -> None:
    keys, advantages, entropies, mask, rewards = batch()
    advantages[0, 0] += 1
    with pytest.raises(ValueError, match="EMPG assigns credit to whole steps"):
        modulate_rows(keys, advantages, entropies, step_ids_from_mask(mask), rewards, {"name": "empg"})


def test_another_form_of_key_is_named() -> None:
    keys, advantages, entropies, mask, rewards = batch()
    with pytest.raises(ValueError, match="expected a key uid_session_index, got 'row'"):
        modulate_rows(["row", *keys[1:]], advantages, entropies, step_ids_from_mask(mask), rewards, {"name": "empg"})


def test_step_ids_are_given_or_runs_and_rejected_tokens_leave_no_gap() -> None:
    written = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1]])
    counted = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 1]])
    assert step_ids_of([[0, 0, 1, 2], None], written, written).tolist() == [[0, 0, 1, 2], [0, -1, 1, 1]]
    assert step_ids_of([[0, 0, 1, 2], None], written, counted).tolist() == [[0, -1, -1, 1], [-1, -1, 0, 0]]


def test_step_ids_that_go_backwards_are_an_error() -> None:
    keys, advantages, entropies, *_, rewards = batch(groups=1, size=1)
    written = (torch.arange(WIDTH) < 4).long()[None]
    steps = step_ids_of([[0, 0, 1, 0]], written, written)
    with pytest.raises(ValueError, match="row 0, token 3: step 0 follows step 1"):
        modulate_rows(keys, advantages, entropies, steps, rewards, {"name": "empg"})


def test_a_written_token_without_a_step_is_an_error() -> None:
    written = torch.tensor([[1, 1, 0, 1]])
    with pytest.raises(ValueError, match="row 0: token 3 is of the model and has no step"):
        step_ids_of([[0, 0]], written, written)


def test_more_step_ids_than_tokens_are_an_error() -> None:
    with pytest.raises(ValueError, match="row 0: expected at most 2, got 3"):
        step_ids_of([[0, 0, 0]], torch.ones(1, 2).long(), torch.ones(1, 2).long())
