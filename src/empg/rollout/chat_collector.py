"""Plays episodes with a chat model: the loop of `collector.py` for a model that is asked turn by turn.

One thread steps the environments, and as many others as there are slots wait for the model. They are daemons: a process
that stops does not wait for a model that is still writing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TypeAlias

from empg.agent.messages import Conversation, Message
from empg.environments.base import Info, PromptSpec
from empg.recipe import AgentSection
from empg.rollout.collector import Request
from empg.rollout.endpoint import Completion, ContextFullError
from empg.rollout.env_pool import EnvPool
from empg.rollout.turns import EpisodeRules
from empg.rollout.types import EndReason, Episode, Turn

Ask = Callable[[Sequence[Message]], Completion]
"""Returns the model's reply to messages; called from several threads."""


@dataclass(slots=True)
class Usage:
    """What an episode cost, by the server's count. `unmetered` replies came without counts, and are not in the sums.

    `context` is the length of the episode in tokens: the last conversation of a `merged` history, the sum of all of a
    `per_turn` one.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unmetered: int = 0
    context: int = 0


class ChatEpisode(EpisodeRules[list[Message]]):
    """An episode in chat messages.

    Attributes:
        usage: what the episode cost so far.
    """

    def __init__(
        self, prompt_spec: PromptSpec, section: AgentSection, *, task: int, group: int, split: str, max_tokens: int
    ) -> None:
        super().__init__(section, task=task, group=group, split=split)
        self.usage = Usage()
        self._conversation = Conversation(prompt_spec, section)
        self._merged, self._max_tokens = section.history == "merged", max_tokens

    def act(self, reply: Completion) -> str:
        """Add the turn that the model wrote; returns its action, empty if it is malformed."""
        thought_apart = reply.reasoning and "</think>" not in reply.text
        # A thought in a field of its own may quote the format, so the command is read from the reply alone.
        parsed = self._conversation.parse(f"<think></think>{reply.text}" if thought_apart else reply.text)
        turn = Turn(
            observation=self._observation,
            prompt_ids=[],
            action_ids=[],
            logprobs=[],
            entropies=[],
            text=f"<think>{reply.reasoning}</think>{reply.text}" if thought_apart else reply.text,
            thought=" ".join(reply.reasoning.split()) if thought_apart else parsed.thought,
            action=parsed.action,
            valid=parsed.well_formed,
        )
        self.episode.turns.append(turn)
        self._conversation.wrote(reply.text, parsed.action)  # a thought in a field of its own is not sent back
        self._count(reply)
        return turn.action

    def exceeded(self) -> None:
        """End the episode because the conversation exceeds the model's context."""
        self.episode.end = EndReason.TOKEN_LIMIT

    def _next_prompt(self, observation: str, info: Info) -> list[Message] | None:
        if self._merged and self.usage.context >= self._max_tokens:
            self.exceeded()
            return None
        self._observation = observation
        return self._conversation.read(observation, info)

    def _count(self, reply: Completion) -> None:
        usage, both = self.usage, reply.prompt_tokens + reply.completion_tokens
        usage.requests += 1
        usage.unmetered += not reply.metered
        usage.prompt_tokens += reply.prompt_tokens
        usage.completion_tokens += reply.completion_tokens
        usage.context = both if self._merged else usage.context + both


@dataclass(frozen=True, slots=True)
class ChatSlot:
    """A slot of the environment pool, by its number, and the episode in it."""

    number: int
    episode: ChatEpisode


_Prompts: TypeAlias = list[tuple[ChatSlot, list[Message] | None]]


@dataclass(slots=True)
class ChatCollector:
    """Plays requests to their end with one chat model and one pool of environments.

    Args:
        ask: asks the model.
        prompt_spec: the environment as the agent sees it.
        section: the agent of the recipe.
        pool: environments by slot.
        split: the split of the tasks.
        max_tokens: limit of a `merged` conversation, by the server's count.
        slots: episodes that are played at once.
    """

    ask: Ask
    prompt_spec: PromptSpec
    section: AgentSection
    pool: EnvPool
    split: str
    max_tokens: int
    slots: int
    _asked: SimpleQueue[tuple[ChatSlot, list[Message]] | None] = field(init=False, default_factory=SimpleQueue)
    _answered: SimpleQueue[tuple[ChatSlot, Completion | Exception]] = field(init=False, default_factory=SimpleQueue)

    def collect(self, requests: Sequence[Request], keep: Callable[[Episode, Usage], None]) -> None:
        """Play every request; `keep` is called with each episode as soon as it has ended, in this thread.

        Raises:
            UserError: the model is unavailable. Episodes that have not ended are abandoned.
        """
        slots = min(self.slots, len(requests))
        for _ in range(slots):
            threading.Thread(target=self._wait_for_replies, name="chat", daemon=True).start()
        try:
            self._play(deque(requests), list(range(slots)), keep)
        finally:
            for _ in range(slots):
                self._asked.put(None)

    def _play(self, queue: deque[Request], free: list[int], keep: Callable[[Episode, Usage], None]) -> None:
        playing = 0
        while queue or playing:
            while queue and free:
                number, request = free.pop(), queue.popleft()
                state = ChatEpisode(
                    self.prompt_spec,
                    self.section,
                    task=request.task,
                    group=request.group,
                    split=self.split,
                    max_tokens=self.max_tokens,
                )
                [outcome] = self.pool.reset([number], [request.task])
                playing += 1
                if not self._continue(ChatSlot(number, state), state.start(outcome), keep):
                    free.append(number)
                    playing -= 1
            if not playing:
                continue
            prompts, failure = self._step(self._replies())
            ended = [slot for slot, prompt in prompts if not self._continue(slot, prompt, keep)]
            if failure is not None:
                raise failure
            free += [slot.number for slot in ended]
            playing -= len(ended)

    def _continue(self, slot: ChatSlot, prompt: list[Message] | None, keep: Callable[[Episode, Usage], None]) -> bool:
        """Ask the model; if the episode is over, keep it and return False."""
        if prompt is None:
            keep(slot.episode.episode, slot.episode.usage)
            return False
        self._asked.put((slot, prompt))
        return True

    def _replies(self) -> list[tuple[ChatSlot, Completion | Exception]]:
        """Wait for a reply and return it with all others that have arrived."""
        arrived = [self._answered.get()]
        try:
            while True:
                arrived.append(self._answered.get_nowait())
        except Empty:
            return arrived

    def _step(self, replies: list[tuple[ChatSlot, Completion | Exception]]) -> tuple[_Prompts, Exception | None]:
        """Step the environments.

        Returns:
            The next prompt of each slot, None at the end of its episode; and the failure of a request, if one failed.
        """
        acting: list[ChatSlot] = []
        actions: list[str] = []
        prompts: _Prompts = []
        failure: Exception | None = None
        for slot, reply in replies:
            if isinstance(reply, ContextFullError):
                slot.episode.exceeded()
                prompts.append((slot, None))
            elif isinstance(reply, Exception):
                failure = reply
            else:
                acting.append(slot)
                actions.append(slot.episode.act(reply))
        outcomes = self.pool.step([slot.number for slot in acting], actions)
        prompts += [(slot, slot.episode.observe(outcome)) for slot, outcome in zip(acting, outcomes, strict=True)]
        return prompts, failure

    def _wait_for_replies(self) -> None:
        while (asked := self._asked.get()) is not None:
            slot, messages = asked
            try:
                self._answered.put((slot, self.ask(messages)))
            except Exception as error:  # raised again in the thread that plays
                self._answered.put((slot, error))
