"""A tiny Llama, a small recipe and fixed episodes for the tests of the TRL engine."""

from __future__ import annotations

from typing import Any

from empg.policy.model import Policy
from empg.recipe import Recipe, parse_recipe
from empg.rollout.types import EndReason, Episode, Turn
from empg.run.build import build_policy
from tests.engines.tiny import POLICY

SMALL: dict[str, Any] = {
    "iterations": 2,
    "checkpoint_every": 1,
    "environment": {"max_steps": 4, "options": {"rooms": "small"}},
    "policy": POLICY,
    "rollout": {"groups": 2, "group_size": 4, "max_turn_tokens": 16, "max_episode_tokens": 512, "slots": 4},
    "optimizer": {"old_logprobs": "recomputed", "lr": 1.0e-3, "micro_batch_tokens": 1024},
    "evaluation": {"splits": ["valid_seen"], "episodes": 4},
}


def small_recipe(**sections: Any) -> Recipe:
    """The small recipe with other values; those of a section are added to its own."""
    merged = {
        key: {**SMALL.get(key, {}), **value} if isinstance(value, dict) else value for key, value in sections.items()
    }
    return parse_recipe({**SMALL, **merged})


def tiny_policy(recipe: Recipe | None = None) -> Policy:
    """A policy with random weights, always the same."""
    policy = build_policy(recipe or small_recipe())
    policy.model.set_attn_implementation("sdpa")
    return policy


def fixed_episode(number: int, group_size: int = 4) -> Episode:
    """Episode `number` of a batch of eight: one to three turns of different lengths and rewards."""
    turns = [
        Turn(
            observation=f"{number % 3} {step}",
            prompt_ids=[20 + number % 4, 30 + step, 41],
            action_ids=[50 + (7 * number + 3 * step + k) % 90 for k in range(2 + (number + step) % 4)],
            logprobs=[0.0] * (2 + (number + step) % 4),
            entropies=[],
            action_start=(number + step) % 2,
            valid=(number + step) % 5 != 0,
        )
        for step in range(1 + number % 3)
    ]
    won = number in (1, 2, 6)
    return Episode(
        task_id=f"task-{number // group_size}",
        task_index=number // group_size,
        task_type="type",
        split="train",
        group=number // group_size,
        turns=turns,
        reward=float(won),
        success=won,
        end=EndReason.WON if won else EndReason.LOST,
    )


def arguments(folder: Any, **changes: Any) -> dict[str, Any]:
    """Arguments of the trainer for one iteration of eight episodes on the CPU."""
    return {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "num_generations": 4,
        "max_completion_length": 16,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "shuffle_dataset": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        **changes,
    }
