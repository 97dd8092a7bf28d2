"""Ragged batches for the tests: as nested lists for the reference, as tensors for the library."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor

from empg.credit import Reduce, ReduceOp, StepTable
from tests.credit.reference import Entropies

Result = TypeVar("Result")
GARBAGE = float("nan")  # the value at padding and observations: any use of it is visible


@dataclass
class Batch:
    """Episodes of steps of token entropies, with one advantage each."""

    advantages: list[float]
    entropies: Entropies

    def tensors(self, gap: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """`advantages (B,)`, `entropies (B, T)` and `step_ids (B, T)`; `gap` observation tokens before each step."""
        rows = [
            [pair for t, tokens in enumerate(steps) for pair in [(-1, GARBAGE)] * gap + [(t, h) for h in tokens]]
            for steps in self.entropies
        ]
        width = max(len(row) for row in rows) + 2
        padded = [row + [(-1, GARBAGE)] * (width - len(row)) for row in rows]
        step_ids = torch.tensor([[step for step, _ in row] for row in padded])
        entropies = torch.tensor([[h for _, h in row] for row in padded])
        return torch.tensor(self.advantages), entropies, step_ids

    def table(self) -> StepTable:
        return StepTable.from_tokens(*self.tensors())

    def spread(self) -> float:
        """max H - min H over the steps, nats."""
        means = [sum(tokens) / len(tokens) for steps in self.entropies for tokens in steps]
        return max(means) - min(means)


# Entropies on a grid, and batches whose steps differ by more than rounding or not at all: min-max normalisation
# magnifies rounding where all steps are nearly equal, differently in float32 and float64.
_entropy = st.integers(0, 640).map(lambda n: n / 64)
_step = st.lists(_entropy, min_size=1, max_size=4)
_episode = st.lists(_step, min_size=1, max_size=5)
_advantage = st.integers(-48, 48).map(lambda n: n / 16)


@st.composite
def batches(draw: st.DrawFn, max_episodes: int = 6) -> Batch:
    entropies = draw(st.lists(_episode, min_size=1, max_size=max_episodes))
    batch = Batch([draw(_advantage) for _ in entropies], entropies)
    if 0 < batch.spread() < 1e-3:
        batch.entropies[0][0] = [12.0]
    return batch


constants = st.fixed_dictionaries(
    {
        "k": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        "k_future": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        "zeta": st.sampled_from([0.0, 0.05, 0.1, 1.0]),
    }
)


def on_workers(workers: int, work: Callable[[int, Reduce], Result]) -> list[Result]:
    """Run `work(rank, reduce)` on threads that meet at every reduction; one that skips any breaks the barrier."""
    barrier = threading.Barrier(workers)
    parts: list[Tensor] = [torch.empty(0)] * workers

    def run(rank: int) -> Result:
        def reduce(local: Tensor, op: ReduceOp) -> Tensor:
            parts[rank] = local
            barrier.wait(timeout=10)
            every = torch.stack(parts)
            everywhere = {"min": every.amin(0), "max": every.amax(0), "sum": every.sum(0)}[op]
            barrier.wait(timeout=10)
            return everywhere

        try:
            result = work(rank, reduce)
            barrier.wait(timeout=10)  # no worker has a collective left that the others did not call
            return result
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, range(workers)))
