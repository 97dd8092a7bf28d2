"""The empg side: iterations by the calls of `empg.run.train`, and decoding alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.rl_iteration.process import Stopwatch
from benchmarks.rl_iteration.setting import SPLIT, Setting, requests
from empg.environments.base import Info, TextEnvironment
from empg.learner.assign import assign_credit
from empg.learner.update import Update, make_optimizer
from empg.policy.decode import Decoder, Sampling
from empg.policy.model import Policy
from empg.recipe import Recipe
from empg.rollout.collector import Collector, Request
from empg.rollout.env_pool import LocalEnvPool
from empg.rollout.types import Episode
from empg.run.build import build_agent, play
from empg.system.memory import release_memory
from empg.system.workers import Workers


def iterations(
    next_step: Callable[[], bool], send: Callable[[dict[str, Any]], None], setting: Setting, plays: bool
) -> None:
    """Train on episodes that are played, or on the fixed ones; the gradients of the first step are kept in a file."""
    torch.set_num_threads(setting.threads)
    recipe, workers, watch = setting.recipe, Workers(), Stopwatch()
    policy = setting.policy()
    optimizer = make_optimizer(policy, recipe.optimizer)
    hook = optimizer.register_step_pre_hook(lambda *_: save_gradients(policy.model, gradients(setting, "empg")))
    update = Update(policy, optimizer, recipe, workers, None)
    fixed = None if plays else setting.episodes()
    iteration = 0
    while next_step():
        watch.start()
        policy.model.eval()
        episodes = fixed or play(recipe, policy, SPLIT, requests(recipe, iteration))
        watch.stop("rollout")
        assigned = assign_credit(episodes, recipe, workers)
        watch.stop("score")
        stats = update(assigned, iteration)
        release_memory()
        watch.stop("update")
        hook.remove()  # only the first step keeps its gradients; it warms up and is not measured
        counts = {"written": sum(e.num_action_tokens for e in episodes), "trained": stats.tokens}
        digest = [[turn.action_ids for turn in episode.turns] for episode in episodes] if plays else None
        advantages = [float(value) for value in assigned.advantages] if iteration == 0 and not plays else None
        send({**watch.result(), **counts, "loss": stats.loss["loss"], "written_ids": digest, "advantages": advantages})
        iteration += 1


def gradients(setting: Setting, side: str) -> Path:
    """The file with the gradients of a side's first step."""
    return setting.folder / f"gradients-{side}.safetensors"


def save_gradients(model: Any, file: Path) -> None:
    """Write the gradients of a model by name."""
    save_file({name: p.grad.contiguous() for name, p in model.named_parameters() if p.grad is not None}, file)


class OneTurn(TextEnvironment):
    """Task i shows text i and ends after one turn, so that a rollout is one prefill and one turn of a chosen length."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.split = texts, SPLIT

    @property
    def num_tasks(self) -> int:
        """The number of texts."""
        return len(self.texts)

    def task_id(self, index: int) -> str:
        """Name a task."""
        return str(index)

    def reset(  # type: ignore[override]  # as in TextEnvironment
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Show the text."""
        return self.texts[(options or {})["task"]], self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:  # type: ignore[override]
        """End the episode."""
        return "", 0.0, True, False, self._info()

    def clone(self) -> OneTurn:
        """Return this environment, which has no state."""
        return self

    def expert(self) -> Any:
        """There is none."""
        raise NotImplementedError

    def _info(self) -> Info:
        return Info(task="", task_id="", task_type="", won=False, score=0.0, admissible=None, valid=True)


class Decoding:
    """Decoding with every slot busy: `slots` prompts of `shortest` to `longest` tokens, each continued by `tokens`."""

    def __init__(self, policy: Policy, recipe: Recipe, slots: int, shortest: int, longest: int, tokens: int) -> None:
        self.policy, self.slots, self.length, self.tokens = policy, slots, longest + tokens + 64, tokens
        self.temperature = recipe.rollout.temperature
        self.agent = build_agent(recipe, policy)
        self.agent.chat.stop_ids = []  # a turn ends at its limit, so that every run decodes the same number of tokens
        self.pool = LocalEnvPool(lambda: OneTurn(texts))
        rng = torch.Generator().manual_seed(0)
        words = ["put", "look", "take", "mug", "apple", "desk", "drawer", "shelf", "cabinet", "in", "the", "from", "to"]
        texts = []
        for slot in range(slots):
            target = shortest + (longest - shortest) * slot // max(1, slots - 1)
            text = ""
            while self.agent.chat.length(text) < target:
                text += " " + words[int(torch.randint(len(words), (1,), generator=rng))]
            texts.append(text)
        self.prompts = [e.turns[0].prompt_ids for e in self._play(1)[1]]

    def seconds(self) -> float:
        """Processor seconds from the last prompt read to the end of the turns: `tokens` decoding steps of all slots."""
        decoder, episodes = self._play(self.tokens + 1)
        seconds = time.process_time() - decoder.read_at
        assert sum(e.num_action_tokens for e in episodes) == self.slots * (self.tokens + 1)
        return seconds

    def _play(self, tokens: int) -> tuple[_Decoder, list[Episode]]:
        decoder = _Decoder(self.policy, self.slots, self.length, Sampling(self.temperature, max_turn_tokens=tokens))
        collector = Collector(decoder, self.agent, self.pool, SPLIT, self.length)
        return decoder, collector.collect([Request(slot, slot, (0, slot)) for slot in range(self.slots)])


class _Decoder(Decoder):
    """Remembers when the last prompts were read, in processor seconds."""

    read_at = 0.0

    def prefill(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        logits = super().prefill(slots, prompts)
        self.read_at = time.process_time()
        return logits
