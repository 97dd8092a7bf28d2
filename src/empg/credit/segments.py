"""Reductions over segments: values that share an id (such as the rewards of a group), in one vectorised pass."""

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


def segments_of(ids: Tensor) -> Segments:
    """Return the segments of a vector of ids `(n,)`; equal ids need not be adjacent."""
    distinct, index, sizes = torch.unique(ids, return_inverse=True, return_counts=True)
    return Segments(ids=distinct, index=index, sizes=sizes)
