"""What verl runs for `empg train --engine verl`: episodes that are recorded, the recipe's credit, a run folder.

The configuration names the recipe (`empg.recipe`) and the run folder (`empg.run`). The trainer writes into the folder,
so the machine with verl's driver must see it, and the machines with agent loops must see the recipe.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tensordict import TensorDict
from torch import Tensor
from verl.experimental.agent_loop.agent_loop import register
from verl.trainer.ppo.v1.trainer_base import register_trainer

from empg.credit import LossStats
from empg.engines.verl.base import CreditTrainer
from empg.engines.verl.episodes import EpisodeRows, pack, pack_row, panel_rows, read_episodes
from empg.engines.verl.loop import EnvironmentLoop
from empg.engines.verl.settings import TRAINER
from empg.engines.verl.tasks import AGENT
from empg.errors import UserError
from empg.learner.assign import Assigned, assign_credit
from empg.learner.checkpoint import DivergedError
from empg.learner.update import UpdateStats
from empg.recipe import Recipe, load_recipe
from empg.rollout.types import Episode
from empg.run.evaluate import panel_of, summarise
from empg.run.logger import PhaseTimes
from empg.run.run import Run, open_run
from empg.system.workers import Workers

PACKED = "empg_episode"
"""The field of an output's `extra_fields` with the packed episode."""

PLAYED = "empg_row"
"""The field of `reward_extra_info` with the row of an episode, for evaluations."""

# Statistics of the loss in verl's metrics, and their names in `LossStats`.
_METRICS = {
    "actor/loss": "loss",
    "actor/kl_loss": "kl_reference",
    "actor/pg_clipfrac_lower": "dual_clip",
}
_BATCH = ["loss_mask", "response_mask", "old_log_probs", "entropy"]


@register(AGENT)
class RecordedLoop(EnvironmentLoop):
    """`EnvironmentLoop` whose last output of an episode has the episode itself, if the configuration names a run."""

    _episode: Episode | None = None

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> Any:
        """Play one episode; see `EnvironmentLoop.run`."""
        made = await super().run(sampling_params, **row)
        if made and self._episode is not None and (self.config.get("empg") or {}).get("run"):
            last = made[-1].extra_fields
            last[PACKED] = pack(self._episode)
            last["reward_extra_info"][PLAYED] = pack_row(int(row["extra_info"]["index"]), self._episode)
        return made

    async def _play(self, state: Any, *arguments: Any) -> None:
        self._episode = state.episode
        await super()._play(state, *arguments)


@register_trainer(TRAINER)
class RecipeTrainer(CreditTrainer):
    """verl's synchronous trainer with the whole credit of a recipe and the records of a run.

    An update has `optimizer.minibatches` optimizer steps per epoch, however many rows the episodes have.

    Raises:
        UserError: a batch does not have what the credit needs.
    """

    reads = (*_BATCH, "rollout_log_probs")

    def __init__(self, config: DictConfig) -> None:
        self.recipe: Recipe = load_recipe(config.empg.recipe)
        self._minibatches: int = self.recipe.optimizer.minibatches
        self._rows: EpisodeRows | None = None
        self._assigned: Assigned | None = None
        self._mismatch = self._entropy = math.nan
        self._run: Run | None = None
        self._began = 0.0
        super().__init__(config)

    def fit(self, agent_loop_manager: Any) -> None:
        """Train, with the logger of the run open."""
        with ExitStack() as held:
            resumed_at = self.global_steps or None
            self._run = held.enter_context(open_run(self.recipe, Path(self.config.empg.run), Workers(), resumed_at))
            super().fit(agent_loop_manager)
            self._run.logger.finish()

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        """Take one step, and record it before its checkpoint is written."""
        began = time.perf_counter()
        batch = super().step(metrics, timing_raw)
        rollout, credit = timing_raw.get("gen", 0.0), timing_raw.get("adv", 0.0)
        total = time.perf_counter() - began
        times = PhaseTimes(rollout=rollout, credit=credit, update=total - rollout - credit)
        assert self._run is not None
        assert self._rows is not None
        assert self._assigned is not None
        stats = update_stats(metrics, self._assigned, self._mismatch, self._entropy, self.recipe)
        logger = self._run.logger
        logger.iteration(self.global_steps, self._rows.episodes, self._assigned, stats, times)
        if problem := logger.alarms.cannot_learn:
            raise DivergedError(f"{problem}: lower optimizer.lr")
        return batch

    def on_validate_begin(self) -> None:
        """Start the clock of an evaluation."""
        super().on_validate_begin()
        self._began = time.perf_counter()

    def assign(self, data: TensorDict, keys: list[str], finished: float, metrics: dict[str, Any]) -> dict[str, Tensor]:
        """Assign the recipe's credit and keep the episodes for the records; see `CreditTrainer.assign`."""
        self._rows, self._assigned, advantages, mask = assign_batch(data, keys, self.recipe, finished)
        self._mismatch, self._entropy = mismatch(data, mask), token_entropy(data, mask)
        # The loss selects its tokens by the first mask and counts them by the second.
        return {"advantages": advantages, "response_mask": mask, "loss_mask": mask}

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        return self._minibatches * math.lcm(dp_size, self.config.actor_rollout_ref.rollout.n)

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        actor, size = self.config.actor_rollout_ref.actor, self.config.actor_rollout_ref.rollout.n
        actor.ppo_mini_batch_size = len(batch) // (self._minibatches * size)  # verl multiplies by the group size
        return super()._update_actor(batch, metrics)

    def _val_metrics_update(
        self, data_sources: list[str], sample_uids: Any, reward_extra_infos_dict: dict[str, list[Any]], *more: Any,
        **named: Any,
    ) -> dict[str, float]:  # fmt: skip
        played = reward_extra_infos_dict.pop(PLAYED, [])
        seconds = time.perf_counter() - self._began
        assert self._run is not None
        for split in self.recipe.evaluation.panels:
            source = f"{self.recipe.environment.id}/{split}"
            of_the_split = [text for text, name in zip(played, data_sources, strict=True) if name == source and text]
            panel = panel_of(self.recipe, split)
            rows = panel_rows(panel, of_the_split)
            [decoding] = self.recipe.evaluation.decoding
            record = summarise(
                self.recipe, panel, rows, decoding=decoding, iteration=self.global_steps, seconds=seconds
            )
            self._run.logger.evaluation(record, rows)
        result: dict[str, float] = super()._val_metrics_update(
            data_sources, sample_uids, reward_extra_infos_dict, *more, **named
        )
        return result


