"""Sample turns for many episodes at once, and record log-probabilities and entropies during sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from empg.errors import UserError
from empg.policy.cache import SlotCache
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

    The caller passes the random numbers, one in [0, 1) per token. So the tokens of an episode do not depend on the
    other episodes in the batch.
    """

    def __init__(self, policy: Policy, num_slots: int, length: int, sampling: Sampling) -> None:
        self.policy, self.sampling = policy, sampling
        config = policy.model.config.get_text_config()
        self.cache = SlotCache(config.num_hidden_layers, num_slots, length, policy.device)
        self.lengths = torch.zeros(num_slots, dtype=torch.long)

    @torch.inference_mode()
    def prefill(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Append `prompts` to `slots` and return the logits (n, V) after the last id of each prompt.

        Empty slots that get the same prompt in one call (a group) share one computation. An episode that starts later,
        in a slot that became free, computes the prompt again. Keys computed in a call of another shape may differ in
        the last bit, and the tokens of an episode must not depend on when other episodes ended.
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
        logits = self._forward([slots[r] for r in unique], [prompts[r] for r in unique])
        if len(unique) < len(slots):
            self._share(slots, prompts, unique, source)
        return logits[torch.tensor(source, device=logits.device)]

    @torch.inference_mode()
    def advance(self, slots: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Append one id to each slot and return the following logits (n, V)."""
        top = max(slots) + 1
        if 2 * len(slots) < top:
            return self._forward(slots, [[token] for token in ids])
        # The cache of the first `top` slots is read in place; a selection would have to be copied. So waiting slots in
        # between are computed as well. Their results are not used, and what they write is overwritten.
        chunks: list[list[int]] = [[] for _ in range(top)]
        for slot, token in zip(slots, ids, strict=True):
            chunks[slot] = [token]
        return self._forward(range(top), chunks)[torch.tensor(slots)]

    @torch.inference_mode()
    def choose(self, logits: Tensor, uniforms: Tensor) -> tuple[list[int], list[float], list[float]]:
        """Sample one id per row by inverting the cumulative distribution at `uniforms` (n,) in [0, 1)."""
        log_probs, entropies = log_softmax_and_entropy(logits, self.sampling.temperature)
        if self.sampling.greedy:
            ids = log_probs.argmax(-1)
        else:
            ids = _invert(_truncate(log_probs.exp(), self.sampling.top_p), uniforms.to(log_probs.device))
        chosen = log_probs.gather(-1, ids[:, None])[:, 0]
        return ids.tolist(), chosen.tolist(), entropies.tolist()

    def clear(self, slot: int) -> None:
        """Clear the context of a slot."""
        self.lengths[slot] = 0

    def _forward(self, slots: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits (n, V) after the last id of each chunk; those of an empty chunk are undefined."""
        device = self.policy.device
        rows = torch.tensor(slots)
        widths = torch.tensor([len(chunk) for chunk in chunks])
        length = int((self.lengths[rows] + widths).max())
        if length > self.cache.length:
            raise UserError(f"the KV cache is full: expected at most {self.cache.length} tokens per slot, got {length}")
        width = int(widths.max())
        ids = torch.tensor([[*chunk, *[0] * (width - len(chunk))] for chunk in chunks])
        mask = self.cache.aim(rows.to(device), self.lengths[rows].to(device), width)
        # Padding past the end of the slot gets the last position, since a table of positions may end with the slot.
        positions = self.cache.positions.clamp(max=self.cache.length - 1)
        cache = {self.policy.cache_argument: self.cache}
        hidden = self.policy.hidden(ids.to(device), mask, position_ids=positions, use_cache=True, **cache)
        self.lengths[rows] += widths
        last = (widths - 1).clamp(min=0).to(device)
        return self.policy.logits(hidden[torch.arange(len(slots), device=device), last])

    def _share(
        self, slots: Sequence[int], prompts: Sequence[Sequence[int]], unique: list[int], source: list[int]
    ) -> None:
        followers: dict[int, list[int]] = {}
        for row, leader in enumerate(source):
            if unique[leader] != row:
                followers.setdefault(unique[leader], []).append(row)
        for leader_row, rows in followers.items():
            targets = torch.tensor([slots[r] for r in rows])
            length = len(prompts[leader_row])
            self.cache.copy_slot(slots[leader_row], targets.to(self.policy.device), length)
            self.lengths[targets] = length


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
