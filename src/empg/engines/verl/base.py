"""What both trainers share: verl's synchronous trainer whose advantage step ends with fields of this package."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.workers.utils.padding import response_to_nested

from empg.engines.verl.loop import check_job
from empg.errors import UserError

# What verl and TransferQueue raise for a batch without rows.
_EMPTY = ("no materializable trajectories", "Received an empty list as keys")


@contextmanager
def _empty_batch_named(when: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if not any(text in str(error) for text in _EMPTY):
            raise
        raise UserError(
            f"{when}: every episode ended without a turn. The warnings of the agent loops have the reasons"
        ) from None


class CreditTrainer(PPOTrainerSync):  # type: ignore[misc]  # verl has no types
    """verl's trainer `sync`; `assign` replaces fields of a batch after verl has computed its advantages.

    Attributes:
        reads: the fields of a batch that `assign` gets, beside `extra_fields`.

    Raises:
        UserError: see `check_job`; or no episode of an iteration or evaluation has a turn.
    """

    reads: Sequence[str]

    def __init__(self, config: DictConfig) -> None:
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"  # verl compares this name in several places
        super().__init__(config)

    @abstractmethod
    def assign(
        self, data: TensorDict, keys: list[str], finished: float, metrics: dict[str, Any]
    ) -> Mapping[str, Tensor]:
        """Return the fields that replace those of a batch, each `(B, T)`: B rows, T tokens of a response.

        Args:
            data: the fields `reads`, nested tensors.
            keys: the key of each row.
            finished: share of the training that is finished.
            metrics: those of the step; more may be added.

        Raises:
            UserError: the batch does not have what the credit needs.
        """

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        check_job(self.config, self.tokenizer, (self.train_dataset, self.val_dataset))

    def _step_once(self, *arguments: Any, **named_arguments: Any) -> Any:
        with _empty_batch_named(f"iteration {self.global_steps}"):
            return super()._step_once(*arguments, **named_arguments)

    def _validate(self) -> Any:
        with _empty_batch_named(f"evaluation after iteration {self.global_steps}"):
            return super()._validate()

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_advantage(batch, metrics)
        place = {"keys": batch.keys, "partition_id": batch.partition_id}
        data = tq.kv_batch_get(**place, select_fields=[*self.reads, "extra_fields"])
        finished = (self.global_steps - 1) / self.total_training_steps
        assigned = self.assign(data, batch.keys, finished, metrics)
        rows = {name: response_to_nested(values, data["response_mask"]) for name, values in assigned.items()}
        return tq.kv_batch_put(**place, fields=TensorDict(rows, batch_size=len(batch)))
