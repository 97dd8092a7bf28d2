"""Statistics are global: steps on several workers get the same credit as on one."""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.spawn import spawn

from empg.credit import Reduce, Weighting, distributed_reduce, modulate_advantages, outcome_advantages
from empg.credit.reduce import global_smallest
from tests.credit.batches import Batch, batches, constants, on_workers


@settings(max_examples=40)
@given(batches(max_episodes=8), constants, st.data())
def test_four_workers_equal_one(batch: Batch, constants: dict[str, Any], data: st.DataObject) -> None:
    advantages, entropies, step_ids = batch.tensors()
    whole = modulate_advantages(advantages, entropies, step_ids, **constants)
    owner = torch.tensor([data.draw(st.integers(0, 3)) for _ in batch.advantages])  # some workers may hold nothing

    def work(rank: int, reduce: Reduce) -> torch.Tensor:
        mine = owner == rank
        return modulate_advantages(advantages[mine], entropies[mine], step_ids[mine], reduce=reduce, **constants)

    for rank, part in enumerate(on_workers(4, work)):
        torch.testing.assert_close(part, whole[owner == rank], rtol=1e-5, atol=2e-6)


def test_a_worker_without_steps_takes_part_in_every_collective() -> None:
    advantages, entropies, step_ids = Batch([1.0, -1.0], [[[0.2], [0.4]], [[0.9]]]).tensors()

    def work(rank: int, reduce: Reduce) -> torch.Tensor:
        mine = slice(0, 0) if rank else slice(None)
        return modulate_advantages(advantages[mine], entropies[mine], step_ids[mine], reduce=reduce)

    everything, nothing = on_workers(2, work)
    assert torch.equal(everything, modulate_advantages(advantages, entropies, step_ids))
    assert nothing.shape == (0, step_ids.shape[1])


def test_workers_without_any_step_at_all() -> None:
    nothing = torch.full((1, 3), -1)
    parts = on_workers(
        3, lambda _, reduce: modulate_advantages(torch.ones(1), torch.ones(1, 3), nothing, reduce=reduce)
    )
    assert all(torch.equal(part, torch.zeros(1, 3)) for part in parts)


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=6), min_size=3, max_size=3),
    st.data(),
)
def test_an_order_statistic_over_workers_is_the_element_of_the_sorted_values(
    parts: list[list[float]], data: st.DataObject
) -> None:
    values = sorted(value for part in parts for value in part)
    if not values:
        return
    ranks = [data.draw(st.integers(1, len(values))) for _ in range(2)]
    found = on_workers(
        3, lambda rank, reduce: global_smallest(torch.tensor(parts[rank]), torch.tensor(ranks), reduce).tolist()
    )
    assert found == [[values[rank - 1] for rank in ranks]] * 3


@pytest.mark.parametrize("weighting", ["episode", "step"])
def test_the_batch_mean_of_reinforce_is_global(weighting: Weighting) -> None:
    rewards, groups, num_steps = torch.tensor([1.0, 0.0, 0.0, 0.5]), torch.zeros(4).long(), torch.tensor([1, 2, 3, 4])
    whole = outcome_advantages(rewards, groups, "reinforce", weighting=weighting, num_steps=num_steps)
    bounds = [0, 1, 1, 4]  # the second worker has no episode

    def work(rank: int, reduce: Reduce) -> torch.Tensor:
        mine = slice(bounds[rank], bounds[rank + 1])
        return outcome_advantages(
            rewards[mine], groups[mine], "reinforce", reduce=reduce, weighting=weighting, num_steps=num_steps[mine]
        )

    torch.testing.assert_close(torch.cat(on_workers(3, work)), whole)


def test_distributed_reduce_needs_a_process_group() -> None:
    with pytest.raises(RuntimeError, match="init_process_group"):
        distributed_reduce()


def test_distributed_reduce_leaves_its_input_alone(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        local = torch.tensor([1.0, 2.0])
        everywhere = distributed_reduce()(local, "sum")
        everywhere.zero_()
        assert local.tolist() == [1.0, 2.0]
    finally:
        dist.destroy_process_group()


def _process(rank: int, world: int, inputs: tuple[torch.Tensor, ...], folder: str) -> None:
    faulthandler.dump_traceback_later(100, exit=True)  # where it waits, should it hang
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    mine = [tensor[rank::world] if rank else tensor[:0] for tensor in inputs]  # worker 0 holds nothing
    if rank == 1:
        mine = [torch.cat([own, tensor[0::world]]) for own, tensor in zip(mine, inputs, strict=True)]
    torch.save(modulate_advantages(*mine, reduce=distributed_reduce()), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_real_processes_equal_one(tmp_path: Path) -> None:
    world = 3
    batch = Batch([1.0, -1.0, 0.5, -0.5, 2.0], [[[0.2, 0.3], [0.4]], [[0.9]], [[0.1], [3.0]], [[0.7]], [[0.5], [0.6]]])
    inputs = batch.tensors()
    processes = spawn(_process, (world, inputs, str(tmp_path)), nprocs=world, join=False)
    assert processes is not None
    deadline = time.monotonic() + 120
    try:
        while not processes.join(timeout=max(0.0, deadline - time.monotonic())):
            alive = [rank for rank, process in enumerate(processes.processes) if process.is_alive()]
            assert time.monotonic() < deadline, f"workers {alive} of {world} have not ended after 120 s"
    finally:
        for process in processes.processes:
            process.kill()
    whole = modulate_advantages(*inputs)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    torch.testing.assert_close(parts[1], torch.cat([whole[1::world], whole[0::world]]))
    torch.testing.assert_close(parts[2], whole[2::world])
    assert len(parts[0]) == 0
