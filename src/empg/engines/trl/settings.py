"""From a recipe to the arguments of `EMPGConfig`; what TRL does not do is an error that names the key."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from empg.engines.trl.trainer import EMPGConfig
from empg.errors import RecipeError, UserError, message_of
from empg.policy.device import resolve_device
from empg.recipe import Recipe
from empg.validation import did_you_mean

FOLDER = "trl"
"""TRL's own checkpoints, in the folder of checkpoints of a run."""

LOSSES = {"token_mean": "dapo", "episode_mean": "grpo", "constant": "dr_grpo"}
"""The `loss_type` of TRL for each `loss.aggregation`."""

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
"""The `lr_scheduler_type` of TRL for each `optimizer.schedule`."""

_RUN = "the run folder"
# The arguments that the recipe sets, and by which key.
SET_BY = {
    "output_dir": _RUN,
    "seed": "seed",
    "max_steps": "iterations",
    "save_strategy": "checkpoint_every",
    "save_steps": "checkpoint_every",
    "save_total_limit": "keep_checkpoints",
    "save_only_model": "checkpoint_every",
    "enable_jit_checkpoint": "checkpoint_every",
    "ignore_data_skip": "environment",
    "logging_strategy": "iterations",
    "logging_steps": "iterations",
    "logging_first_step": "iterations",
    "report_to": _RUN,
    "disable_tqdm": _RUN,
    "eval_strategy": "evaluation",
    "eval_on_start": "evaluation",
    "load_best_model_at_end": "evaluation",
    "shuffle_dataset": "environment",
    "per_device_train_batch_size": "optimizer.micro_batch_tokens",
    "gradient_accumulation_steps": "optimizer.minibatches",
    "steps_per_generation": "rollout.groups",
    "generation_batch_size": "rollout.groups",
    "num_generations": "rollout.group_size",
    "num_iterations": "optimizer.epochs",
    "max_completion_length": "rollout.max_turn_tokens",
    "temperature": "rollout.temperature",
    "top_p": "rollout.top_p",
    "modulation": "credit.modulation",
    "loss_type": "loss.aggregation",
    "importance_sampling_level": "loss.ratio",
    "epsilon": "loss.clip_low",
    "epsilon_high": "loss.clip_high",
    "delta": "loss.dual_clip",
    "beta": "loss.kl_coef",
    "use_bias_correction_kl": "loss.kl_estimator",
    "entropy_coef": "loss.entropy_coef",
    "learning_rate": "optimizer.lr",
    "lr_scheduler_type": "optimizer.schedule",
    "warmup_steps": "optimizer.warmup_iterations",
    "adam_beta1": "optimizer.betas",
    "adam_beta2": "optimizer.betas",
    "weight_decay": "optimizer.weight_decay",
    "max_grad_norm": "optimizer.max_grad_norm",
    "bf16": "optimizer.autocast",
    "gradient_checkpointing": "optimizer.gradient_checkpointing",
    "activation_checkpointing": "optimizer.gradient_checkpointing",
    "scale_rewards": "credit.advantage",
    "reward_weights": "credit.process_reward",
    "multi_objective_aggregation": "credit.process_reward",
    "mask_truncated_completions": "credit.overlong_penalty",
    "use_cpu": "policy.device",
    "disable_dropout": "policy.model",
    "model_init_kwargs": "policy.dtype",
    "chat_template_kwargs": "agent.template_arguments",
    "max_tool_calling_iterations": "environment.max_steps",
    "num_train_epochs": "iterations",
}

# Arguments of the generator itself that would replace those of the recipe.
_GENERATION = SET_BY | dict.fromkeys(("max_new_tokens", "max_tokens", "max_length"), "rollout.max_turn_tokens")


# Ranges of arguments that the generator would refuse only when the first turn is sampled.
_RANGES = {"top_k": (0, 1e9), "min_p": (0.0, 1.0), "repetition_penalty": (1e-3, 1e3)}

# Arguments whose annotation in transformers is narrower than its documentation.
_WIDER: dict[str, Any] = {"fsdp": bool | str | list[str] | None}


