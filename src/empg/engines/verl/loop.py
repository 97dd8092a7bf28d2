"""Our environments as verl's agent loop: prompts, parsing and limits of a recipe, tokens from verl's servers.

The configuration names the recipe (`+empg.recipe=agent.yaml`), and a row of the data its task (`tasks.py`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.engines.verl.pools import episode_pool
from empg.engines.verl.tasks import AGENT
from empg.errors import UserError
from empg.policy.decode import Sampled
from empg.recipe import Recipe, load_recipe
from empg.rollout.env_pool import EnvPool
from empg.rollout.turns import EpisodeState
from empg.rollout.types import EndReason, Episode

RECIPE = "empg.recipe"

_log = logging.getLogger(__name__)


class EnvironmentLoop(AgentLoopBase):  # type: ignore[misc]  # verl has no types
    """Plays one episode of a recipe's environment; its sections `environment`, `agent` and `rollout` are used.

    Besides what verl requires, an output has `extra_fields["step_ids"]`, the step of each token of the response. With
    `agent.history: merged` an episode is one output, with `per_turn` every turn is one.

    Raises:
        UserError: see `check_job`, which a trainer of this package calls before anything is played.
    """

    def __init__(self, *arguments: Any, **named_arguments: Any) -> None:
        super().__init__(*arguments, **named_arguments)
        self.recipe = _recipe(self.config)
        self.agent = _agent(self.recipe, self.tokenizer, self.config.actor_rollout_ref.model.path)

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> list[AgentLoopOutput]:
        """Play one episode; none is returned if the environment failed or there was no room for a turn.

        Raises:
            UserError: no other episode of the group has been returned or is still played. verl then counts the group
                as failed. It would count it as finished otherwise, and look for a reward of it.
        """
        with _group_of(row["uid"]) as group:
            made = await self._made(row["extra_info"], sampling_params)
            group.returned |= bool(made)
        if not made and not group.playing and not group.returned:
            raise UserError(f"group {row['uid']}: every episode ended without a turn to train on")
        return made

    async def _made(self, info: dict[str, Any], sampling: dict[str, Any]) -> list[AgentLoopOutput]:
        environment = self.recipe.environment
        state = EpisodeState(
            self.agent,
            task=int(info["task"]),
            group=int(info["index"]),
            split=info["split"],
            max_tokens=self.recipe.rollout.max_episode_tokens,
        )
        pool = episode_pool(environment.maker(info["split"]), environment.workers)
        played = _Played()
        try:
            await self._play(state, pool, sampling, played)
        finally:
            pool.close()
        episode = state.episode
        if problem := _left_out(episode):
            _log.warning("task %d of %s: not trained on: %s", episode.task_index, episode.split, problem)
            return []
        return outputs(episode, played, merged=self.recipe.agent.history == "merged")

    async def _play(self, state: EpisodeState, pool: EnvPool, sampling: dict[str, Any], played: _Played) -> None:
        limit = self.recipe.rollout.max_turn_tokens
        session = uuid.uuid4().hex  # keeps an episode on one server, which caches its prefix
        outcome = (await asyncio.to_thread(pool.reset, [0], [state.episode.task_index]))[0]
        prompt = state.start(outcome)
        context: list[int] = []
        while prompt is not None:
            context = ([] if prompt.fresh else context) + prompt.ids
            most = min(limit, state.room)
            began = time.perf_counter()
            written = await self.server_manager.generate(
                request_id=session,
                prompt_ids=context,
                sampling_params={**sampling, "max_tokens": most, "stop_token_ids": self.agent.chat.stop_ids},
            )
            played.generating += time.perf_counter() - began
            ids = self.agent.first_turn(written.token_ids[:most])
            played.add(written, len(ids))
            context = context + ids
            action = state.act(Sampled(ids, [], []))
            began = time.perf_counter()
            outcome = (await asyncio.to_thread(pool.step, [0], [action]))[0]
            played.acting += time.perf_counter() - began
            prompt = state.observe(outcome)


@dataclass
class _Group:
    """The episodes of a group: how many are being played, and whether verl has got one."""

    playing: int = 0
    returned: bool = False


_groups: dict[str, _Group] = {}  # by verl's name of each group, whose episodes are all played in one process


@contextmanager
def _group_of(uid: str) -> Iterator[_Group]:
    group = _groups.setdefault(uid, _Group())
    group.playing += 1
    try:
        yield group
    finally:
        group.playing -= 1
        if not group.playing:
            del _groups[uid]


def _left_out(episode: Episode) -> str:
    """Return why an episode has nothing to train on, empty if it has."""
    if episode.end is EndReason.ENV_ERROR:
        return f"the environment failed: {episode.error!r:.400}"
    if not episode.turns:
        return "the first prompt does not fit into rollout.max_episode_tokens"
    return "" if any(turn.action_ids for turn in episode.turns) else "the model wrote nothing"


class _Played:
    """What the servers told about the turns of an episode."""

    def __init__(self) -> None:
        self.logprobs: list[list[float] | None] = []
        self.versions: list[tuple[Any, Any]] = []
        self.generating = self.acting = 0.0

    def add(self, written: Any, length: int) -> None:
        """Add a turn of `length` tokens."""
        self.logprobs.append(written.log_probs[:length] if written.log_probs else None)
        fields = written.extra_fields
        self.versions.append((fields.get("min_global_steps"), fields.get("max_global_steps")))

    @property
    def steps(self) -> dict[str, Any]:
        """First and last version of the weights that wrote the episode; verl's metrics need both."""
        first, last = ([v for v in column if v is not None] for column in zip(*self.versions, strict=True))
        return {"min_global_steps": min(first, default=None), "max_global_steps": max(last, default=None)}


