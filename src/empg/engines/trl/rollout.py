"""Our environments as TRL's `rollout_func`: prompts, parsing and limits of a recipe, tokens from TRL's generation.

Every turn is one call of TRL's own generation (transformers, continuous batching, vLLM server or colocate) for all
episodes that are not over. All processes make the same number of calls, as sharded weights and a vLLM server require.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import datasets
from accelerate.utils import gather_object

from empg.agent.dialogue import Agent, Prompt
from empg.errors import UserError
from empg.learner.assign import comparable
from empg.policy.decode import Sampled
from empg.policy.model import Policy
from empg.recipe import Recipe
from empg.rollout.env_pool import make_env_pool
from empg.rollout.turns import EpisodeState
from empg.rollout.types import Episode
from empg.run.build import build_agent


class EpisodeRollout:
    """Plays the episodes of a recipe: pass it to a trainer as `rollout_func`, with `dataset` and `environment_reward`.

    Besides what TRL requires, it returns `step_ids`, the step of each token, and `episode_reward`.

    Attributes:
        recipe: its sections `environment`, `agent` and `rollout` are used, and `seed` not: TRL samples.
        episodes: those of the last call, in the order of its prompts.
        seconds: how long the last call took.

    Raises:
        UserError: the recipe's history is not `merged`: a completion of TRL is one row.
    """

    def __init__(self, recipe: Recipe) -> None:
        if recipe.agent.history != "merged":
            raise UserError(f"agent.history: the engine trl expects merged, got {recipe.agent.history}")
        self.recipe = recipe
        self.episodes: list[Episode] = []
        self.seconds = 0.0
        self._agent: Agent | None = None
        self._tasks = recipe.environment.num_tasks(recipe.environment.train_split)

    def dataset(self) -> Any:
        """Return the training data: one row per group of the run, whose prompt is the number of the group.

        The group n plays task n of the train split, and the first task again when the split is used up.
        """
        groups = self.recipe.iterations * self.recipe.rollout.groups
        return datasets.Dataset.from_dict({"prompt": [str(group) for group in range(groups)]})

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """Play one episode per prompt; the prompts repeat each group as often as it has episodes."""
        began = time.perf_counter()
        if self._agent is None:
            model = trainer.accelerator.unwrap_model(trainer.model)
            self._agent = build_agent(self.recipe, Policy(model, trainer.processing_class, trainer.accelerator.device))
        environment = self.recipe.environment
        pool = make_env_pool(environment.maker(environment.train_split), environment.workers)
        try:
            states, logprobs = self._play([int(prompt) for prompt in prompts], pool, trainer)
        finally:
            pool.close()
        self.episodes = [state.episode for state in states]
        self.seconds = time.perf_counter() - began
        columns = token_columns(self.episodes, self._agent.chat.end_of_turn)
        if logprobs is not None:
            spread = zip(logprobs, columns["step_ids"], strict=True)
            logprobs = [_at_steps(values, steps) for values, steps in spread]
        return {**columns, "logprobs": logprobs}

    def _play(self, groups: list[int], pool: Any, trainer: Any) -> tuple[list[EpisodeState], list[list[float]] | None]:
        """Play to the end; returns the episodes, and the log-probabilities of their tokens if the engine gives them."""
        agent, environment, rollout = self._agent, self.recipe.environment, self.recipe.rollout
        assert agent is not None
        tasks = [group % self._tasks for group in groups]
        split, limit = environment.train_split, rollout.max_episode_tokens
        states = [
            EpisodeState(agent, task=task, group=group, split=split, max_tokens=limit)
            for task, group in zip(tasks, groups, strict=True)
        ]
        outcomes = pool.reset(range(len(states)), tasks)
        prompts: list[Prompt | None] = [state.start(o) for state, o in zip(states, outcomes, strict=True)]
        contexts: list[list[int]] = [[] for _ in states]
        logprobs: list[list[float]] = [[] for _ in states]
        given = False
        while True:
            playing = []
            for place, prompt in enumerate(prompts):
                if prompt is not None:
                    contexts[place] += prompt.ids
                    playing.append(place)
            if not any(gather_object([bool(playing)])):
                return states, logprobs if given or trainer.use_vllm else None  # also if no episode had a turn
            # A process whose episodes are all over takes part in the call with a prompt of one token.
            reading = [contexts[place] for place in playing] or [[agent.chat.end_of_turn]]
            written, scored = trainer._generate_single_turn(reading, None, {}, 1)
            turns = [
                agent.first_turn(ids[: min(rollout.max_turn_tokens, states[place].room)])
                for place, ids in zip(playing, written, strict=False)
            ]
            actions = []
            for row, (place, ids) in enumerate(zip(playing, turns, strict=True)):
                contexts[place] += ids
                if scored is not None:
                    given = True
                    logprobs[place] += scored[row][: len(ids)]
                actions.append(states[place].act(Sampled(ids)))
            prompts = [None] * len(states)
            for place, outcome in zip(playing, pool.step(playing, actions), strict=True):
                prompts[place] = states[place].observe(outcome)


def environment_reward(episode_reward: list[float | None], **columns: Any) -> list[float | None]:
    """Return the rewards of the environment, which came with the rollout: TRL's reward function.

    The reward is None if the environment failed or the episode has no turn: TRL then leaves it out of the baseline.
    """
    return episode_reward


def token_columns(episodes: Sequence[Episode], filler: int) -> dict[str, list[Any]]:
    """Return episodes as TRL's columns: the first prompt, then all that follows, with the step of each token.

    An episode without a turn gets one token `filler` that belongs to no step, because TRL's completions are not empty.
    An episode that cannot be compared has no reward, and no token in `env_mask`.
    """
    names = ("prompt_ids", "completion_ids", "env_mask", "step_ids", "episode_reward")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for episode in episodes:
        ids: list[int] = []
        steps: list[int] = []
        for step, turn in enumerate(episode.turns):
            read = turn.prompt_ids if step else []
            ids += [*read, *turn.action_ids]
            steps += [*[-1] * len(read), *[step] * len(turn.action_ids)]
        columns["prompt_ids"].append(episode.turns[0].prompt_ids if episode.turns else [filler])
        columns["completion_ids"].append(ids or [filler])
        columns["step_ids"].append(steps or [-1])
        compared = comparable(episode)
        columns["env_mask"].append([int(compared and step >= 0) for step in columns["step_ids"][-1]])
        columns["episode_reward"].append(episode.reward if compared else None)
    return columns


def _at_steps(values: list[float], steps: list[int]) -> list[float]:
    """Put one value per written token at its place, and 0 at the tokens of the environment."""
    left = iter(values)
    return [next(left) if step >= 0 else 0.0 for step in steps]
