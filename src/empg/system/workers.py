"""Data-parallel processes on one machine. Every worker plays and trains on its share, and all take the same step.

Worker 0 is the process that the user started; the others are its children. When worker 0 ends for any reason, the
others exit immediately and silently.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from empg.errors import UserError, message_of
from empg.system.processes import end_with_parent, parent_is_gone
from empg.system.signals import StopRequested, StopSignals, stop_signals_blocked

_POLL = 0.1  # seconds between two looks at workers that start

_OPS = {"sum": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}


class WorkerError(UserError):
    """Another worker of the run ended unexpectedly."""


class _CollectiveError(WorkerError):
    """A collective failed, which happens when another worker has ended."""


@contextlib.contextmanager
def _collective() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _CollectiveError(f"lost connection to another worker: {message_of(error, 300)}") from error


class Workers:
    """This process as one of the workers of a run. With one worker every call returns immediately.

    `signals` is what asks this process to stop. Worker 0 passes a request on to its `children`.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        signals: StopSignals | None = None,
        children: Sequence[multiprocessing.process.BaseProcess] = (),
    ) -> None:
        self.rank, self.size = rank, size
        self._signals, self._children = signals or StopSignals(), children

    @property
    def first(self) -> bool:
        """Whether this is worker 0, which writes files and prints to the terminal."""
        return self.rank == 0

    def reduce(self, tensor: Tensor, op: str) -> Tensor:
        """Return the `sum`, `min` or `max` of a tensor over all workers, on every worker."""
        if self.size == 1:
            return tensor
        # Gloo works on the CPU; the tensors here are a few numbers.
        result = tensor.detach().cpu().clone()
        with _collective():
            dist.all_reduce(result, op=_OPS[op])
        return result.to(tensor.device)

    def total(self, value: float) -> float:
        """Return the sum of a number over all workers."""
        return float(self.reduce(torch.tensor(value, dtype=torch.float64), "sum"))

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all workers, on every worker, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _collective():
            dist.all_gather_object(values, value)
        return values

    @property
    def own_signal(self) -> int:
        """The signal that asked this worker to stop; 0 if there is none."""
        return self._signals.number

    def check_stop(self) -> None:
        """Abandon the work here if this worker was asked to stop. The state of the run must not be half changed.

        Raises:
            StopRequested: it was; the others are asked as well, and agree at their next `stop_signal`.
        """
        if self._signals.number:
            for child in self._children:
                if child.is_alive():
                    child.terminate()  # SIGTERM, which asks a worker to stop
            raise StopRequested

    def stop_signal(self) -> int:
        """Return the signal that asked the first of the workers to stop, on every worker; 0 if none was asked."""
        return next((number for number in self.gather(self._signals.number) if number), 0)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum the gradients over the workers. Each worker's loss is already its share of one global mean."""
        if self.size == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        flat = self.reduce(flat, "sum")
        for parameter, gradient in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def barrier(self) -> None:
        """Wait for all workers."""
        if self.size > 1:
            with _collective():
                dist.barrier()


@contextlib.contextmanager
def start_workers(
    size: int, target: Callable[..., object], *args: Any, signals: StopSignals | None = None
) -> Iterator[Workers]:
    """Start `size - 1` children that run `target(workers, *args)`, and yield worker 0's own `Workers`.

    `signals` is what asks worker 0 to stop.

    Raises:
        StopRequested: worker 0 was asked to stop while the others started.
        UserError: another worker met an error of the user.
        WorkerError: another worker ended unexpectedly.
    """
    if size == 1:
        yield Workers(signals=signals)
        return
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="empg-") as folder:
        store = os.path.join(folder, "rendezvous")
        # Not daemons: a daemon cannot have children, but a worker may have processes of its env pool.
        children = [context.Process(target=_child, args=(rank, size, store, target, args)) for rank in range(1, size)]
        try:
            with stop_signals_blocked():
                for child in children:
                    child.start()
            _await_ready(children, store, signals)
            _join(0, size, store)
            yield Workers(0, size, signals, children)
            for child in children:
                child.join()
        except _CollectiveError as error:
            # The other worker ends soon after its connection. On a busy machine that can take seconds.
            multiprocessing.connection.wait([child.sentinel for child in children], timeout=20)
            for child in children:
                # A sentinel closes shortly before the exit code is available; a join with a timeout waits for it.
                child.join(timeout=0.5)
            _require_healthy(children, store, error)
            raise
        finally:
            for child in children:
                if child.pid is not None:
                    child.kill()
                    child.join()
            if dist.is_initialized():
                dist.destroy_process_group()


def _await_ready(
    children: Sequence[multiprocessing.process.BaseProcess], store: str, signals: StopSignals | None
) -> None:
    """Wait until every child is about to join. The join itself waits for half an hour, even for a child that ended.

    Raises:
        StopRequested: worker 0 was asked to stop.
        UserError: a child has ended.
    """
    while True:
        if signals is not None and signals.number:
            raise StopRequested
        _require_healthy(children, store)
        if all(_ready(store, rank).exists() for rank in range(1, len(children) + 1)):
            return
        multiprocessing.connection.wait([child.sentinel for child in children], timeout=_POLL)


def _require_healthy(
    children: Sequence[multiprocessing.process.BaseProcess], store: str, cause: _CollectiveError | None = None
) -> None:
    """Raise the error with which a child has ended; `cause` is what worker 0 saw of it."""
    for rank, child in enumerate(children, start=1):
        if (reason := _reason(store, rank)).exists():
            raise UserError(reason.read_text(encoding="utf-8")) from cause
        if child.exitcode or (child.exitcode == 0 and not _ready(store, rank).exists()):
            message = f"worker {rank} ended with exit code {child.exitcode}; its output is above"
            raise WorkerError(message) from cause


def _child(rank: int, size: int, store: str, target: Callable[..., object], args: tuple[Any, ...]) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    try:
        with StopSignals(second_ends=False) as signals:
            _ready(store, rank).touch()
            _join(rank, size, store)
            target(Workers(rank, size, signals), *args)
    except UserError as error:
        if not isinstance(error, WorkerError):
            _reason(store, rank).write_text(str(error), encoding="utf-8")  # worker 0 raises it
        sys.exit(1)
    except Exception:
        if not parent_is_gone(within=0.3):  # if it is gone, the collective failed for that reason
            traceback.print_exc()  # now: worker 0 ends this process as soon as the connection closes
        sys.exit(1)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _reason(store: str, rank: int) -> Path:
    """The file in which a worker leaves the message of a user error."""
    return Path(f"{store}-error-{rank}")


def _ready(store: str, rank: int) -> Path:
    """The file that a worker writes when it is about to join."""
    return Path(f"{store}-ready-{rank}")


def _join(rank: int, size: int, store: str) -> None:
    # All workers are on this machine.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    with _collective():
        # Not the address file://...: in an address the characters ? and # have another meaning than in a path.
        timeout = timedelta(minutes=30)
        rendezvous = dist.FileStore(store, size)  # type: ignore[attr-defined]  # torch does not list it as exported
        rendezvous.set_timeout(timeout)
        dist.init_process_group("gloo", store=rendezvous, rank=rank, world_size=size, timeout=timeout)
