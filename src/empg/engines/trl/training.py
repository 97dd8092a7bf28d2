"""Train a recipe with TRL into a run folder: the same records, episodes and evaluations as our own trainer's.

TRL and accelerate do the generation, the sharding, the optimizer and the checkpoints to resume from
(`checkpoints/trl/`). Credit is that of `learner/assign.py`, and evaluations are those of `run/evaluate.py`.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from importlib import util
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from empg.credit import LossStats, TokenLayout
from empg.engines.trl.positions import check_padding
from empg.engines.trl.rollout import EpisodeRollout, environment_reward
from empg.engines.trl.settings import FOLDER, engine_config, refusals_named, steps_per_iteration
from empg.engines.trl.trainer import EMPGConfig, EMPGTrainer
from empg.errors import MissingExtraError, UserError
from empg.learner.assign import Assigned, assign_credit, comparable
from empg.learner.checkpoint import Checkpoints, DivergedError, checkpoint_name, require_finite
from empg.learner.update import UpdateStats
from empg.policy.model import Policy
from empg.recipe import Recipe, dump_recipe
from empg.record.runfolder import START, RunFolder
from empg.rollout.types import Episode
from empg.run.build import build_agent, build_policy
from empg.run.evaluate import evaluate_policy, panel_of, pending_panels
from empg.run.logger import PhaseTimes
from empg.run.resume import ResumePoint, prepare_resume
from empg.run.run import Run, open_run
from empg.run.warm_start_cache import starting_policy
from empg.system.workers import Workers

# Statistics of the loss in TRL's logs, and their names in `LossStats`.
_LOGS = {
    "loss": "loss",
    "entropy": "entropy",
    "kl": "kl_reference",
    "clip_ratio/low_mean": "clip_low",
    "clip_ratio/high_mean": "clip_high",
}


def train(recipe: Recipe, run: Path, *, resume: bool = False, force: bool = False, command: str = "") -> None:
    """Train a recipe into a run folder; every process that torchrun or accelerate started calls this.

    Args:
        recipe: the resolved recipe.
        run: the run folder.
        resume: continue the run in this folder from its latest intact checkpoint.
        force: overwrite the run in this folder.
        command: the command line, for the records.

    Raises:
        MissingExtraError: vLLM is to generate and is not installed.
        RecipeError: the engine does not support a setting of the recipe.
        UserError: the recipe cannot run on this machine, or not continue this run; another process uses the folder.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # it warns that `rollout_func` may change; TRL is pinned
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)  # TRL calls it by its old name
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("trl.trainer.grpo_trainer").setLevel(logging.ERROR)  # it prints the text of rows without a reward
    datasets.disable_progress_bars()
    folder = RunFolder(run)
    args = engine_config(recipe, folder.checkpoints / FOLDER)
    if args.use_vllm and util.find_spec("vllm") is None:
        raise MissingExtraError("trl.use_vllm: needs the package vllm: pip install vllm, or remove the key")
    first = args.process_index == 0
    with ExitStack() as held:
        point = _open(recipe, folder, held, resume, force, command) if first else None
        point = gather_object([point])[0]
        saved = _saved(recipe, folder, point)
        opened = None
        if first:
            opened = held.enter_context(open_run(recipe, run, Workers(), None if point is None else point.resumed_at))
        policy = _starting_policy(recipe, folder, opened, point, command)
        check_padding(policy, recipe.policy.model)
        gather_object([first])  # the others wait until the first process has saved `start`
        if policy.adapter is None:  # where TRL loads the reference of the KL from, and vLLM its first weights
            policy.model.name_or_path = policy.model.config._name_or_path = str(
                folder.checkpoints / (START if point is None else point.reference)
            )
        recorder = _Recorder(recipe, policy, opened, point)
        with refusals_named():
            trainer = recorder.trainer = RecipeTrainer(recipe, policy, args, recorder)
        trainer.remove_callback(PrinterCallback)
        if trainer.sharded and recipe.evaluation.panels:
            raise UserError(
                "evaluation.splits: expected [] with sharded weights (FSDP, ZeRO-3), which cannot be evaluated"
            )
        trainer.train(resume_from_checkpoint=None if saved is None else str(saved))
        if opened is not None:
            opened.logger.finish()


