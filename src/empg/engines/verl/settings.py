"""From a recipe to verl's configuration; what verl does not do is an error that names the key.

Only `composed` and `config_text` import verl. The settings themselves, and what is refused, need no verl.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from empg.errors import MissingExtraError, RecipeError, message_of
from empg.recipe import Recipe
from empg.recipe.recorded import flat
from empg.validation import did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

FOLDER = "verl"
"""verl's own checkpoints and the files of tasks that it reads, in the folder of checkpoints of a run."""

TRAINER = "empg_recipe"
"""The name of the trainer that records a run; see `recording.py`."""

LOSSES = {"token_mean": "token-mean", "episode_mean": "seq-mean-token-mean", "constant": "seq-mean-token-sum-norm"}
"""The `loss_agg_mode` of verl for each `loss.aggregation`."""

KL = {"k1": "kl", "k2": "mse", "k3": "low_var_kl"}
"""The `kl_loss_type` of verl for each `loss.kl_estimator`."""

NO_DUAL_CLIP = 1e9
"""verl always clips twice. No ratio reaches this bound, because verl limits its logarithm to 20."""

_RUN = "the run folder"
_ACTOR, _REFERENCE, _ROLLOUT, _MODEL = (f"actor_rollout_ref.{part}" for part in ("actor", "ref", "rollout", "model"))

DEFAULTS: dict[str, Any] = {
    "trainer.project_name": "empg",
    "trainer.logger": ["console"],
    "data.dataloader_num_workers": 0,
    f"{_ROLLOUT}.name": "vllm",
    f"{_ROLLOUT}.tensor_model_parallel_size": 1,
    f"{_ACTOR}.strategy": "fsdp2",
}
"""Values that replace verl's own defaults; the section `verl` of a recipe may change them."""

NEW = ("empg.recipe", "empg.run", *(f"{part}.fsdp_config.mixed_precision" for part in (_ACTOR, _REFERENCE)))
"""Keys that verl's default configuration does not have."""

Setting = tuple[str, str, Any]
"""The key of the recipe, the key of verl, and verl's value."""


def start_folder(run: Path) -> Path:
    """Return the folder of the tiny policy that a run starts from."""
    return run / "checkpoints" / "start"


