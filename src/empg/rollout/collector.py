"""Many episodes at once: prompts are read, turns are sampled, pool are stepped, slots are refilled.

One loop makes two kinds of forward pass over the slots of one KV cache: a *prefill* of the prompts that wait, and an
*advance* of every turn that is being written by one token. A slot whose turn is complete steps its world at once and
waits with its next prompt; a slot whose episode is over takes the next request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from empg.agent.dialogue import Agent, Dialogue, Prompt
from empg.environments.base import Info
from empg.policy.decode import Decoder, Sampled
from empg.rollout.env_pool import EnvPool, Outcome
from empg.rollout.types import EndReason, Episode, Turn

# Of a turn's info: what the episode has once for all its turns, and the list that would be most of its memory.
_TOLD_ELSEWHERE = ("task", "task_id", "task_type", "admissible")


@dataclass(frozen=True, slots=True)
class Request:
    """An episode to play: task `task` of the split, compared with the other episodes of `group`.

    `key` seeds its sampling: the same key and policy give the same episode wherever it is played.
    """

    task: int
    group: int
    key: tuple[int, ...]


@dataclass(slots=True)
class _Lane:
    """One slot at work."""

    request: Request
    episode: Episode
    dialogue: Dialogue
    info: Info
    observation: str
    rng: np.random.Generator  # gives one number per sampled token
    context: int = 0  # tokens in the slot
    prompt: Prompt | None = None  # waits to be read
    read: list[int] = field(default_factory=list)  # the prompt of the turn being written
    sampled: Sampled = field(default_factory=Sampled)
    invalid_in_a_row: int = 0


class Collector:
    """Plays requests to their end with one decoder, one agent form and one set of pool."""

    def __init__(self, decoder: Decoder, agent: Agent, pool: EnvPool, split: str, max_episode_tokens: int) -> None:
        self.decoder, self.agent, self.pool, self.split = decoder, agent, pool, split
        self.max_episode_tokens = max_episode_tokens
        self._lanes: dict[int, _Lane] = {}
        self._stop = set(agent.chat.stop_ids)

    def collect(self, requests: Sequence[Request], done: Callable[[int], None] | None = None) -> list[Episode]:
        """Play every request; the episodes come back in the order of the requests.

        `done` is called with the number of episodes that have ended so far.
        """
        queue = deque(enumerate(requests))
        finished: dict[int, Episode] = {}
        order: dict[int, int] = {}
        free = list(range(self.decoder.cache.num_slots))[::-1]
        while queue or self._lanes:
            started = []
            while queue and free:
                slot = free.pop()
                order[slot], request = queue.popleft()
                started.append((slot, request))
            ended = self._start(started)
            ended += self._read_waiting() if self._should_read() else self._write_one_token()
            for slot, episode in ended:
                finished[order.pop(slot)] = episode
                self._lanes.pop(slot, None)
                self.decoder.clear(slot)
                free.append(slot)
            if ended and done is not None:
                done(len(finished))
        return [finished[index] for index in range(len(requests))]

    def _start(self, started: list[tuple[int, Request]]) -> list[tuple[int, Episode]]:
        if not started:
            return []
        outcomes = self.pool.reset([slot for slot, _ in started], [request.task for _, request in started])
        ended = []
        for (slot, request), outcome in zip(started, outcomes, strict=True):
            episode = Episode("", request.task, "", self.split, request.group)
            if outcome.error is not None or outcome.info is None:
                episode.end = EndReason.ENV_ERROR
                episode.error = outcome.error or "no info"
                ended.append((slot, episode))
                continue
            info = outcome.info
            episode.task_id, episode.task_type, episode.task = info["task_id"], info["task_type"], info["task"]
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(request.key)))
            lane = _Lane(request, episode, self.agent.dialogue(), info, outcome.observation, rng)
            if self._next_prompt(lane):
                self._lanes[slot] = lane
            else:
                ended.append((slot, episode))
        return ended

    def _should_read(self) -> bool:
        # An advance costs about the same however many lanes wait, and a prefill has a price of its own.
        waiting = sum(lane.prompt is not None for lane in self._lanes.values())
        return 4 * waiting >= len(self._lanes)

    def _read_waiting(self) -> list[tuple[int, Episode]]:
        slots = [slot for slot, lane in self._lanes.items() if lane.prompt is not None]
        if not slots:
            return []
        prompts = []
        for slot in slots:
            lane = self._lanes[slot]
            assert lane.prompt is not None
            unread = lane.sampled.ids[-1:]  # the last id of a turn was sampled but not yet read by the model
            if lane.prompt.fresh:
                self.decoder.clear(slot)
                lane.context, unread = 0, []
            lane.read, lane.prompt, lane.sampled = lane.prompt.ids, None, Sampled()
            lane.context += len(lane.read)
            prompts.append([*unread, *lane.read])
        return self._take(slots, self.decoder.prefill(slots, prompts))

    def _write_one_token(self) -> list[tuple[int, Episode]]:
        slots = [slot for slot, lane in self._lanes.items() if lane.prompt is None]
        logits = self.decoder.advance(slots, [self._lanes[slot].sampled.ids[-1] for slot in slots])
        return self._take(slots, logits)

    def _take(self, slots: list[int], logits: torch.Tensor) -> list[tuple[int, Episode]]:
        """Sample one id in every slot, and step the pool of those whose turn is complete."""
        lanes = [self._lanes[slot] for slot in slots]
        uniforms = torch.tensor([lane.rng.random() for lane in lanes], dtype=torch.float64)
        chosen = self.decoder.choose(logits, uniforms)
        complete = []
        for slot, lane, token, logprob, entropy in zip(slots, lanes, *chosen, strict=True):
            lane.context += 1
            lane.sampled.ids.append(token)
            lane.sampled.logprobs.append(logprob)
            lane.sampled.entropies.append(entropy)
            length = len(lane.sampled.ids)
            full = length >= self.decoder.sampling.max_turn_tokens or lane.context >= self.max_episode_tokens
            if token in self._stop or full:
                complete.append((slot, lane))
        return self._act(complete) if complete else []

    def _act(self, complete: list[tuple[int, _Lane]]) -> list[tuple[int, Episode]]:
        turns = []
        for _, lane in complete:
            parsed = self.agent.parse(lane.sampled.ids)
            sampled = lane.sampled
            turn = Turn(
                lane.observation,
                lane.read,
                sampled.ids,
                sampled.logprobs,
                sampled.entropies,
                parsed.thought,
                parsed.action,
                parsed.valid,
            )
            lane.episode.turns.append(turn)
            lane.dialogue.wrote(sampled.ids, parsed.action)
            turns.append(turn)
        outcomes = self.pool.step([slot for slot, _ in complete], [turn.action for turn in turns])
        return [
            (slot, lane.episode)
            for (slot, lane), turn, outcome in zip(complete, turns, outcomes, strict=True)
            if self._settle(lane, turn, outcome)
        ]

    def _settle(self, lane: _Lane, turn: Turn, outcome: Outcome) -> bool:
        """Write down what the world answered; True when the episode is over."""
        episode = lane.episode
        if outcome.error is not None or outcome.info is None:
            episode.end, episode.error = EndReason.ENV_ERROR, outcome.error or "no info"
            return True
        info = outcome.info
        turn.valid = turn.valid and info["valid"]
        turn.reward, turn.process_reward = outcome.reward, info.get("process_reward", 0.0)
        turn.failure = info.get("failure", "")
        turn.info = {key: value for key, value in info.items() if key not in _TOLD_ELSEWHERE}
        episode.reward += outcome.reward
        episode.score, episode.success = info["score"], info["won"]
        lane.info, lane.observation = info, outcome.observation
        lane.invalid_in_a_row = 0 if turn.action else lane.invalid_in_a_row + 1
        if outcome.terminated:
            episode.end = EndReason.WON if episode.success else EndReason.LOST
        elif outcome.truncated:
            episode.end = EndReason.STEP_LIMIT
        elif lane.invalid_in_a_row >= self.agent.section.max_invalid_turns:
            episode.end = EndReason.INVALID
        else:
            return not self._next_prompt(lane)
        return True

    def _next_prompt(self, lane: _Lane) -> bool:
        """Make the next prompt wait; False (and the episode ends) when it and one more token do not fit."""
        prompt = lane.dialogue.read(lane.observation, lane.info)
        if (0 if prompt.fresh else lane.context) + len(prompt.ids) >= self.max_episode_tokens:
            lane.episode.end = EndReason.TOKEN_LIMIT
            return False
        lane.prompt = prompt
        return True