def _open(
    recipe: Recipe, folder: RunFolder, held: ExitStack, resume: bool, force: bool, command: str
) -> ResumePoint | None:
    """Create the run folder, or prepare it for continuing; it stays locked until `held` is closed."""
    if not resume:
        held.enter_context(RunFolder.reserve(folder.path, force=force).hold())
        RunFolder.create(folder.path, dump_recipe(recipe), force=force)
        return None
    held.enter_context(RunFolder.open(folder.path).hold())
    if not (folder.checkpoints / FOLDER).is_dir():
        raise UserError(
            f"{folder.path} has no checkpoint of the engine trl: resume it with the engine it was trained with"
        )
    if not Checkpoints(folder.checkpoints).names() and any((folder.checkpoints / FOLDER).glob("checkpoint-*")):
        raise UserError(
            f"{folder.path} was trained with sharded weights, so it cannot be resumed: continue TRL's checkpoint in "
            f"{folder.checkpoints / FOLDER} with a script, or overwrite the run with --force"
        )
    return prepare_resume(recipe, folder, None, command)


def _saved(recipe: Recipe, folder: RunFolder, point: ResumePoint | None) -> Path | None:
    """Return TRL's checkpoint of the point where a run continues, or None at its start.

    Raises:
        UserError: the folder is missing.
    """
    if point is None or point.checkpoint is None:
        return None
    saved = folder.checkpoints / FOLDER / f"checkpoint-{point.iteration * steps_per_iteration(recipe)}"
    if not saved.is_dir():
        raise UserError(
            f"{saved} is missing, so {folder.path} cannot be resumed from {point.checkpoint}: remove "
            f"{folder.checkpoints / point.checkpoint} to resume from an earlier one, or overwrite the run with --force"
        )
    return saved


def _starting_policy(
    recipe: Recipe, folder: RunFolder, run: Run | None, point: ResumePoint | None, command: str
) -> Policy:
    """Return the policy that the run starts from, which is the checkpoint `start`; on the CPU if not warm-started."""
    on_cpu = recipe.replaced({"policy.device": "cpu"})
    if point is not None:
        policy = build_policy(on_cpu, folder.checkpoints / point.reference)
    else:
        if run is not None:
            run.logger.begin(command)
        warm = None if recipe.warm_start is None else run  # a warm start has one process
        policy = build_policy(on_cpu) if warm is None else starting_policy(warm)
        if run is not None:
            run.checkpoints.save(START, policy, None, {})
    policy.model.set_attn_implementation("sdpa")  # ours is for the rows of our own trainer
    return policy


