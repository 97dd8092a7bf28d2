"""Writes the batch of a step beside its checkpoint, as the policy update has read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback

FIELDS = ["advantages", "entropy", "old_log_probs", "response_mask", "responses", "returns", "rm_scores"]


class Record(CheckpointCallback):  # type: ignore[misc]  # verl has no types
    """verl calls it after a checkpoint, before it clears the batch (`trainer.checkpoint_callback_class`)."""

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, **_: Any) -> None:
        tags = tq.kv_list("train")["train"]
        keys = [key for key, tag in tags.items() if not tag.get("is_prompt")]
        data = tq.kv_batch_get(keys=keys, partition_id="train", select_fields=[*FIELDS, "extra_fields"])
        rows = data.select(*FIELDS).to_padded_tensor()
        steps = [extra["step_ids"] for extra in data.get("extra_fields").tolist()]
        torch.save(
            {"keys": keys, "steps": steps, **{name: rows[name] for name in FIELDS}}, Path(checkpoint_dir, "batch.pt")
        )
