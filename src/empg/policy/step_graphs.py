"""Passes of one token per slot as CUDA graphs.

The host needs longer to start the hundreds of kernels of such a pass than a GPU needs to run them. A graph records them
once and starts them together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

ROWS, COLUMNS = 16, 256  # the smallest shape; larger ones have 1, 2, 3, 4, 6, 8, 12, ... times as many

# Gets ids (n, 1) and positions (n, 1) int64 and the number of visible tokens; returns hidden states (n, hidden).
Step = Callable[[Tensor, Tensor, int], Tensor]


class StepGraphs:
    """Runs passes over the first slots of a KV cache: on a GPU as one graph per shape, elsewhere without a graph.

    A graph has one shape and fixed addresses. So the rows and the visible tokens of a pass are rounded up. Tokens that
    are not written yet are masked, and results of slots that nobody asked for are not used.

    The first pass of a shape runs without a graph, since libraries prepare themselves in it; the second is recorded. If
    a pass waits for the device, as a mixture of experts may, the model cannot be recorded, and all passes run without a
    graph.

    Attributes:
        recordable: whether passes become graphs.
    """

    def __init__(self, num_slots: int, length: int, device: torch.device) -> None:
        self._length = length
        self._ids = torch.zeros(num_slots, 1, dtype=torch.long, device=device)
        self._positions = torch.zeros(num_slots, 1, dtype=torch.long, device=device)
        self._seen: set[tuple[int, int]] = set()
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.recordable = device.type == "cuda"

    def __call__(self, step: Step, ids: Tensor, lengths: Tensor) -> Tensor:
        """Append `ids` to the first n slots, and return at least n hidden states (n, hidden).

        Args:
            step: computes the pass, always the same one. It is an argument, because an attribute would be a cycle that
                keeps the KV cache until Python collects it.
            ids: (n,) on the CPU.
            lengths: (num_slots,) on the CPU, the tokens that the slots have so far.

        The next call overwrites the result.
        """
        rows, visible = len(ids), int(lengths[: len(ids)].max()) + 1
        if self.recordable:
            rows, visible = rounded(rows, visible, len(self._ids), self._length)
        self._ids[: len(ids), 0].copy_(ids, non_blocking=True)
        self._positions[:rows, 0].copy_(lengths[:rows], non_blocking=True)
        inputs = self._ids[:rows], self._positions[:rows], visible
        shape = rows, visible
        if shape in self._graphs:
            graph, hidden = self._graphs[shape]
            graph.replay()
            return hidden
        if not self.recordable:
            return step(*inputs)
        if shape in self._seen:
            return self._record(step, inputs, shape)
        self._seen.add(shape)
        try:
            with _waiting_is_an_error(), _cudnn_attention():
                return step(*inputs)
        except RuntimeError:
            self.recordable = False
            return step(*inputs)

    def _record(self, step: Step, inputs: tuple[Tensor, Tensor, int], shape: tuple[int, int]) -> Tensor:
        graph = torch.cuda.CUDAGraph()
        pool = next((first.pool() for first, _ in self._graphs.values()), None)  # graphs never run at the same time
        with torch.cuda.device(self._ids.device), _cudnn_attention(), torch.cuda.graph(graph, pool=pool):
            hidden = step(*inputs)
        self._graphs[shape] = graph, hidden
        graph.replay()
        return hidden


def rounded(rows: int, visible: int, num_slots: int, length: int) -> tuple[int, int]:
    """Round up a shape: to at most `num_slots` rows and `length` + 1 columns, the last of which takes padding."""
    return min(num_slots, _step_up(rows, ROWS)), min(length + 1, _step_up(visible, COLUMNS))


def _step_up(number: int, unit: int) -> int:
    """Return the smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... times `unit` that `number` does not exceed."""
    units = -(-number // unit)
    power = 1 << max(0, (units - 1).bit_length() - 2)
    return -(-units // power) * power * unit


@contextmanager
def _cudnn_attention() -> Iterator[None]:
    """Allow cuDNN's attention, which prepares itself for each shape: that pays off for the few shapes of graphs."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode", UserWarning)  # that it is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