def overrides(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Return verl's values by their dotted key for a resolved recipe and a run folder.

    A key with a leading `+` is new to verl, as on verl's command line.

    Raises:
        RecipeError: verl does not support a setting; the message has one line per setting.
    """
    given = flat(recipe.verl)
    settings = list(_settings(recipe, run.absolute()))
    if problems := [*_problems(recipe), *_overlaps(given, settings), *_wrong_counts(given)]:
        raise RecipeError("\n".join(f"--engine verl: {problem}" for problem in problems))
    values = {
        **DEFAULTS,
        "trainer.n_gpus_per_node": max(1, torch.cuda.device_count()),
        f"{_ACTOR}.checkpoint.save_contents": _saved(recipe),
        **given,
        **{key: value for _, key, value in settings},
    }
    return {f"+{key}" if key.startswith(NEW) else key: value for key, value in values.items()}


def _saved(recipe: Recipe) -> list[str]:
    """Return what verl's checkpoints have; its whole model has the names of adapters and cannot be loaded."""
    return ["model", "optimizer", "extra", *([] if recipe.policy.lora else ["hf_model"])]


def composed(recipe: Recipe, run: Path) -> DictConfig:
    """Return verl's whole configuration for a resolved recipe and a run folder, checked by verl.

    Raises:
        MissingExtraError: verl is not installed.
        RecipeError: verl does not support a setting, or does not have a key of the section `verl`.
    """
    values = overrides(recipe, run)
    if util.find_spec("verl") is None:
        raise MissingExtraError(
            "--engine verl needs the extra 'verl' on Python 3.10 to 3.12: pip install \"empg[verl]\""
        )
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer")
    known = list(flat(OmegaConf.to_container(config)))
    for key, value in values.items():
        name = key.removeprefix("+")
        try:
            OmegaConf.update(config, name, value, merge=False, force_add=key != name)
        except OmegaConfBaseException:
            raise RecipeError(
                f"--engine verl: verl.{name}: is not a key of verl's configuration{did_you_mean(name, known)}"
            ) from None
    _check(config)
    return config


def config_text(recipe: Recipe, run: Path) -> str:
    """Return verl's whole configuration as YAML; raises what `composed` raises."""
    config = composed(recipe, run)
    from omegaconf import OmegaConf

    return str(OmegaConf.to_yaml(config, resolve=True))


def _check(config: DictConfig) -> None:
    """Let verl validate a configuration, without what it prints."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            validate_config(config, need_reference_policy(config), need_critic(config))
    except (ValueError, TypeError, AssertionError) as error:
        raise RecipeError(f"--engine verl: {message_of(error, 400)}") from None


def _settings(recipe: Recipe, run: Path) -> Iterator[Setting]:
    yield from _run_settings(recipe, run)
    yield from _rollout_settings(recipe)
    yield from _update_settings(recipe)


def _run_settings(recipe: Recipe, run: Path) -> Iterator[Setting]:
    policy, evaluation = recipe.policy, recipe.evaluation
    folder = run / "checkpoints" / FOLDER
    yield _RUN, "empg.recipe", str(run / "recipe.yaml")
    yield _RUN, "empg.run", str(run)
    yield _RUN, "data.train_files", str(folder / "train.parquet")
    yield _RUN, "data.val_files", str(folder / "valid.parquet")
    yield _RUN, "trainer.default_local_dir", str(folder)
    yield _RUN, "trainer.resume_mode", "auto"  # from there
    yield _RUN, "trainer.v1.trainer_mode", TRAINER
    yield "name", "trainer.experiment_name", recipe.name
    for key in (f"{_ACTOR}.data_loader_seed", f"{_ACTOR}.fsdp_config.seed", f"{_ROLLOUT}.seed"):
        yield "seed", key, recipe.seed
    yield "iterations", "trainer.total_training_steps", recipe.iterations
    yield "iterations", "trainer.total_epochs", 1
    yield "iterations", "trainer.val_only", False
    yield "iterations", "trainer.critic_warmup", 0  # iterations without an update of the policy
    yield "iterations", "data.train_max_samples", -1
    yield "checkpoint_every", "trainer.save_freq", recipe.checkpoint_every
    # verl removes its oldest before it points to the newest: a run that stops between the two needs the one before.
    yield "keep_checkpoints", "trainer.max_actor_ckpt_to_keep", recipe.keep_checkpoints + 1
    yield "policy.model", f"{_MODEL}.path", str(start_folder(run)) if policy.model == "tiny" else policy.model
    yield "policy.dtype", f"{_ACTOR}.fsdp_config.model_dtype", {"float32": "fp32", "bfloat16": "bf16"}[policy.dtype]
    yield "policy.device", "trainer.device", "cpu" if policy.device == "cpu" else "cuda"
    if policy.lora is not None:
        yield "policy.lora", f"{_MODEL}.lora_rank", policy.lora.r
        yield "policy.lora", f"{_MODEL}.lora_alpha", policy.lora.alpha
        yield "policy.lora", f"{_MODEL}.target_modules", policy.lora.target_modules
        yield "policy.lora", f"{_ROLLOUT}.load_format", "safetensors"  # the engine then loads what is not trained
    greedy = evaluation.decoding == ["greedy"]
    yield "evaluation.splits", "trainer.val_before_train", bool(evaluation.panels)
    every = (evaluation.every or recipe.iterations) if evaluation.panels else -1
    yield "evaluation.every", "trainer.test_freq", every
    yield "evaluation.decoding", f"{_ROLLOUT}.val_kwargs.do_sample", not greedy
    yield "evaluation.temperature", f"{_ROLLOUT}.val_kwargs.temperature", 0.0 if greedy else evaluation.temperature
    yield "rollout.top_p", f"{_ROLLOUT}.val_kwargs.top_p", 1.0 if greedy else recipe.rollout.top_p
    yield "evaluation.splits", f"{_ROLLOUT}.val_kwargs.n", 1
    yield "evaluation.episodes", "data.val_max_samples", -1


def _rollout_settings(recipe: Recipe) -> Iterator[Setting]:
    rollout = recipe.rollout
    turn, whole = rollout.max_turn_tokens, rollout.max_episode_tokens
    response = max(turn, whole - turn) if recipe.agent.history == "merged" else turn
    yield "environment", "data.shuffle", False
    yield "rollout.groups", "data.train_batch_size", rollout.groups
    yield "rollout.group_size", f"{_ROLLOUT}.n", rollout.group_size
    yield "rollout.max_episode_tokens", "data.max_prompt_length", whole - response
    yield "rollout.max_turn_tokens", "data.max_response_length", response
    yield "rollout.max_episode_tokens", f"{_ROLLOUT}.prompt_length", whole - response
    yield "rollout.max_turn_tokens", f"{_ROLLOUT}.response_length", response
    yield "rollout.max_episode_tokens", "data.filter_overlong_prompts", False
    yield "rollout.temperature", f"{_ROLLOUT}.temperature", rollout.temperature
    yield "rollout.top_p", f"{_ROLLOUT}.top_p", rollout.top_p


def _update_settings(recipe: Recipe) -> Iterator[Setting]:
    loss, optimizer, rollout = recipe.loss, recipe.optimizer, recipe.rollout
    yield "credit.advantage", "algorithm.adv_estimator", "grpo"  # its advantages are replaced by the recipe's
    yield "credit.advantage", "algorithm.use_kl_in_reward", False
    yield "credit.advantage", "critic.enable", False
    yield "optimizer.old_logprobs", "algorithm.rollout_correction.bypass_mode", False
    yield "loss.ratio", f"{_ACTOR}.policy_loss.loss_mode", "vanilla"
    yield "loss.clip_low", f"{_ACTOR}.clip_ratio", loss.clip_low
    yield "loss.clip_low", f"{_ACTOR}.clip_ratio_low", loss.clip_low
    yield "loss.clip_high", f"{_ACTOR}.clip_ratio_high", loss.clip_high
    yield "loss.dual_clip", f"{_ACTOR}.clip_ratio_c", NO_DUAL_CLIP if loss.dual_clip is None else loss.dual_clip
    yield "loss.aggregation", f"{_ACTOR}.loss_agg_mode", LOSSES[loss.aggregation]
    constant = rollout.max_episode_tokens if loss.aggregation == "constant" else None
    yield "loss.aggregation", f"{_ACTOR}.loss_scale_factor", constant
    yield "loss.kl_coef", f"{_ACTOR}.use_kl_loss", loss.kl_coef > 0
    yield "loss.kl_coef", f"{_ACTOR}.kl_loss_coef", loss.kl_coef
    yield "loss.kl_estimator", f"{_ACTOR}.kl_loss_type", KL[loss.kl_estimator]
    yield "loss.entropy_coef", f"{_ACTOR}.entropy_coeff", loss.entropy_coef
    yield "optimizer.lr", f"{_ACTOR}.optim.lr", optimizer.lr
    yield "optimizer.betas", f"{_ACTOR}.optim.betas", list(optimizer.betas)
    yield "optimizer.weight_decay", f"{_ACTOR}.optim.weight_decay", optimizer.weight_decay
    yield "optimizer.max_grad_norm", f"{_ACTOR}.optim.clip_grad", optimizer.max_grad_norm
    yield "optimizer.max_grad_norm", f"{_ACTOR}.grad_clip", optimizer.max_grad_norm
    yield "optimizer.schedule", f"{_ACTOR}.optim.lr_scheduler_type", optimizer.schedule
    yield "optimizer.warmup_iterations", f"{_ACTOR}.optim.lr_warmup_steps", optimizer.warmup_iterations
    yield "optimizer.warmup_iterations", f"{_ACTOR}.optim.lr_warmup_steps_ratio", 0.0
    yield "optimizer.minibatches", f"{_ACTOR}.ppo_mini_batch_size", rollout.groups // optimizer.minibatches
    yield "optimizer.minibatches", f"{_ACTOR}.shuffle", optimizer.minibatches > 1
    yield "optimizer.epochs", f"{_ACTOR}.ppo_epochs", optimizer.epochs
    yield "optimizer.micro_batch_tokens", f"{_ACTOR}.use_dynamic_bsz", True
    yield "optimizer.micro_batch_tokens", f"{_ACTOR}.ppo_max_token_len_per_gpu", optimizer.micro_batch_tokens
    computed = "bf16" if optimizer.autocast or recipe.policy.dtype == "bfloat16" else "fp32"
    for part in (_ACTOR, _REFERENCE):  # a reference in another precision has a KL divergence to the policy at the start
        yield "optimizer.autocast", f"{part}.fsdp_config.mixed_precision.param_dtype", computed
        yield "optimizer.autocast", f"{part}.fsdp_config.mixed_precision.reduce_dtype", "fp32"
    checkpointing = optimizer.gradient_checkpointing
    yield "optimizer.gradient_checkpointing", f"{_MODEL}.enable_gradient_checkpointing", checkpointing


def _problems(recipe: Recipe) -> Iterator[str]:
    rollout, optimizer, policy = recipe.rollout, recipe.optimizer, recipe.policy
    if recipe.iterations < 1:
        yield f"iterations: expected >= 1, got {recipe.iterations}"
    if recipe.workers != 1:
        how = "set verl.trainer.n_gpus_per_node and verl.trainer.nnodes"
        yield f"workers: expected 1, because verl starts the processes, got {recipe.workers}; {how}"
    if policy.device not in ("auto", "cpu", "cuda"):
        yield f"policy.device: expected auto, cpu or cuda, got {policy.device}; choose GPUs with CUDA_VISIBLE_DEVICES"
    if recipe.warm_start is not None and policy.model != "tiny":
        yield "warm_start: expected null; train it with --engine local and set policy.model to its checkpoint"
    if policy.lora is not None and policy.model == "tiny":
        yield "policy.lora: expected null with policy.model=tiny, whose weights verl loads as a whole model"
    if rollout.group_size < 2:
        yield f"rollout.group_size: expected >= 2, got {rollout.group_size}"
    if rollout.groups % optimizer.minibatches:
        found = f"got {optimizer.minibatches}"
        yield f"optimizer.minibatches: expected a divisor of rollout.groups = {rollout.groups}, {found}"
    if optimizer.micro_batch_tokens < rollout.max_episode_tokens:
        wanted = f"expected >= rollout.max_episode_tokens = {rollout.max_episode_tokens}"
        yield f"optimizer.micro_batch_tokens: {wanted}, got {optimizer.micro_batch_tokens}"
    if optimizer.compile:
        yield "optimizer.compile: expected false; verl compiles its scores by default (use_torch_compile of the actor)"
    if rollout.max_turn_tokens >= rollout.max_episode_tokens:
        wanted = f"expected < rollout.max_episode_tokens = {rollout.max_episode_tokens}"
        yield f"rollout.max_turn_tokens: {wanted}, got {rollout.max_turn_tokens}"
    if (estimator := recipe.credit.estimator).needs_critic:
        yield f"credit.advantage: expected one without a critic, got {estimator.name}"
    if recipe.credit.max_resample:
        how = "verl.algorithm.filter_groups.enable=true replaces groups without a limit"
        yield f"credit.max_resample: expected 0, got {recipe.credit.max_resample}; {how}"
    yield from _loss_problems(recipe)
    if optimizer.old_logprobs != "recomputed":
        yield f"optimizer.old_logprobs: expected recomputed, got {optimizer.old_logprobs}"
    if optimizer.schedule == "linear":
        yield "optimizer.schedule: expected constant or cosine, got linear"
    if len(recipe.evaluation.decoding) != 1:
        yield f"evaluation.decoding: expected one of sampled and greedy, got {recipe.evaluation.decoding}"


def _loss_problems(recipe: Recipe) -> Iterator[str]:
    loss = recipe.loss
    if loss.ratio != "token":
        yield f"loss.ratio: expected token, got {loss.ratio}"
    if loss.aggregation == "token_mean":
        return
    reason = f"because verl averages over rows, got {loss.aggregation}"
    if recipe.agent.history == "per_turn":
        yield f"loss.aggregation: expected token_mean with agent.history=per_turn, {reason}"
    if recipe.credit.drop_zero_variance:
        yield f"loss.aggregation: expected token_mean with credit.drop_zero_variance, {reason}"


def _wrong_counts(given: dict[str, Any]) -> Iterator[str]:
    """Check the numbers of processes, which verl does not check."""
    for key in ("trainer.nnodes", "trainer.n_gpus_per_node"):
        for name in (key, f"+{key}"):
            value = given.get(name, 1)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                yield f"verl.{name}: expected a whole number >= 1, got {value!r:.80}"


def _overlaps(given: dict[str, Any], settings: list[Setting]) -> Iterator[str]:
    for name in given:
        for source, key, _ in settings:
            if name.removeprefix("+") == key or key.startswith(f"{name.removeprefix('+')}."):
                yield f"verl.{name}: is set by {source}; remove it"
                break
