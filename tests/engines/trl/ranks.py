"""One iteration of fixed episodes on as many processes as torchrun starts; each process writes what it computed.

torchrun --nproc-per-node 2 -m tests.engines.trl.ranks FOLDER MODULATION GROUP_SIZE
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import datasets
import torch

from empg.engines.trl import EMPGConfig, EMPGTrainer, environment_reward
from empg.engines.trl.rollout import token_columns
from tests.engines.trl.parts import arguments, fixed_episode, tiny_policy

CASES = {"empg": ("empg", 4), "a divided group": ("gtpo", 8)}
"""The modulation and the group size; with two processes, each has four of the eight episodes."""


class Written(EMPGTrainer):
    """Writes the advantages of its rows, in the order of the batch."""

    def assign(self, inputs: Any, batch: Any, scores: Any) -> None:
        super().assign(inputs, batch, scores)
        torch.save(batch["advantages"], Path(self.args.output_dir) / f"rank-{self.accelerator.process_index}.pt")


def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """The fixed episodes of this process: the generation batch is divided into as many parts as there are processes."""
    first = trainer.accelerator.process_index * len(prompts)
    episodes = [fixed_episode(first + place, trainer.num_generations) for place in range(len(prompts))]
    assert prompts == [str(episode.group) for episode in episodes]
    return {**token_columns(episodes, 3), "logprobs": None}


def train(folder: Path, case: str) -> None:
    """Train one iteration of eight episodes."""
    modulation, group_size = CASES[case]
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    policy = tiny_policy()
    trainer = Written(
        policy.model,
        environment_reward,
        EMPGConfig(
            **arguments(
                folder,
                gradient_accumulation_steps=4 // processes,
                num_generations=group_size,
                modulation=modulation,
            )
        ),
        train_dataset=datasets.Dataset.from_dict({"prompt": [str(group) for group in range(8 // group_size)]}),
        processing_class=policy.tokenizer,
        rollout_func=rollout,
    )
    trainer.train()
    if trainer.accelerator.is_main_process:
        policy.model.save_pretrained(folder / "trained")


if __name__ == "__main__":
    for name in CASES:
        train(Path(sys.argv[1]) / name, name)
