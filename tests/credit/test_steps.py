"""The step table and step ids: what a step is, and which input is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from empg.credit import (
    StepTable,
    TokenLayout,
    modulate,
    modulate_advantages,
    step_ids_from_mask,
    to_tokens,
    without_gaps,
)
from tests.credit.batches import Batch, batches

nan, inf = float("nan"), float("inf")


def table(entropy: Tensor, episode: Tensor, advantage: Tensor, process_reward: Tensor | None = None) -> StepTable:
    return StepTable(entropy=entropy, episode=episode, advantage=advantage, process_reward=process_reward)


class TestFromTokens:
    def test_a_row_per_step_in_reading_order(self) -> None:
        step_ids = torch.tensor([[-1, 0, 0, -1, 1], [0, 1, 1, 1, 2]])
        entropies = torch.tensor([[9.0, 1.0, 2.0, 9.0, 3.0], [4.0, 1.0, 2.0, 6.0, 8.0]])
        steps = StepTable.from_tokens(torch.tensor([1.0, -1.0]), entropies, step_ids)
        assert steps.entropy.tolist() == [1.5, 3.0, 4.0, 3.0, 8.0]
        assert steps.episode.tolist() == [0, 0, 1, 1, 1]
        assert steps.step.tolist() == [0, 1, 0, 1, 2]
        assert steps.advantage.tolist() == [1.0, 1.0, -1.0, -1.0, -1.0]
        assert steps.has_next.tolist() == [True, False, True, True, False]
        assert len(steps) == 5

    def test_a_masked_token_inside_a_step_does_not_split_it(self) -> None:
        steps = StepTable.from_tokens(torch.ones(1), torch.tensor([[1.0, nan, 3.0]]), torch.tensor([[0, -1, 0]]))
        assert steps.entropy.tolist() == [2.0]

    def test_an_advantage_may_differ_between_steps(self) -> None:
        advantages = torch.tensor([[0.5, 0.5, -2.0]])
        steps = StepTable.from_tokens(advantages, torch.ones(1, 3), torch.tensor([[0, 0, 1]]))
        assert steps.advantage.tolist() == [0.5, -2.0]

    @given(batches())
    def test_step_ids_from_mask_finds_the_steps_between_observations(self, batch: Batch) -> None:
        _, _, step_ids = batch.tensors(gap=2)
        assert torch.equal(step_ids_from_mask(step_ids >= 0), step_ids)


class WaitsForTheDevice(TorchDispatchMode):
    """Records the operations that make the host wait for a GPU. (The `tolist` of a check is not visible here.)"""

    NAMES = (
        "nonzero",
        "_local_scalar_dense",
        "masked_select",
        "_unique2",
        "unique_dim",
        "repeat_interleave",
        "bincount",
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        masked = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in (args[1] if name == "index" else ())
        )
        if name in self.NAMES or masked:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def test_the_host_waits_for_the_size_of_the_result_and_for_the_checks_alone() -> None:
    advantages, entropies, step_ids = Batch([1.0, -1.0], [[[0.2], [0.4]], [[0.9]]]).tensors()
    for values in (advantages, advantages[:, None].expand_as(entropies).clone()):
        with WaitsForTheDevice() as waits:
            modulate_advantages(values, entropies, step_ids)
        assert waits.found == ["nonzero", "_local_scalar_dense"]
    steps = StepTable.from_tokens(advantages, entropies, step_ids)
    with WaitsForTheDevice() as waits:
        modulate(steps)
        step_ids_from_mask(step_ids >= 0)
    assert waits.found == []
    with WaitsForTheDevice() as waits:
        table(steps.entropy, steps.episode, steps.advantage, steps.advantage)
    assert waits.found == ["_local_scalar_dense"]


class TestStepTable:
    def test_episode_ids_that_do_not_ascend_are_searched_and_accepted(self) -> None:
        assert table(torch.ones(3), torch.tensor([5, 5, 2]), torch.ones(3)).step.tolist() == [0, 1, 0]

    def test_episode_ids_are_any_numbers(self) -> None:
        steps = table(torch.ones(4), torch.tensor([7, 7, -3, 5]), torch.ones(4))
        assert steps.has_next.tolist() == [True, False, False, False]
        assert steps.step.tolist() == [0, 1, 0, 0]

    def test_the_process_reward_is_added_to_values_where_there_is_one(self) -> None:
        values, episode = torch.tensor([1.0, 2.0]), torch.tensor([0, 0])
        assert table(torch.ones(2), episode, torch.ones(2)).plus_process_reward(values) is values
        rewarded = table(torch.ones(2), episode, torch.ones(2), torch.tensor([0.5, -0.5]))
        assert rewarded.plus_process_reward(values).tolist() == [1.5, 1.5]

    def test_empty(self) -> None:
        steps = table(torch.zeros(0), torch.zeros(0, dtype=torch.int32), torch.zeros(0))
        assert (len(steps), len(steps.has_next), len(steps.step)) == (0, 0, 0)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                (torch.ones(2, 1), torch.tensor([0, 0]), torch.ones(2)),
                r"^entropy: expected one value per step, shape \(N,\), got \(2, 1\)",
            ),
            (
                (torch.ones(2), torch.tensor([0]), torch.ones(2)),
                r"^episode: expected shape \(2,\), the shape of entropy, got \(1,\)",
            ),
            ((torch.ones(2), torch.tensor([0, 0]), torch.ones(3)), r"^advantage: expected shape \(2,\), .* got \(3,\)"),
            (
                (torch.ones(2), torch.tensor([0, 0]), torch.ones(2), torch.ones(1)),
                r"^process_reward: expected shape \(2,\), .* got \(1,\)",
            ),
            ((torch.ones(2), torch.tensor([0.0, 0.0]), torch.ones(2)), "episode: expected integer ids"),
            (
                (torch.ones(3), torch.tensor([4, 5, 4]), torch.ones(3)),
                "^episode: rows of episode 4 must be contiguous and in time order",
            ),
            (
                (torch.tensor([1, nan, 1]), torch.tensor([9, 9, 2]), torch.ones(3)),
                r"row 1 \(episode 9, step 1\): .* got nan",
            ),
            ((torch.ones(3), torch.tensor([9, 9, 2]), torch.tensor([1, 1, -inf])), r"advantage: row 2 .* got -inf"),
            ((torch.ones(1), torch.tensor([3]), torch.ones(1), torch.tensor([nan])), "process_reward: row 0"),
            (
                (torch.tensor([0, 1e39], dtype=torch.float64), torch.tensor([9, 9]), torch.ones(2)),
                r"^entropy: row 1 \(episode 9, step 1\): expected a number from .* got 1e\+39; drop the step or",
            ),
        ],
    )
    def test_bad_tables_are_refused(self, arguments: tuple[Tensor, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            table(*arguments)


class TestBadTokens:
    """Every message names the argument, and the row and step where there is one."""

    @pytest.mark.parametrize(
        ("step_ids", "message"),
        [
            ([[0, 0, 1], [0, 1, 0]], "row 1, token 2: step 0 follows step 1"),
            ([[0, 0, 1], [0, -1, 2]], "row 1, token 2: step 2 follows step 0"),
            ([[0, 0, 1], [-1, 1, 2]], "row 1, token 1: step 1 comes first"),
            ([[0, 0, 1], [-2, 0, 1]], "row 1, token 0: -2 is not a valid step id; use -1 outside agent tokens"),
        ],
        ids=["backwards", "skips", "starts late", "below -1"],
    )
    def test_step_ids_out_of_order(self, step_ids: list[list[int]], message: str) -> None:
        with pytest.raises(ValueError, match=f"^step_ids: {message}"):
            modulate_advantages(torch.ones(2), torch.ones(2, 3), torch.tensor(step_ids))

    @pytest.mark.parametrize("value", [nan, inf, -inf])
    def test_entropy_that_is_not_finite(self, value: float) -> None:
        entropies = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, value]])
        with pytest.raises(ValueError, match=f"^entropies: row 1, step 1: .* got {value}; drop the step"):
            modulate_advantages(torch.ones(2), entropies, torch.tensor([[0, 0, 1], [0, -1, 1]]))

    def test_a_log_probability_is_not_an_entropy(self) -> None:
        """It would turn the method round: the most confident step would get the smallest weight."""
        step_ids = torch.tensor([[0, 1]])
        StepTable.from_tokens(torch.ones(1), torch.tensor([[0.5, -1e-4]]), step_ids)  # which is rounding
        found = r"row 0, step 1: expected at least 0 nats, got -0\.5; pass entropies of distributions, not log-prob"
        with pytest.raises(ValueError, match=f"entropies: {found}"):
            StepTable.from_tokens(torch.ones(1), torch.tensor([[0.5, -0.5]]), step_ids)
        with pytest.raises(ValueError, match=r"entropy: row 1 \(episode 0, step 1\): expected at least 0 nats, got -1"):
            StepTable(entropy=torch.tensor([0.1, -1.0]), episode=torch.tensor([0, 0]), advantage=torch.zeros(2))

    @pytest.mark.parametrize("name", ["advantages", "entropies", "step_ids"])
    def test_what_is_not_a_tensor_is_named(self, name: str) -> None:
        batch: dict[str, Any] = {
            "advantages": torch.ones(1),
            "entropies": torch.ones(1, 2),
            "step_ids": torch.tensor([[0, 1]]),
        }
        with pytest.raises(TypeError, match=f"{name}: expected a tensor, got ndarray; torch.as_tensor makes one"):
            modulate_advantages(**{**batch, name: batch[name].numpy()})

    def test_advantage_that_is_not_finite(self) -> None:
        with pytest.raises(ValueError, match=r"^advantages: row 1, step 0: .* got nan"):
            modulate_advantages(torch.tensor([1.0, nan]), torch.ones(2, 2), torch.tensor([[0, 1], [0, 1]]))

    def test_advantage_that_varies_inside_a_step(self) -> None:
        advantages = torch.tensor([[1.0, 1.0, 2.0], [1.0, 1.0, 2.0]])
        with pytest.raises(ValueError, match=r"^advantages: row 1, step 1 has several values"):
            modulate_advantages(advantages, torch.ones(2, 3), torch.tensor([[0, 0, 1], [0, 1, 1]]))

    @pytest.mark.parametrize(
        ("advantages", "entropies", "step_ids", "message"),
        [
            ((2,), (2, 4), (2, 3), r"^entropies: expected shape \(2, 3\), the shape of step_ids, got \(2, 4\)"),
            ((3,), (2, 3), (2, 3), r"^advantages: expected shape \(2,\) or \(2, 3\), got \(3,\)"),
            ((2, 1), (2, 3), (2, 3), r"^advantages: expected shape \(2,\) or \(2, 3\), got \(2, 1\)"),
            ((2,), (6,), (6,), r"^step_ids: expected one id per token, shape \(B, T\), got \(6,\)"),
        ],
    )
    def test_shapes(self, advantages: tuple, entropies: tuple, step_ids: tuple, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            modulate_advantages(torch.ones(advantages), torch.ones(entropies), torch.full(step_ids, -1))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
    def test_step_ids_are_integers_not_a_mask(self, dtype: torch.dtype) -> None:
        with pytest.raises(ValueError, match=r"^step_ids: expected integer ids, got torch\."):
            TokenLayout.of(torch.zeros(1, 3, dtype=dtype))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int32])
    def test_step_ids_are_of_any_integer_dtype(self, dtype: torch.dtype) -> None:
        step_ids = torch.tensor([[0, 0, 1], [0, 1, 2]])
        values = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
        wanted = modulate_advantages(torch.tensor([1.0, -1.0]), values, step_ids)
        assert torch.equal(modulate_advantages(torch.tensor([1.0, -1.0]), values, step_ids.to(dtype)), wanted)
        with pytest.raises(ValueError, match=r"^step_ids: row 0, token 2: step 4 follows step 0; number"):
            modulate_advantages(torch.ones(1), torch.ones(1, 3), torch.tensor([[0, 0, 4]]).to(dtype))

    def test_the_first_of_several_errors_is_named(self) -> None:
        entropies = torch.tensor([[1.0, nan, 1.0], [nan, 1.0, 1.0]])
        advantages = torch.tensor([[1.0, 1.0, 2.0], [inf, 1.0, 2.0]])
        step_ids = torch.tensor([[0, 0, 0], [0, 1, 2]])
        with pytest.raises(ValueError, match=r"^entropies: row 0, step 0: .* got nan; drop the step or fix its source"):
            modulate_advantages(advantages, entropies, step_ids)
        with pytest.raises(ValueError, match=r"^advantages: row 1, step 0: .* got inf"):
            modulate_advantages(advantages, torch.ones(2, 3), step_ids)
        with pytest.raises(ValueError, match=r"^advantages: row 0, step 0 has several values"):
            modulate_advantages(advantages.nan_to_num(posinf=1.0), torch.ones(2, 3), step_ids)
        step_ids[0, 2] = 5
        step_ids[1, 2] = -7
        with pytest.raises(ValueError, match=r"^step_ids: row 1, token 2: -7 is not a valid step id"):
            modulate_advantages(advantages, entropies, step_ids)

    def test_a_row_before_it_without_agent_tokens_does_not_hide_a_wrong_first_step(self) -> None:
        with pytest.raises(ValueError, match=r"^step_ids: row 2, token 0: step 1 comes first"):
            TokenLayout.of(torch.tensor([[0, 1, 1], [-1, -1, -1], [1, 1, 2]]))

    @pytest.mark.parametrize("value", [1e20, -1e20])
    def test_numbers_whose_squares_would_be_infinite(self, value: float) -> None:
        step_ids, ones = torch.tensor([[0, 1]]), torch.ones(1, 2)
        bound = r"expected a number from -1e\+15 to 1e\+15, got -?1e\+20; drop the step or fix its source"
        with pytest.raises(ValueError, match=f"^entropies: row 0, step 1: {bound}"):
            modulate_advantages(torch.ones(1), torch.tensor([[1.0, value]]), step_ids)
        with pytest.raises(ValueError, match=f"^advantages: row 0, step 0: {bound}"):
            modulate_advantages(torch.tensor([value]), ones, step_ids)
        with pytest.raises(ValueError, match=rf"^process_reward: row 1 \(episode 0, step 1\): {bound}"):
            StepTable(
                entropy=ones[0], episode=step_ids[0] * 0, advantage=ones[0], process_reward=torch.tensor([0.0, value])
            )

    def test_values_that_are_not_one_per_step(self) -> None:
        with pytest.raises(ValueError, match=r"^values: expected one per step, shape \(2,\), got \(3,\)"):
            to_tokens(torch.ones(3), torch.tensor([[0, 0, 1]]))

    @pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
    def test_a_batch_without_tokens(self, shape: tuple[int, int]) -> None:
        step_ids = torch.zeros(shape, dtype=torch.long)
        assert modulate_advantages(torch.ones(shape[0]), torch.ones(shape), step_ids).shape == shape
        assert step_ids_from_mask(step_ids).shape == shape

    def test_gaps_are_closed_and_the_order_stays(self) -> None:
        step_ids = torch.tensor([[-1, 2, 2, -1, 5], [4, 4, 1, -1, 4], [-1, -1, -1, -1, -1]])
        closed = [[-1, 0, 0, -1, 1], [1, 1, 0, -1, 1], [-1, -1, -1, -1, -1]]
        for dtype in (torch.int64, torch.int32, torch.int8):
            assert without_gaps(step_ids.to(dtype)).tolist() == closed
        with pytest.raises(ValueError, match=r"^step_ids: expected one id per token, shape \(B, T\), got \(5,\)"):
            without_gaps(step_ids[0])

    def test_bad_masks(self) -> None:
        with pytest.raises(ValueError, match=r"^mask: row 1, token 0: expected 0 or 1, got 2"):
            step_ids_from_mask(torch.tensor([[1, 0], [2, 0]]))
        with pytest.raises(ValueError, match=r"^mask: "):
            step_ids_from_mask(torch.tensor([[1.0, nan]]))
        with pytest.raises(TypeError, match=r"^mask: expected a tensor, got list"):
            step_ids_from_mask([[1, 0]])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"^mask: .* got \(2,\)"):
            step_ids_from_mask(torch.tensor([1, 0]))