class RecipeTrainer(EMPGTrainer):
    """`EMPGTrainer` with the whole credit of a recipe: its base advantage, penalties and process rewards as well.

    Attributes:
        episodes: the last generation batch, of all processes.
        assigned: its credit; None except on the first process.
        credit_seconds: how long the credit took.
    """

    knows_actions = True

    def __init__(self, recipe: Recipe, policy: Policy, args: EMPGConfig, callback: TrainerCallback) -> None:
        self.recipe, self.rollout = recipe, EpisodeRollout(recipe)
        self.episodes: list[Episode] = []
        self.assigned: Assigned | None = None
        self.credit_seconds = 0.0
        self._counted = 0  # tokens of the optimizer step so far, of this process
        stops = build_agent(recipe, policy).chat.stop_ids
        ends = {"stop_token_ids" if args.use_vllm else "eos_token_id": stops}
        args.generation_kwargs = {**ends, **(args.generation_kwargs or {})}
        super().__init__(
            policy.adapter or policy.model,
            environment_reward,
            args,
            train_dataset=self.rollout.dataset(),
            processing_class=policy.tokenizer,
            callbacks=[callback],
            rollout_func=self.rollout,
        )
        self.eos_token_ids = stops

    @property
    def needs_scores(self) -> bool:
        """Always: a run folder records entropies."""
        return True

    @property
    def sharded(self) -> bool:
        """Whether no process has all weights (FSDP, ZeRO-3): the policy is then neither evaluated nor exported here."""
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        return bool(self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3))

    def assign(self, inputs: list[dict[str, Any]], batch: dict[str, Any], scores: tuple[Tensor, Tensor]) -> None:
        """Assign the credit of the recipe; tokens that it does not count leave the loss."""
        began = time.perf_counter()
        steps = self.step_ids(inputs, batch)
        _fill_in(self.rollout.episodes, [row["step_ids"] for row in inputs], scores)
        shares = gather_object([self.rollout.episodes])
        self.episodes = [episode for share in shares for episode in share]
        first = self.accelerator.is_main_process  # a process reward may ask a model: all processes need one answer
        credit = gather_object([self._credit() if first else []])[0]
        start = sum(len(share) for share in shares[: self.accelerator.process_index])
        mine = zip(self.rollout.episodes, credit[start : start + len(inputs)], strict=True)
        pairs = [
            pair
            for episode, credits in mine
            if comparable(episode)
            for turn, pair in zip(episode.turns, credits, strict=True)
            if turn.action_ids  # a turn without tokens is not a step of the row
        ]
        layout, device = TokenLayout.of(steps), steps.device
        advantages = torch.tensor([pair[0] for pair in pairs], dtype=torch.float32, device=device)
        trained_on = torch.tensor([pair[1] for pair in pairs], dtype=torch.long, device=device)  # also if there is none
        batch["advantages"], counted = layout.to_tokens(advantages), layout.to_tokens(trained_on)
        batch["tool_mask"] = counted
        batch["num_items_in_batch"] = self.accelerator.gather(counted.sum()).sum()
        trained = sum(any(pair[1] for pair in turns) for turns in credit)
        batch["episodes_per_trained"] = torch.tensor(len(self.episodes) / max(1, trained), device=device)
        self.credit_seconds = time.perf_counter() - began

    def _credit(self) -> list[list[tuple[float, bool]]]:
        """Return for each step of each episode its final advantage, and whether it is trained on."""
        self.assigned = assigned = assign_credit(self.episodes, self.recipe, Workers(), finished=self.finished)
        values = iter(zip(assigned.advantages.tolist(), assigned.counted.tolist(), strict=True))
        found = {id(episode): [next(values) for _ in episode.turns] for episode in assigned.episodes}
        return [found.get(id(episode), [(0.0, False)] * len(episode.turns)) for episode in self.episodes]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)
        if self.loss_type in ("grpo", "dr_grpo"):  # TRL's means over episodes count those that were dropped
            loss = loss * inputs["episodes_per_trained"]
        self._counted += int((inputs["completion_mask"] * inputs["tool_mask"]).sum())
        return loss

    def drop_empty_gradients(self) -> None:
        """Drop the gradients of an optimizer step without a trained token on any process, so that AdamW skips it.

        Momentum and weight decay would otherwise move the policy.
        """
        if not sum(gather_object([self._counted])):
            self.model.zero_grad(set_to_none=True)
        self._counted = 0


def _fill_in(episodes: list[Episode], steps: list[list[int]], scores: tuple[Tensor, Tensor]) -> None:
    """Give every turn the log-probabilities and entropies of its tokens."""
    for row, episode in enumerate(episodes):
        written = torch.tensor(steps[row]) >= 0
        sizes = [len(turn.action_ids) for turn in episode.turns]
        logprobs, entropies = (values[row, : len(written)].float().cpu()[written].split(sizes) for values in scores)
        for turn, logprob, entropy in zip(episode.turns, logprobs, entropies, strict=True):
            turn.logprobs, turn.entropies = logprob.tolist(), entropy.tolist()