def processes() -> int:
    """Return the number of processes that torchrun or accelerate started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def steps_per_iteration(recipe: Recipe) -> int:
    """Return the number of optimizer steps of one iteration."""
    return recipe.optimizer.minibatches * recipe.optimizer.epochs


def engine_config(recipe: Recipe, output: Path) -> EMPGConfig:
    """Return the configuration of the trainer for a resolved recipe.

    Args:
        recipe: what `resolve` returned.
        output: where TRL writes its checkpoints.

    Raises:
        RecipeError: the engine does not support a setting; the message has one line per setting.
    """
    if problems := list(_problems(recipe)):
        raise RecipeError("\n".join(f"--engine trl: {problem}" for problem in problems))
    with refusals_named():
        return EMPGConfig(**_arguments(recipe, output), **recipe.trl)


@contextmanager
def refusals_named() -> Iterator[None]:
    """Turn what TRL raises for an option of the section `trl` into a `RecipeError`."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"--engine trl: {message_of(error, 400)}") from error


def config_text(recipe: Recipe, run: Path) -> str:
    """Return every argument of the trainer for a resolved recipe and a run folder, as YAML; raises `RecipeError`."""
    config = engine_config(recipe, run / "checkpoints" / FOLDER)
    return yaml.safe_dump(json.loads(config.to_json_string()), allow_unicode=True)


def _arguments(recipe: Recipe, output: Path) -> dict[str, Any]:
    rollout, loss, optimizer = recipe.rollout, recipe.loss, recipe.optimizer
    rows = _rows_per_pass(recipe)
    share = rollout.groups * rollout.group_size // recipe.workers
    steps = steps_per_iteration(recipe)
    modulation = recipe.credit.modulation
    return {
        "output_dir": str(output),
        "seed": recipe.seed,
        "max_steps": recipe.iterations * steps,
        "save_strategy": "steps",
        "save_steps": recipe.checkpoint_every * steps,
        # TRL removes its oldest before the policy of the same iteration is saved here: a run that is stopped between
        # the two continues from the one before.
        "save_total_limit": recipe.keep_checkpoints + 1,
        "logging_strategy": "steps",
        "logging_steps": steps,
        "report_to": "none",
        "disable_tqdm": True,
        "shuffle_dataset": False,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": share // optimizer.minibatches // rows,
        "steps_per_generation": share // rows,
        "num_generations": rollout.group_size,
        "num_iterations": optimizer.epochs,
        "max_completion_length": rollout.max_turn_tokens,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "modulation": None if modulation is None else modulation.model_dump(),
        "loss_type": LOSSES[loss.aggregation],
        "importance_sampling_level": loss.ratio,
        "epsilon": loss.clip_low,
        "epsilon_high": loss.clip_high,
        "delta": loss.dual_clip,
        "beta": loss.kl_coef,
        "use_bias_correction_kl": False,  # by default TRL multiplies the KL by the ratio, which has a gradient
        "entropy_coef": loss.entropy_coef,
        "learning_rate": optimizer.lr,
        "lr_scheduler_type": SCHEDULES[optimizer.schedule],
        "warmup_steps": optimizer.warmup_iterations * steps,
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.max_grad_norm,
        "bf16": bool(optimizer.autocast),
        "activation_checkpointing": optimizer.gradient_checkpointing,
        "disable_dropout": True,
        # Only for the reference of the KL, which TRL loads itself. The policy has the same.
        "model_init_kwargs": {"dtype": recipe.policy.dtype, "attn_implementation": "sdpa"},
        "use_cpu": resolve_device(recipe.policy.device).type == "cpu",
    }


