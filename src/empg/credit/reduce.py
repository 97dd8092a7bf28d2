"""Statistics that are global: one update's batch may be spread over many workers.

EMPG's minimum, maximum and means run over *all* steps that one policy update sees. Each worker holds some of them
(perhaps none) and hands its own part to a `Reduce`, which returns the same tensor to everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

ReduceOp = Literal["min", "max", "sum"]

Reduce = Callable[[Tensor, ReduceOp], Tensor]
"""`reduce(local, op)`: the elementwise min, max or sum of `local` over all workers, in `local`'s shape and dtype.

It is a collective: every worker calls it equally often and in the same order, whether or not it holds any steps. This
package keeps to that; a worker without steps hands in infinities for min and max and zeros for sums.
"""


def one_worker(local: Tensor, op: ReduceOp) -> Tensor:
    """The `Reduce` of a worker that holds the whole batch: there is nothing to add."""
    return local


def distributed_reduce(group: dist.ProcessGroup | None = None) -> Reduce:
    """A `Reduce` over the workers of a `torch.distributed` process group (all of them by default).

    Steps must be on a device that the group's backend reduces: CPU for gloo, CUDA for nccl. Under torchrun, accelerate
    or DeepSpeed the default group is the right one.

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
    """Smallest of `values (n,)` over all workers, 0-d; +inf where no worker has any."""
    return reduce(torch.cat([values, values.new_full((1,), torch.inf)]).amin(), "min")


def global_max(values: Tensor, reduce: Reduce) -> Tensor:
    """Largest of `values (n,)` over all workers, 0-d; -inf where no worker has any."""
    return reduce(torch.cat([values, values.new_full((1,), -torch.inf)]).amax(), "max")


def global_mean(values: Tensor, reduce: Reduce, weights: Tensor | None = None) -> Tensor:
    """Mean of `values (n,)`, weighted by `weights (n,)`, over all workers, 0-d; NaN where no worker has any."""
    weights = torch.ones_like(values) if weights is None else weights
    sums = reduce(torch.stack([(weights * values).sum(), weights.sum()]), "sum")
    return sums[0] / sums[1]
