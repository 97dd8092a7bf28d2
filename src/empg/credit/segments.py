"""Values that share an id: reductions over them (such as the rewards of a group), and the order of steps in episodes.

One vectorised pass each. Shape: n values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Segments:
    """The distinct ids of a vector and the positions of each.

    Attributes:
        ids: `(S,)` the distinct ids, ascending.
        index: `(n,)` int64, for each element the position of its id in `ids`.
        sizes: `(S,)` int64, the number of elements with each id.
    """

    ids: Tensor
    index: Tensor
    sizes: Tensor

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values (n,)` over each segment, `(S,)`."""
        return values.new_zeros(len(self.ids)).index_add_(0, self.index, values)

    def extreme(self, values: Tensor, which: Literal["amin", "amax"]) -> Tensor:
        """Return the smallest or largest of `values (n,)` in each segment, `(S,)`."""
        return values.new_zeros(len(self.ids)).scatter_reduce_(0, self.index, values, which, include_self=False)


def for_float64(device: torch.device) -> torch.device:
    """Return the device on which numbers of `device` are summed in float64: MPS does not support it, the CPU does."""
    return torch.device("cpu") if device.type == "mps" else device


def run_starts(ids: Tensor) -> Tensor:
    """Return `(n,)` bool: the id differs from the one before, so that a run of equal ids starts here."""
    starts = torch.ones_like(ids, dtype=torch.bool)
    starts[1:] = ids[1:] != ids[:-1]
    return starts


def next_in_run(ids: Tensor) -> Tensor:
    """Return `(n,)` bool: the next element has the same id. False for the last one."""
    return run_starts(ids).logical_not().roll(-1)


def index_in_run(ids: Tensor) -> Tensor:
    """Return `(n,)` int64, the index of each element in its run of equal ids, counted from 0."""
    place = torch.arange(len(ids), device=ids.device)
    return place - torch.where(run_starts(ids), place, 0).cummax(0).values


def segments_of(ids: Tensor) -> Segments:
    """Return the segments of a vector of ids `(n,)`; equal ids need not be adjacent."""
    distinct, index, sizes = torch.unique(ids, return_inverse=True, return_counts=True)
    return Segments(ids=distinct, index=index, sizes=sizes)