def assign_batch(
    data: TensorDict, keys: list[str], recipe: Recipe, finished: float
) -> tuple[EpisodeRows, Assigned, Tensor, Tensor]:
    """Assign the credit of a recipe to a batch of TransferQueue, whose fields are nested tensors.

    Returns:
        The episodes, their credit, the advantages `(B, T)` of the tokens, and `(B, T)` int64, 1 at tokens to train on.

    Raises:
        UserError: the batch has no entropies, or no episodes that fit its rows.
    """
    if "entropy" not in data:
        raise UserError(f"the batch has no field entropy: the trainer {TRAINER} needs verl's pass of the old policy")
    padded = data.select(*_BATCH).to_padded_tensor()
    packed = [each.get(PACKED) for each in data.get("extra_fields").tolist()]
    try:
        rows = read_episodes(keys, packed, padded["loss_mask"], padded["old_log_probs"], padded["entropy"])
        assigned = assign_credit(rows.episodes, recipe, Workers(), finished=finished)
    except ValueError as error:
        raise UserError(f"{TRAINER}: {error}") from None
    advantages, counted = rows.to_rows(assigned)
    return rows, assigned, advantages, (counted & padded["response_mask"].bool()).long()


def mismatch(data: TensorDict, mask: Tensor) -> float:
    """Return the mean |log-probability when trained - when sampled| over the tokens of `mask`, NaN if unknown."""
    if "rollout_log_probs" not in data:
        return math.nan
    padded = data.select("old_log_probs", "rollout_log_probs").to_padded_tensor()
    difference = (padded["old_log_probs"] - padded["rollout_log_probs"]).abs()
    return float(difference[mask.bool()].mean())


def token_entropy(data: TensorDict, mask: Tensor) -> float:
    """Return the mean entropy of the tokens of `mask` before the update, nats; NaN without a token."""
    return float(data.select("entropy").to_padded_tensor()["entropy"][mask.bool()].mean())


def update_stats(
    metrics: dict[str, Any], assigned: Assigned, mismatch: float, entropy: float, recipe: Recipe
) -> UpdateStats:
    """Return the statistics of an update from verl's metrics; NaN for those that verl does not compute."""
    unknown = {each.name: math.nan for each in fields(LossStats) if each.name != "tokens"}
    tokens = int(assigned.keep.sum())
    loss = {**unknown, **{ours: float(metrics[name]) for name, ours in _METRICS.items() if name in metrics}}
    if recipe.loss.aggregation == "constant":
        loss["kl_reference"] = math.nan  # verl aggregates it as the loss, so it is not in nats per token
    return UpdateStats(
        loss={**loss, "entropy": entropy},
        grad_norm=float(metrics.get("actor/grad_norm", math.nan)),
        mismatch=mismatch,
        lr=float(metrics.get("actor/lr", math.nan)),
        skipped=0,
        tokens=tokens,
        scored=tokens * recipe.optimizer.epochs,
    )
