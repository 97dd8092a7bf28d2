"""The shapes of CUDA graphs: few, never too small, and without effect on the results. tests/gpu runs the graphs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from empg.policy.contexts import ModelContexts
from empg.policy.model import Policy
from empg.policy.step_graphs import COLUMNS, ROWS, rounded


def test_shapes_are_those_worked_by_hand() -> None:
    assert rounded(1, 1, 64, 4096) == (16, 256)
    assert rounded(16, 256, 64, 4096) == (16, 256)
    assert rounded(17, 257, 64, 4096) == (32, 512)
    assert rounded(60, 1025, 64, 4096) == (64, 1536)  # 5 x 256 becomes 6 x 256
    assert rounded(3, 4090, 20, 4096) == (16, 4096)
    assert rounded(17, 4097, 20, 4096) == (20, 4097)  # never more than there are


@given(rows=st.integers(1, 600), visible=st.integers(1, 40_000))
def test_a_shape_has_room_and_at_most_half_too_much(rows: int, visible: int) -> None:
    more_rows, more_visible = rounded(rows, visible, 600, 40_000)
    assert rows <= more_rows <= max(ROWS, 1.5 * rows + ROWS)
    assert visible <= more_visible <= max(COLUMNS, 1.5 * visible + COLUMNS)


def test_long_contexts_have_few_shapes() -> None:
    assert len({rounded(64, visible, 64, 32_768) for visible in range(1, 32_769)}) == 14


@pytest.mark.parametrize("autocast", [False, True])
def test_rounding_a_shape_up_does_not_change_the_results(policy: Policy, autocast: bool) -> None:
    policy.is_small_llama = False
    contexts = [ModelContexts(policy, 12, 300, autocast=autocast) for _ in range(2)]
    with torch.no_grad():
        for one in contexts:
            one.read([0, 1, 2, 3, 9], [[5, 6, 7], [8] * 40, [9] * 5, [10], [11] * 80])
        ids = torch.tensor([[20], [21], [22], [23]])
        exact = contexts[0]._step(ids, contexts[0].lengths[:4, None], 41)
        rows, visible = rounded(4, 41, 12, 300)
        padded = torch.zeros(rows, 1, dtype=torch.long)
        padded[:4] = ids
        more = contexts[1]._step(padded, contexts[1].lengths[:rows, None], visible)
        assert (rows, visible) == (12, 256)
        tolerance = 2e-2 if autocast else 1e-5
        torch.testing.assert_close(more[:4], exact, atol=tolerance, rtol=tolerance)
        # What was written beside them is overwritten: the slot that waited reads on as if nothing had happened.
        for one in contexts:
            one.lengths[:4] += 1
        waited = [one.read([9], [[12, 13]]) for one in contexts]
        torch.testing.assert_close(waited[0], waited[1], atol=tolerance, rtol=tolerance)
