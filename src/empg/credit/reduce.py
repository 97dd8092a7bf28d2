"""Global statistics: the batch of one update may be spread over several workers.

The minimum, maximum and means of EMPG run over *all* steps that one policy update sees. Each worker holds some of them
(possibly none) and passes its own part to a `Reduce`, which returns the same tensor on every worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

ReduceOp = Literal["min", "max", "sum"]

Reduce = Callable[[Tensor, ReduceOp], Tensor]
"""`reduce(local, op)`: the elementwise min, max or sum of `local` over all workers, in the shape and dtype of `local`.

It is a collective: every worker calls it equally often and in the same order, with or without steps of its own. This
package follows that rule: a worker without steps passes infinities for min and max and zeros for sums.
"""


def one_worker(local: Tensor, op: ReduceOp) -> Tensor:
    """Return `local` unchanged: the `Reduce` of a worker that holds the whole batch."""
    return local


def distributed_reduce(group: dist.ProcessGroup | None = None) -> Reduce:
    """Return a `Reduce` over the workers of a `torch.distributed` process group (all of them by default).

    Steps must be on a device that the backend of the group supports: CPU for gloo, CUDA for nccl. Under torchrun,
    accelerate or DeepSpeed the default group is the right one.

    Raises:
        RuntimeError: `torch.distributed` is not initialised.
    """
    if not dist.is_initialized():
        raise RuntimeError("distributed_reduce: call torch.distributed.init_process_group first")
    operations = {"min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX, "sum": dist.ReduceOp.SUM}

    def reduce(local: Tensor, op: ReduceOp) -> Tensor:
        everywhere = local.clone()
        dist.all_reduce(everywhere, op=operations[op], group=group)
        return everywhere

    return reduce


def global_min(values: Tensor, reduce: Reduce) -> Tensor:
    """Return the smallest of `values (n,)` over all workers, 0-d; +inf if no worker has any."""
    return reduce(torch.cat([values, values.new_full((1,), torch.inf)]).amin(), "min")


def global_max(values: Tensor, reduce: Reduce) -> Tensor:
    """Return the largest of `values (n,)` over all workers, 0-d; -inf if no worker has any."""
    return reduce(torch.cat([values, values.new_full((1,), -torch.inf)]).amax(), "max")


def global_mean(values: Tensor, reduce: Reduce, weights: Tensor | None = None) -> Tensor:
    """Return the mean of `values (n,)`, weighted by `weights (n,)`, over all workers, 0-d; NaN if no worker has any."""
    weights = torch.ones_like(values) if weights is None else weights
    sums = reduce(torch.stack([(weights * values).sum(), weights.sum()]), "sum")
    return sums[0] / sums[1]


def global_smallest(values: Tensor, ranks: Tensor, reduce: Reduce) -> Tensor:
    """Return the elements of `values (n,)` over all workers that have these ranks in ascending order.

    Floats of one sign are ordered as their bits are, so a bisection over the bits finds the exact element with counts
    alone: 32 collectives of `len(ranks)` numbers, and no worker sees the values of another.

    Args:
        values: `(n,)` float32, finite; every worker holds some of them, possibly none.
        ranks: `(r,)`, 1 for the smallest element; the same on every worker.
        reduce: the collective.

    Returns:
        `(r,)`; without meaning if no worker has any value.
    """
    ordered = _order_preserving(values.view(torch.int32).long())
    low = torch.full(ranks.shape, -(1 << 31), device=values.device)
    high = torch.full(ranks.shape, (1 << 31) - 1, device=values.device)
    for _ in range(32):
        middle = (low + high).div(2, rounding_mode="floor")
        enough = reduce((ordered[:, None] <= middle).sum(0), "sum") >= ranks
        low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
    return _order_preserving(low).int().view(torch.float32)


def _order_preserving(bits: Tensor) -> Tensor:
    """Map the bits of float32, as int64 of a signed int32, to integers in the order of the floats; its own inverse."""
    return torch.where(bits < 0, -(1 << 31) - 1 - bits, bits)
