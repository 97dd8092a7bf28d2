"""The TRL side: `GRPOTrainer` with a `rollout_func`, and EMPG in the one method that a subclass overrides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl import GRPOConfig, GRPOTrainer

from benchmarks.rl_iteration.empg_side import gradients, save_gradients
from benchmarks.rl_iteration.process import Stopwatch
from benchmarks.rl_iteration.setting import SPLIT, Setting, requests
from benchmarks.rl_iteration.transformers_side import Lockstep, load, sample, token_row
from empg import modulate_advantages
from empg.credit import outcome_advantages
from empg.policy.decode import Sampled
from empg.policy.source import load_tokenizer
from empg.recipe import Recipe
from empg.rollout.collector import Request
from empg.rollout.env_pool import LocalEnvPool
from empg.rollout.turns import EpisodeState
from empg.rollout.types import Episode
from empg.run.build import build_agent

ROWS_PER_PASS = 4  # 8, 16 and 32 of 64 rows are as fast, but need up to 1 GiB more


def play(recipe: Recipe, agent: Any, model: Any, wanted: list[Request]) -> list[Episode]:
    """Play whole groups with transformers; the cache is kept between turns, and rows leave it when their episode ends.

    The episodes of a group share the prefill of their first prompt, as in empg.
    """
    rollout = recipe.rollout
    pool = LocalEnvPool(recipe.environment.maker(SPLIT))
    outcomes = pool.reset(range(len(wanted)), [request.task for request in wanted])
    states = [
        EpisodeState(agent, task=r.task, group=r.group, split=SPLIT, max_tokens=rollout.max_episode_tokens)
        for r in wanted
    ]
    rngs = [np.random.Generator(np.random.Philox(np.random.SeedSequence(r.key))) for r in wanted]
    prompts = [state.start(outcome) for state, outcome in zip(states, outcomes, strict=True)]
    assert all(prompt is not None for prompt in prompts)
    alive = list(range(len(wanted)))  # by row of the cache
    rows = Lockstep(model, len(wanted) // rollout.group_size)
    logits = rows.read([prompt.ids for prompt in prompts[:: rollout.group_size] if prompt is not None])
    logits = logits.repeat_interleave(rollout.group_size, 0)
    rows.repeat(rollout.group_size)
    while True:
        turns = _write(rows, logits, [rngs[i] for i in alive], [states[i].room for i in alive], recipe, agent)
        actions = [states[i].act(turn) for i, turn in zip(alive, turns, strict=True)]
        nexts = [states[i].observe(o) for i, o in zip(alive, pool.step(alive, actions), strict=True)]
        going = [row for row, prompt in enumerate(nexts) if prompt is not None]
        if not going:
            return [state.episode for state in states]
        if len(going) < len(alive):
            rows.keep(going)
        # The last id of a turn was sampled but not yet read by the model.
        logits = rows.read([[turns[row].ids[-1], *nexts[row].ids] for row in going])  # type: ignore[union-attr]
        alive = [alive[row] for row in going]


def _write(
    rows: Lockstep, logits: torch.Tensor, rngs: list[Any], rooms: list[int], recipe: Recipe, agent: Any
) -> list[Sampled]:
    """Sample a turn in every row; rows whose turn is complete wait for the longest one."""
    stop = set(agent.chat.stop_ids)
    turns = [Sampled() for _ in rngs]
    limits = [min(recipe.rollout.max_turn_tokens, room) for room in rooms]
    writing = list(range(len(turns)))
    while True:
        chosen = sample(logits[writing], recipe.rollout.temperature, [rngs[row] for row in writing])
        for row, token in zip(writing, chosen, strict=True):
            turns[row].ids.append(token)
        writing = [r for r in writing if turns[r].ids[-1] not in stop and len(turns[r].ids) < limits[r]]
        if not writing:
            return turns
        busy = set(writing)
        logits = rows.read([[turn.ids[-1]] if row in busy else [] for row, turn in enumerate(turns)])


class Trainer(GRPOTrainer):  # type: ignore[misc]  # TRL may not be installed
    """GRPO with EMPG: the advantages become (B, T), and are modulated by entropies that one more forward computes."""

    def __init__(self, side: Side, **arguments: Any) -> None:
        self.side = side
        super().__init__(rollout_func=side.roll_out, reward_funcs=reward, callbacks=[side], **arguments)
        self.remove_callback(transformers.PrinterCallback)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = super()._generate_and_score_completions(inputs)
        side, width = self.side, out["completion_ids"].shape[1]
        if not side.plays:  # TRL adds 1e-4 to the standard deviation of a group; this takes microseconds
            rewards = torch.tensor([episode.reward for episode in side.episodes])
            out["advantages"] = outcome_advantages(rewards, torch.tensor([e.group for e in side.episodes]))
        side.watch.stop("update")  # the preparation of the batch
        with torch.no_grad():
            _, entropies, _ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([out["prompt_ids"], out["completion_ids"]], 1),
                torch.cat([out["prompt_mask"], out["completion_mask"]], 1),
                width,
                batch_size=self.args.per_device_train_batch_size,
                compute_entropy=True,
            )
        steps = _padded([row["step_ids"] for row in inputs], -1)
        modulation = side.setting.recipe.credit.modulation
        assert modulation is not None
        assert modulation.name == "empg"
        out["advantages"] = modulate_advantages(out["advantages"], entropies, steps, **asdict(modulation.options))
        if not side.plays:  # their log-probabilities are those of an older policy
            out["old_per_token_logps"] = _padded([row["old_logprobs"] for row in inputs], 0.0)
            written = [row[steps[place] >= 0] for place, row in enumerate(out["advantages"])]
            side.advantages = [float(values) for values in torch.cat(written)]
        side.watch.stop("score")
        return out

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)
        self.side.loss += float(loss.detach())
        return loss


class Side(transformers.TrainerCallback):
    """Holds the trainer at the start of each iteration until a step is wanted, and sends its result at the end."""

    def __init__(
        self, next_step: Callable[[], bool], send: Callable[[dict[str, Any]], None], setting: Setting, plays: bool
    ) -> None:
        self.setting, self.plays = setting, plays
        self.watch, self.loss, self.iteration = Stopwatch(), 0.0, 0
        self.episodes: list[Episode] = [] if plays else setting.episodes()
        self.advantages: list[float] = []
        self._next_step, self._send = next_step, send
        self._agent = build_agent(setting.recipe, setting.policy())

    def roll_out(self, prompts: list[str], trainer: Trainer) -> dict[str, Any]:
        """TRL's `rollout_func`; `prompts` repeats each task as often as its group has episodes."""
        self.watch.stop("update")
        if self.plays:
            wanted = requests(self.setting.recipe, self.iteration)
            assert prompts == [str(request.task) for request in wanted]
            model = trainer.model.eval()
            self.episodes = play(self.setting.recipe, self._agent, model, wanted)
            model.train()
        self.watch.stop("rollout")
        columns: dict[str, list[Any]] = {name: [] for name in ("prompt_ids", "completion_ids", "env_mask", "step_ids")}
        for episode in self.episodes:
            (ids, steps), first = token_row(episode), len(episode.turns[0].prompt_ids)
            columns["prompt_ids"].append(ids[:first])
            columns["completion_ids"].append(ids[first:])
            columns["env_mask"].append([int(step >= 0) for step in steps[first:]])
            columns["step_ids"].append(steps[first:])
        # Not "logprobs": TRL would compare these with its own on every run.
        old = [_spread(episode, steps) for episode, steps in zip(self.episodes, columns["step_ids"], strict=True)]
        rewards = [episode.reward for episode in self.episodes]
        return {**columns, "logprobs": None, "old_logprobs": old, "episode_reward": rewards}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait until a step is wanted."""
        self._next_step()
        self.loss = 0.0
        self.watch.start()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the gradients of the first step, which warms up and is not measured."""
        if self.iteration == 0:
            save_gradients(kwargs["model"], gradients(self.setting, "trl"))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Send the result of a step."""
        self.watch.stop("update")
        written = sum(episode.num_action_tokens for episode in self.episodes)
        ids = [[turn.action_ids for turn in episode.turns] for episode in self.episodes] if self.plays else None
        advantages = self.advantages if self.iteration == 0 and not self.plays else None
        counts = {"written": written, "trained": written, "written_ids": ids}
        self._send({**self.watch.result(), **counts, "loss": self.loss, "advantages": advantages})
        self.iteration += 1


def reward(episode_reward: list[float], **columns: Any) -> list[float]:
    """Return the rewards of the environment, which came with the rollout."""
    return episode_reward


def _spread(episode: Episode, steps: list[int]) -> list[float]:
    """The log-probabilities of an episode's written ids at their places in the completion, 0 elsewhere."""
    values = iter([value for turn in episode.turns for value in turn.logprobs])
    return [next(values, 0.0) if step >= 0 else 0.0 for step in steps]