def outputs(episode: Episode, played: _Played, *, merged: bool) -> list[AgentLoopOutput]:
    """Return an episode as verl's outputs: one per context, with the step of each token of the response."""
    turns = list(enumerate(episode.turns))
    metrics = AgentLoopMetrics(generate_sequences=played.generating, tool_calls=played.acting)
    made = []
    for context in [turns] if merged else [[pair] for pair in turns if pair[1].action_ids]:
        response: list[int] = []
        steps: list[int] = []
        logprobs: list[float] = []
        known = all(played.logprobs[number] is not None for number, _ in context)
        for place, (number, turn) in enumerate(context):
            read = turn.prompt_ids if place else []
            response += [*read, *turn.action_ids]
            steps += [*[-1] * len(read), *[place] * len(turn.action_ids)]
            logprobs += [*[0.0] * len(read), *(played.logprobs[number] or [])]
        made.append(
            AgentLoopOutput(
                prompt_ids=context[0][1].prompt_ids,
                response_ids=response,
                response_mask=[int(step >= 0) for step in steps],
                response_logprobs=logprobs if known else None,
                reward_score=episode.reward,
                num_turns=2 * len(episode.turns),
                metrics=metrics,
                extra_fields={
                    "step_ids": steps,
                    "turn_scores": [],
                    "tool_rewards": [],
                    "reward_extra_info": {"score": episode.score, "success": float(episode.success)},
                    **played.steps,
                },
            )
        )
    return made


def check_job(config: Any, tokenizer: Any, datasets: Iterable[Any]) -> None:
    """Check what every episode needs, before anything is played: verl only logs the error of an episode.

    Args:
        config: verl's configuration.
        tokenizer: of the policy.
        datasets: verl's, whose rows may have other agent loops.

    Raises:
        UserError: rows are for this agent loop, and the configuration names no recipe, or one of another environment
            or with a longer context, or one whose agent does not fit the chat template.
    """
    environments: set[Any] = set()
    for dataset in datasets:
        rows = getattr(dataset, "dataframe", None)  # a dataset of the user's own may not have it
        if rows is not None and "agent_name" in rows.column_names and AGENT in rows.unique("agent_name"):
            named = zip(rows["agent_name"], rows["extra_info"], strict=True)
            environments |= {info.get("environment") for name, info in named if name == AGENT}
    if not environments:
        return
    recipe = _recipe(config)
    if others := environments - {recipe.environment.spec.id}:
        raise UserError(
            f"{RECIPE}: expected a recipe of {', '.join(sorted(map(str, others))):.200}, for which the data files were "
            f"written, got one of {recipe.environment.id:.200}"
        )
    _agent(recipe, tokenizer, config.actor_rollout_ref.model.path)


def _recipe(config: Any) -> Recipe:
    """Return the recipe of a job, whose context fits into verl's."""
    path = (config.get("empg") or {}).get("recipe")
    if path is None:
        raise UserError(f"{RECIPE}: expected the path of a recipe: add +{RECIPE}=agent.yaml to the command")
    recipe = _load(str(path))
    room = config.actor_rollout_ref.rollout.prompt_length + config.actor_rollout_ref.rollout.response_length
    if recipe.rollout.max_episode_tokens > room:
        raise UserError(
            f"rollout.max_episode_tokens: {recipe.rollout.max_episode_tokens} tokens do not fit into "
            f"data.max_prompt_length + data.max_response_length = {room}"
        )
    return recipe


@functools.lru_cache(maxsize=8)
def _load(path: str) -> Recipe:
    return load_recipe(path)


_agents: dict[int, tuple[Any, Agent]] = {}  # of each tokenizer of this process, because building one reads the template


def _agent(recipe: Recipe, tokenizer: Any, model: str) -> Agent:
    """Return the agent of a recipe; see `empg.run.build.build_agent`, which has the model in this process."""
    kept = _agents.get(id(tokenizer))
    if kept is None or kept[1].section != recipe.agent:
        section = recipe.agent
        chat = ChatFormat(tokenizer, ends=_ends(model), arguments=section.template_arguments, date=section.date)
        agent = Agent(recipe.environment.spec.prompt, section, chat)
        agent.check()
        kept = _agents[id(tokenizer)] = (tokenizer, agent)
    return kept[1]


def _ends(model: str) -> list[int]:
    """Return the ids that end a text according to the model's generation configuration, which it may lack."""
    try:
        ids = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:
        return []
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