@dataclass
class _Recorder(TrainerCallback):
    """Writes what a run folder has of an iteration, evaluates, and saves the policy; only the first process writes."""

    recipe: Recipe
    policy: Policy
    run: Run | None  # None on the other processes
    point: ResumePoint | None  # where the run continues; None for a new run
    trainer: RecipeTrainer = field(init=False)
    done: int = 0  # finished iterations
    _began: float = 0.0

    def __post_init__(self) -> None:
        if self.resumed:
            assert self.point is not None
            assert self.point.checkpoint is not None
            self.done = self.point.iteration
            if self.run is not None:
                self.run.logger.alarms.restore(self.run.checkpoints.verify(self.point.checkpoint)["alarms"])

    @property
    def resumed(self) -> bool:
        """Whether the run continues from a checkpoint, and not from its start."""
        return self.point is not None and self.point.checkpoint is not None

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.policy.device = self.trainer.accelerator.device
        state.save_steps, state.logging_steps = args.save_steps, args.logging_steps  # a checkpoint brings its own
        # A run that continues may have other evaluations now, or have ended before the last of them.
        if not self.resumed or self.recipe.is_due(self.recipe.evaluation.every, self.done):
            self._evaluate()
        self._began = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.trainer.drop_empty_gradients()

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        logs: dict[str, Any] = more["logs"]
        if "loss" not in logs:  # the summary at the end of the training
            return
        self.done = state.global_step // steps_per_iteration(self.recipe)
        if self.run is not None:
            self._record(self.run, logs)
        if self.recipe.is_due(self.recipe.evaluation.every, self.done):
            self._evaluate()
        self._began = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._save(checkpoint_name(self.done))

    def _record(self, run: Run, logs: dict[str, Any]) -> None:
        trainer, assigned = self.trainer, self.trainer.assigned
        assert assigned is not None
        total, rollout, credit = time.perf_counter() - self._began, trainer.rollout.seconds, trainer.credit_seconds
        unknown = {each.name: float("nan") for each in fields(LossStats) if each.name != "tokens"}  # TRL has fewer
        stats = UpdateStats(
            loss={**unknown, **{ours: logs[name] for name, ours in _LOGS.items() if name in logs}},
            grad_norm=logs.get("grad_norm", float("nan")),
            mismatch=logs.get("sampling/sampling_logp_difference/mean", float("nan")),  # only vLLM gives them
            lr=logs["learning_rate"],
            skipped=0,
            tokens=int(assigned.keep.sum()),
            scored=int(assigned.keep.sum()) * self.recipe.optimizer.epochs,
        )
        times = PhaseTimes(rollout=rollout, credit=credit, update=total - rollout - credit)
        run.logger.iteration(self.done, trainer.episodes, assigned, stats, times)
        if not self.trainer.sharded:
            require_finite(self.policy.parameters, f"after iteration {self.done}")
        if problem := run.logger.alarms.cannot_learn:
            raise DivergedError(f"{problem}: lower optimizer.lr")

    def _pending(self) -> list[tuple[str, str]]:
        """Return the splits and decodings that this iteration has no evaluation of; the same on all processes."""
        records = [] if self.run is None else self.run.folder.read_metrics()
        pending: list[tuple[str, str]] = gather_object([pending_panels(self.recipe, records, self.done)])[0]
        return pending

    def _evaluate(self) -> None:
        accelerator = self.trainer.accelerator
        workers = Workers(accelerator.process_index, accelerator.num_processes)
        for split, decoding in self._pending():
            panel = panel_of(self.recipe, split)
            record, rows = evaluate_policy(
                self.recipe, self.policy, panel, decoding=decoding, iteration=self.done, workers=workers
            )
            if self.run is not None:
                self.run.logger.evaluation(record, rows)

    def _save(self, name: str) -> None:
        if self.run is not None and not self.trainer.sharded:
            state = {"iteration": self.done, "alarms": self.run.logger.alarms.state()}
            self.run.checkpoints.save(name, self.policy, None, state)
        self.trainer.accelerator.wait_for_everyone()
