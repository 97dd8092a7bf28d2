"""Reductions over segments: values that share an id (a group's rewards, a step's tokens), in one vectorised pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """A vector's different ids and where they stand.

    Attributes:
        ids: `(S,)` the different ids, ascending.
        index: `(n,)` int64, for each element the place of its id in `ids`.
        sizes: `(S,)` int64, how many elements have each id.
    """

    ids: Tensor
    index: Tensor
    sizes: Tensor

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values (n,)` over each segment: `(S,)`."""
        return values.new_zeros(len(self.ids)).index_add_(0, self.index, values)

    def extreme(self, values: Tensor, which: Literal["amin", "amax"]) -> Tensor:
        """Smallest or largest of `values (n,)` in each segment: `(S,)`."""
        return values.new_zeros(len(self.ids)).scatter_reduce_(0, self.index, values, which, include_self=False)


def segments_of(ids: Tensor) -> Segments:
    """The segments of a vector of ids `(n,)`; equal ids need not stand together."""
    return Segments(*torch.unique(ids, return_inverse=True, return_counts=True))
