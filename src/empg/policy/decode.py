"""Sample turns for many episodes at once, and record log-probabilities and entropies during sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from torch import Tensor

from empg.errors import UserError
from empg.policy.contexts import Contexts, ModelContexts
from empg.policy.model import Policy
from empg.policy.scoring import log_softmax_and_entropy


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Entropies and log-probabilities are those of the policy at `temperature`, untruncated."""

    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False
    max_turn_tokens: int = 64


@dataclass(slots=True)
class Sampled:
    """The sampled ids of one turn, with the log-probability and the entropy of the distribution (nats) per id."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)


class Decoder:
    """A KV cache of `num_slots` episodes with two operations: `prefill` prompts, and `advance` turns by one token.

    The caller passes the random numbers, one in [0, 1) per token. So the tokens of an episode depend on the other
    episodes in the batch only where sums are rounded differently, by 1e-5 in a logit. The weights of the policy must
    not change while the decoder is used.

    `autocast` and `pass_tokens` are those of `ModelContexts`. `choose` waits for the device once; `prefill` and
    `advance` do not. They run under `no_grad`, because `inference_mode` would round the weights in every pass.
    """

    def __init__(
        self,
        policy: Policy,
        num_slots: int,
        length: int,
        sampling: Sampling,
        *,
        autocast: bool | str = False,
        pass_tokens: int = 1 << 14,
    ) -> None:
        self.num_slots, self.length, self.sampling = num_slots, length, sampling
        with policy.autocast(autocast):
            own = policy.own_passes and find_spec("numba") is not None
        self.contexts: Contexts
        if own:
            from empg.policy.llama.decoding import LlamaContexts

            self.contexts = LlamaContexts(policy, num_slots, length, pass_tokens=pass_tokens)
        else:
            self.contexts = ModelContexts(policy, num_slots, length, autocast=autocast, pass_tokens=pass_tokens)

    @torch.no_grad()
    def prefill(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Append `prompts` to `slots` and return the logits (n, V) after the last id of each prompt.

        Empty slots that get the same prompt in one call (a group) share one computation. An episode that starts later,
        in a slot that became free, computes the prompt again.
        """
        leaders: dict[tuple[int, ...], int] = {}
        unique: list[int] = []
        source: list[int] = []
        for row, (slot, prompt) in enumerate(zip(slots, prompts, strict=True)):
            key = tuple(prompt)
            if int(self.lengths[slot]) == 0 and key in leaders:
                source.append(leaders[key])
                continue
            if int(self.lengths[slot]) == 0:
                leaders[key] = len(unique)
            source.append(len(unique))
            unique.append(row)
        logits = self._read([slots[r] for r in unique], [prompts[r] for r in unique])
        if len(unique) == len(slots):
            return logits
        self._share(slots, prompts, unique, source)
        return logits[torch.tensor(source).to(logits.device, non_blocking=True)]

    @torch.no_grad()
    def advance(self, slots: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Append one id to each slot and return the following logits (n, V)."""
        return self._read(slots, [[token] for token in ids])

    @torch.no_grad()
    def choose(self, logits: Tensor, uniforms: Tensor) -> tuple[list[int], list[float], list[float]]:
        """Sample one id per row by inverting the cumulative distribution at `uniforms` (n,) in [0, 1)."""
        log_probs, entropies = log_softmax_and_entropy(logits, self.sampling.temperature)
        if self.sampling.greedy:
            ids = log_probs.argmax(-1)
        else:
            uniforms = uniforms.to(log_probs.device, non_blocking=True)
            ids = _invert(_truncate(log_probs.exp(), self.sampling.top_p), uniforms)
        chosen = log_probs.gather(-1, ids[:, None])[:, 0]
        # In one tensor, so that the device is waited for once. Ids are exact in float64.
        written, logprobs, scores = torch.stack([ids.double(), chosen.double(), entropies.double()]).tolist()
        return list(map(int, written)), logprobs, scores

    @property
    def lengths(self) -> Tensor:
        """(num_slots,) int64, the number of tokens in each slot."""
        return self.contexts.lengths

    def clear(self, slot: int) -> None:
        """Clear the context of a slot."""
        self.lengths[slot] = 0

    def _read(self, slots: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        longest = max(int(self.lengths[slot]) + len(chunk) for slot, chunk in zip(slots, chunks, strict=True))
        if longest > self.length:
            raise UserError(f"the KV cache is full: expected at most {self.length} tokens per slot, got {longest}")
        return self.contexts.read(slots, chunks)

    def _share(
        self, slots: Sequence[int], prompts: Sequence[Sequence[int]], unique: list[int], source: list[int]
    ) -> None:
        followers: dict[int, list[int]] = {}
        for row, leader in enumerate(source):
            if unique[leader] != row:
                followers.setdefault(unique[leader], []).append(row)
        for leader_row, rows in followers.items():
            targets = torch.tensor([slots[r] for r in rows])
            self.contexts.share(slots[leader_row], targets, len(prompts[leader_row]))


def _truncate(probs: Tensor, top_p: float) -> Tensor:
    """Set all probabilities to 0 except those of the smallest set of tokens that reaches `top_p`."""
    if top_p >= 1.0:
        return probs
    ordered, order = probs.sort(dim=-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return probs.masked_fill(outside.scatter(-1, order, outside), 0.0)


def _invert(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Sample by the inverse CDF; rows need not sum to 1. A token with probability 0 is never chosen."""
    cumulative = probs.double().cumsum(-1)
    level = uniforms.double()[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, level, right=True)[:, 0]
    return chosen.clamp_(max=probs.shape[-1] - 1)