def _rows_per_pass(recipe: Recipe) -> int:
    """Return how many episodes one forward pass of a process has: as many as the token budget surely allows."""
    rollout, optimizer = recipe.rollout, recipe.optimizer
    per_step = rollout.groups * rollout.group_size // recipe.workers // optimizer.minibatches
    budget = max(1, optimizer.micro_batch_tokens // rollout.max_episode_tokens)
    return max(rows for rows in range(1, min(per_step, budget) + 1) if per_step % rows == 0)


def _problems(recipe: Recipe) -> Iterator[str]:
    rollout, loss, optimizer = recipe.rollout, recipe.loss, recipe.optimizer
    if recipe.iterations < 1:
        yield f"iterations: expected >= 1, got {recipe.iterations}"
    if recipe.workers != processes():
        how = f"start {recipe.workers} with torchrun --nproc-per-node {recipe.workers} -m -- empg train ..."
        yield f"workers: expected {processes()}, the number of processes, got {recipe.workers}; {how}"
    if recipe.agent.history != "merged":
        yield f"agent.history: expected merged, because a completion of TRL is one row, got {recipe.agent.history}"
    if rollout.group_size < 2:
        yield f"rollout.group_size: expected >= 2, got {rollout.group_size}"
    share = rollout.groups * rollout.group_size // recipe.workers
    if share % optimizer.minibatches:
        found = f"got {optimizer.minibatches}"
        yield f"optimizer.minibatches: expected a divisor of {share}, the episodes of a process, {found}"
    if (estimator := recipe.credit.estimator).needs_critic:
        yield f"credit.advantage: expected one without a critic, which TRL does not train, got {estimator.name}"
    if recipe.credit.max_resample:
        yield f"credit.max_resample: expected 0, because TRL does not replace groups, got {recipe.credit.max_resample}"
    if loss.ratio != "token":
        yield f"loss.ratio: expected token, because TRL's sequence ratio mixes the credit of steps, got {loss.ratio}"
    if loss.kl_coef and loss.kl_estimator != "k3":
        yield f"loss.kl_estimator: expected k3, got {loss.kl_estimator}"
    if loss.dual_clip is not None and loss.dual_clip <= 1 + loss.clip_high:
        yield f"loss.dual_clip: expected > 1 + loss.clip_high = {1 + loss.clip_high:g}, got {loss.dual_clip:g}"
    if optimizer.old_logprobs != "recomputed":
        yield f"optimizer.old_logprobs: expected recomputed, got {optimizer.old_logprobs}"
    if optimizer.compile:
        yield "optimizer.compile: expected false; set trl.torch_compile=true"
    if recipe.policy.device not in ("auto", "cpu", "cuda"):
        yield (
            f"policy.device: expected auto, cpu or cuda, got {recipe.policy.device}; "
            "choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    if recipe.warm_start is not None and recipe.workers > 1:
        yield "warm_start: expected null with several processes; train it alone and set policy.model to its checkpoint"
    yield from _wrong_options(recipe.trl)


def _wrong_options(options: dict[str, Any]) -> Iterator[str]:
    known = {field.name for field in fields(EMPGConfig) if field.init}
    hints = get_type_hints(EMPGConfig)
    for name, value in options.items():
        if name in SET_BY:
            yield f"trl.{name}: is set by {SET_BY[name]}; remove it"
        elif name not in known:
            yield f"trl.{name}: is not an argument of GRPOConfig{did_you_mean(name, known)}"
        elif not _fits(value, _WIDER.get(name, hints[name])):
            wanted = hints[name].__name__ if isinstance(hints[name], type) else str(hints[name])
            yield f"trl.{name}: expected {wanted}, got {value!r:.80}"
        elif name in _RANGES and value is not None and not _RANGES[name][0] <= value <= _RANGES[name][1]:
            yield f"trl.{name}: expected {_RANGES[name][0]:g} to {_RANGES[name][1]:g}, got {value!r:.80}"
        elif name == "generation_kwargs":
            yield from _set_elsewhere(value)


def _set_elsewhere(given: Any) -> Iterator[str]:
    try:
        given = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        return  # transformers rejects it
    for name in given if isinstance(given, dict) else ():
        if name in _GENERATION:
            yield f"trl.generation_kwargs.{name}: is set by {_GENERATION[name]}; remove it"


def _fits(value: Any, wanted: Any) -> bool:
    """Return whether a value has the type of an argument; an integer is a float, and no text is a number or bool."""
    try:
        TypeAdapter(wanted, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError:
        return False
    return True
