"""Batched rollout: read prompts, sample turns, step environments, refill slots.

One loop makes two kinds of forward pass over the slots of one KV cache: a *prefill* of the prompts that wait, and an
*advance* of every turn that is being written by one token. A slot whose turn is complete steps its environment at once
and waits with its next prompt; a slot whose episode is over takes the next request. The rules of an episode are in
`turns.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from empg.agent.dialogue import Agent, Prompt
from empg.policy.decode import Decoder, Sampled
from empg.rollout.env_pool import EnvPool
from empg.rollout.turns import EpisodeState
from empg.rollout.types import Episode


@dataclass(frozen=True, slots=True)
class Request:
    """An episode to play: task `task` of the split, compared with the other episodes of `group`.

    `key` seeds its sampling: the same key and policy give the same episode wherever it is played, up to rounding.
    """

    task: int
    group: int
    key: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Slot:
    """One place of the KV cache and the episode in it."""

    index: int  # in the cache and in the environment pool
    place: int  # of the request among all
    state: EpisodeState
    rng: np.random.Generator  # gives one number per sampled token
    prompt: Prompt | None = None  # not yet read by the model
    sampled: Sampled = field(default_factory=Sampled)  # the turn being written


class Collector:
    """Plays requests to their end with one decoder, one agent form and one pool of environments."""

    def __init__(self, decoder: Decoder, agent: Agent, pool: EnvPool, split: str, max_episode_tokens: int) -> None:
        self.decoder, self.agent, self.pool, self.split = decoder, agent, pool, split
        self.max_episode_tokens = max_episode_tokens
        self._slots: dict[int, Slot] = {}

    def collect(
        self,
        requests: Sequence[Request],
        done: Callable[[int], None] | None = None,
        keep: Callable[[Episode], None] | None = None,
    ) -> list[Episode]:
        """Play every request; the episodes come back in the order of the requests.

        `done` is called with the number of episodes that have ended so far, `keep` with each episode when it ends.
        """
        queue = deque(enumerate(requests))
        finished: dict[int, Episode] = {}
        free = list(range(self.decoder.num_slots))[::-1]
        while queue or self._slots:
            started = []
            while queue and free:
                place, request = queue.popleft()
                started.append(self._slot(free.pop(), place, request))
            ended = self._start(started)
            ended += self._read_prompts() if self._should_read() else self._write_one_token()
            for slot in ended:
                finished[slot.place] = slot.state.episode
                if keep is not None:
                    keep(slot.state.episode)
                self._slots.pop(slot.index, None)
                self.decoder.clear(slot.index)
                free.append(slot.index)
            if ended and done is not None:
                done(len(finished))
        return [finished[place] for place in range(len(requests))]

    def _slot(self, index: int, place: int, request: Request) -> Slot:
        state = EpisodeState(
            self.agent, task=request.task, group=request.group, split=self.split, max_tokens=self.max_episode_tokens
        )
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(request.key)))
        return Slot(index=index, place=place, state=state, rng=rng)

    def _start(self, started: list[Slot]) -> list[Slot]:
        """Reset the environments of new slots; returns those whose episode is over at once."""
        if not started:
            return []
        tasks = [slot.state.episode.task_index for slot in started]
        outcomes = self.pool.reset([slot.index for slot in started], tasks)
        for slot, outcome in zip(started, outcomes, strict=True):
            slot.prompt = slot.state.start(outcome)
            if slot.prompt is not None:
                self._slots[slot.index] = slot
        return [slot for slot in started if slot.prompt is None]

    def _should_read(self) -> bool:
        # An advance costs about the same however many slots wait, and a prefill has a price of its own.
        waiting = sum(slot.prompt is not None for slot in self._slots.values())
        return 4 * waiting >= len(self._slots)

    def _read_prompts(self) -> list[Slot]:
        slots, prompts = [], []
        for slot in self._slots.values():
            if slot.prompt is None:
                continue
            unread = slot.sampled.ids[-1:]  # the last id of a turn was sampled but not yet read by the model
            if slot.prompt.fresh:
                self.decoder.clear(slot.index)
                unread = []
            slots.append(slot)
            prompts.append([*unread, *slot.prompt.ids])
            slot.prompt, slot.sampled = None, Sampled()
        return self._sample(slots, self.decoder.prefill([slot.index for slot in slots], prompts)) if slots else []

    def _write_one_token(self) -> list[Slot]:
        slots = [slot for slot in self._slots.values() if slot.prompt is None]
        logits = self.decoder.advance([slot.index for slot in slots], [slot.sampled.ids[-1] for slot in slots])
        return self._sample(slots, logits)

    def _sample(self, slots: list[Slot], logits: torch.Tensor) -> list[Slot]:
        """Sample one id in every slot, and step the environments of those whose turn is complete."""
        uniforms = torch.tensor([slot.rng.random() for slot in slots], dtype=torch.float64)
        chosen = self.decoder.choose(logits, uniforms)
        complete = []
        for slot, token, logprob, entropy in zip(slots, *chosen, strict=True):
            slot.sampled.ids.append(token)
            slot.sampled.logprobs.append(logprob)
            slot.sampled.entropies.append(entropy)
            limit = min(self.decoder.sampling.max_turn_tokens, slot.state.room)
            if len(slot.sampled.ids) >= limit or self.agent.ends_turn(slot.sampled.ids):
                complete.append(slot)
        return self._step(complete) if complete else []

    def _step(self, complete: list[Slot]) -> list[Slot]:
        """Step the environments of slots whose turn is complete; returns the slots whose episode is over."""
        actions = [slot.state.act(slot.sampled) for slot in complete]
        outcomes = self.pool.step([slot.index for slot in complete], actions)
        for slot, outcome in zip(complete, outcomes, strict=True):
            slot.prompt = slot.state.observe(outcome)
        return [slot for slot in complete if slot.prompt is None]
