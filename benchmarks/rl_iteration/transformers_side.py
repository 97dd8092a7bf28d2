"""Plain transformers: rows that are sampled in lockstep over its caches, and a bare forward and backward pass."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Cache, DynamicCache, StaticCache

from benchmarks.rl_iteration.process import Stopwatch
from benchmarks.rl_iteration.setting import Setting
from empg.rollout.types import Episode


def load(folder: Path) -> Any:
    """Load the policy with the defaults of transformers, in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")


class Lockstep:
    """The rows of a batch over one cache that is kept between turns.

    All rows advance together: each call of `read` adds as many columns to the cache as its longest chunk has tokens.
    Shorter chunks are padded on the left, and a mask hides their padding for good.
    """

    def __init__(self, model: Any, rows: int, static_length: int | None = None) -> None:
        self.model = model
        self.cache: Cache = DynamicCache(config=model.config)
        if static_length is not None:
            self.cache = StaticCache(config=model.config, max_cache_len=static_length)
        self.mask = torch.zeros(rows, 0, dtype=torch.long)
        self.lengths = torch.zeros(rows, dtype=torch.long)
        parameters = inspect.signature(model.get_decoder().forward).parameters
        self._name = "cache" if "cache" in parameters else "past_key_values"

    @torch.no_grad()
    def read(self, chunks: Sequence[Sequence[int]]) -> Tensor:
        """Append a chunk of ids, possibly empty, to each row; returns the logits (rows, V) after the last one."""
        width = max(map(len, chunks))
        ids = torch.tensor([[*[0] * (width - len(chunk)), *chunk] for chunk in chunks])
        real = torch.arange(width) >= width - torch.tensor([len(chunk) for chunk in chunks])[:, None]
        positions = (self.lengths[:, None] + real.cumsum(1) - 1).clamp_(min=0)
        self.mask = torch.cat([self.mask, real.long()], 1)
        self.lengths += real.sum(1)
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{self._name: self.cache},
        )
        return output.logits[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        """Remove the other rows."""
        index = torch.tensor(rows)
        self.cache.batch_select_indices(index)
        self.mask, self.lengths = self.mask[index], self.lengths[index]

    def repeat(self, times: int) -> None:
        """Repeat each row."""
        self.cache.batch_repeat_interleave(times)
        self.mask, self.lengths = (x.repeat_interleave(times, 0) for x in (self.mask, self.lengths))


def sample(logits: Tensor, temperature: float, rngs: Sequence[np.random.Generator]) -> list[int]:
    """Sample one id per row by inverting the cumulative distribution at the next number of each generator."""
    cumulative = torch.softmax(logits / temperature, -1).double().cumsum(-1)
    uniforms = torch.tensor([rng.random() for rng in rngs], dtype=torch.float64)
    chosen = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return chosen.clamp_(max=logits.shape[-1] - 1).tolist()


def decoding_seconds(
    model: Any, prompts: Sequence[Sequence[int]], tokens: int, temperature: float, *, static: bool
) -> float:
    """Processor seconds of `tokens` decoding steps after the prompts are in the cache."""
    rngs = [np.random.Generator(np.random.Philox(row)) for row in range(len(prompts))]
    rows = Lockstep(model, len(prompts), max(map(len, prompts)) + tokens if static else None)
    ids = sample(rows.read(prompts), temperature, rngs)
    began = time.process_time()
    for _ in range(tokens):
        ids = sample(rows.read([[index] for index in ids]), temperature, rngs)
    return time.process_time() - began


def token_row(episode: Episode) -> tuple[list[int], list[int]]:
    """The ids of an episode, and the step of each: -1 for what the policy read."""
    ids: list[int] = []
    steps: list[int] = []
    for step, turn in enumerate(episode.turns):
        ids += [*turn.prompt_ids, *turn.action_ids]
        steps += [-1] * len(turn.prompt_ids) + [step] * len(turn.action_ids)
    return ids, steps


def padded_passes(episodes: Sequence[Episode], budget: int) -> list[tuple[Tensor, Tensor]]:
    """Cut episodes, sorted by length, into passes of at most `budget` ids; (B, T) ids and the mask of written tokens.

    The rows are padded on the right, so that causal attention needs no mask.
    """
    rows = sorted((token_row(episode) for episode in episodes), key=lambda row: -len(row[0]))
    passes = []
    while rows:
        width = len(rows[0][0])
        chosen, rows = rows[: max(1, budget // width)], rows[max(1, budget // width) :]
        ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in chosen])
        steps = torch.tensor([[*steps, *[-1] * (width - len(steps))] for _, steps in chosen])
        passes.append((ids, steps >= 0))
    return passes


def forward_backward(model: Any, passes: Sequence[tuple[Tensor, Tensor]]) -> None:
    """One forward and backward pass over each: the mean log-probability of the written tokens, nothing else."""
    for ids, written in passes:
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][written[:, 1:]]
        logits = model.get_output_embeddings()(hidden)
        torch.nn.functional.cross_entropy(logits, ids[:, 1:][written[:, 1:]]).backward()
    model.zero_grad(set_to_none=True)


def updates(next_step: Callable[[], bool], send: Callable[[dict[str, Any]], None], setting: Setting) -> None:
    """Time `forward_backward` over the fixed episodes."""
    torch.set_num_threads(setting.threads)
    model, watch = load(setting.policy_folder).train(), Stopwatch()
    passes = padded_passes(setting.episodes(), setting.recipe.optimizer.micro_batch_tokens)
    while next_step():
        watch.start()
        forward_backward(model, passes)
        watch.stop("update")
        send(watch.result())