def _padded(rows: list[list[Any]], value: float) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def iterations(
    next_step: Callable[[], bool],
    send: Callable[[dict[str, Any]], None],
    setting: Setting,
    plays: bool,
    runs: int,
    rows_per_pass: int = ROWS_PER_PASS,
) -> None:
    """Train `runs` iterations on episodes that are played, or on the fixed ones."""
    torch.set_num_threads(setting.threads)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    recipe = setting.recipe
    rollout, optimizer, loss = recipe.rollout, recipe.optimizer, recipe.loss
    episodes = rollout.groups * rollout.group_size
    rows_per_pass = min(rows_per_pass, episodes)
    # A prompt is the number of a task; the rollout function reads the task itself.
    tasks = datasets.Dataset.from_dict({"prompt": [str(task) for task in range(runs * rollout.groups)]})
    with TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder,
            max_steps=runs,
            per_device_train_batch_size=rows_per_pass,
            gradient_accumulation_steps=episodes // rows_per_pass,
            num_generations=rollout.group_size,
            max_completion_length=rollout.max_episode_tokens,
            temperature=rollout.temperature,
            loss_type="grpo",  # the same mean over episodes as `episode_mean`
            epsilon=loss.clip_low,
            epsilon_high=loss.clip_high,
            learning_rate=optimizer.lr,
            lr_scheduler_type="constant",
            adam_beta1=optimizer.betas[0],
            adam_beta2=optimizer.betas[1],
            weight_decay=optimizer.weight_decay,
            max_grad_norm=optimizer.max_grad_norm,
            shuffle_dataset=False,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        Trainer(
            Side(next_step, send, setting, plays),
            model=load(setting.policy_folder),
            args=arguments,
            train_dataset=tasks,
            processing_class=load_tokenizer(str(setting.policy_folder)),
        ).train()
