"""Decoding and scoring on a GPU: the numbers of a CPU, in graphs where the model allows it."""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from empg.policy.contexts import ModelContexts
from empg.policy.decode import Decoder, Sampling
from empg.policy.device import choose_kernels
from empg.policy.layers import training_layers
from empg.policy.model import Policy
from empg.policy.scoring import score_tokens
from tests.gpu.models import LENGTH, MODELS, VOCABULARY, copied_to_cpu, make, needs_gpu

pytestmark = needs_gpu

SLOTS = 20


class Episodes:
    """Episodes of several turns in the slots of a decoder, with what was recorded for each sampled token."""

    def __init__(self, policy: Policy, autocast: bool = False) -> None:
        self.decoder = Decoder(policy, SLOTS, LENGTH, Sampling(), autocast=autocast, pass_tokens=1024)
        self.random = random.Random(0)
        self.rows: list[list[int]] = [[] for _ in range(SLOTS)]
        self.sampled: list[list[tuple[int, float, float]]] = [[] for _ in range(SLOTS)]  # column, log-prob, entropy

    @property
    def graphs(self) -> int:
        assert isinstance(self.decoder.contexts, ModelContexts)
        return len(self.decoder.contexts._step_graphs._graphs)

    def turn(self, slots: list[int], prompt: tuple[int, int], tokens: int) -> None:
        """Read a prompt of a random length in each slot, and write `tokens` ids; the next turn reads the last one."""
        chunks = []
        for slot in slots:
            chunk = [self.random.randrange(5, VOCABULARY) for _ in range(self.random.randint(*prompt))]
            unread = self.rows[slot][-1:] if self.sampled[slot] else []
            chunks.append([*unread, *chunk])
            self.rows[slot] += chunk
        logits = self.decoder.prefill(slots, chunks)
        for step in range(tokens):
            uniforms = torch.tensor([self.random.random() for _ in slots])
            chosen = self.decoder.choose(logits, uniforms)
            for slot, token, logprob, entropy in zip(slots, *chosen, strict=True):
                self.sampled[slot].append((len(self.rows[slot]), logprob, entropy))
                self.rows[slot].append(token)
            if step < tokens - 1:
                logits = self.decoder.advance(slots, [self.rows[slot][-1] for slot in slots])

    def differences(self, policy: Policy, autocast: bool = False) -> tuple[Tensor, Tensor]:
        """How far log-probabilities and entropies are from those of whole rows in one forward pass each."""
        logprobs, entropies = [], []
        for row, sampled in zip(self.rows, self.sampled, strict=True):
            if not sampled:
                continue
            columns = torch.tensor([column for column, *_ in sampled], device=policy.device)
            ids = torch.tensor([row], device=policy.device)
            with torch.no_grad(), policy.autocast(autocast):
                wanted = score_tokens(policy, ids, torch.zeros_like(columns), columns)
            logprobs.append(torch.tensor([logprob for _, logprob, _ in sampled]) - wanted[0].cpu())
            entropies.append(torch.tensor([entropy for *_, entropy in sampled]) - wanted[1].cpu())
        return torch.cat(logprobs).abs(), torch.cat(entropies).abs()


def played(policy: Policy, autocast: bool = False) -> Episodes:
    """Turns of all slots and of some; contexts cross the column counts of the graphs; a slot is used again."""
    episodes = Episodes(policy, autocast)
    with policy.keeping_casts():
        episodes.turn(list(range(SLOTS)), (3, 250), 20)
        episodes.turn([3, 0, 12, 7, 15, 1, 2, 4, 5, 6, 8], (1, 5), 30)
        episodes.turn([1, 19], (200, 250), 40)
        episodes.decoder.clear(0)
        episodes.rows[0], episodes.sampled[0] = [], []
        episodes.turn(list(range(17)), (1, 40), 30)
    return episodes


@pytest.fixture(autouse=True)
def kernels() -> None:
    """As in a run without autocast."""
    choose_kernels(torch.device("cuda"), autocast=False)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", MODELS)
def test_sampled_scores_are_those_of_a_cpu(name: str, lora: bool) -> None:
    if lora and name in ("experts", "gpt2"):
        pytest.skip("its layers are not torch.nn.Linear")
    policy = make(name, "cuda", lora=lora)
    episodes = played(policy)
    print(f"{name}: {episodes.graphs} graphs")
    if name not in ("experts", "dynamic rope"):  # these may wait for the device, and are then not recorded
        assert episodes.graphs > 2
    for difference in episodes.differences(copied_to_cpu(policy)):
        assert difference.max() < 2e-4, difference.max()


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_under_autocast_sampled_scores_are_those_of_the_update(lora: bool) -> None:
    choose_kernels(torch.device("cuda"), autocast=True)
    policy = make("qwen2", "cuda", lora=lora)
    episodes = played(policy, autocast=True)
    assert episodes.graphs > 2
    logprobs, entropies = episodes.differences(policy, autocast=True)
    exact, _ = episodes.differences(policy)
    print(f"bfloat16: {logprobs.mean():.4f} nats from the update, {exact.mean():.4f} from float32")
    assert logprobs.mean() < 0.02
    assert entropies.mean() < 0.02
    assert exact.mean() < 0.05


def test_graphs_compute_what_the_passes_compute_that_they_replace() -> None:
    policy = make("llama", "cuda")
    recorded, plain = (Decoder(policy, SLOTS, LENGTH, Sampling()) for _ in range(2))
    assert isinstance(plain.contexts, ModelContexts)
    plain.contexts._step_graphs.recordable = False
    slots = list(range(SLOTS))
    prompts = [list(range(5, 10 + slot)) for slot in slots]
    assert torch.equal(recorded.prefill(slots, prompts), plain.prefill(slots, prompts))
    for token in range(5, 25):
        mine, theirs = recorded.advance(slots, [token] * SLOTS), plain.advance(slots, [token] * SLOTS)
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_the_host_waits_once_per_token() -> None:
    policy = make("qwen2", "cuda")
    decoder = Decoder(policy, SLOTS, LENGTH, Sampling())
    slots = list(range(SLOTS))
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            logits = decoder.prefill(slots, [[5, 6, 7 + slot] for slot in slots])
            for _ in range(10):
                chosen, _, _ = decoder.choose(logits, torch.rand(SLOTS))
                logits = decoder.advance(slots, chosen)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)]
    assert len(waits) == 10, waits


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("name", "lora"), [("llama", False), ("qwen2", True), ("qwen3", False), ("experts", False)])
def test_gradients_are_those_of_a_cpu(name: str, lora: bool, recomputed: bool, compiled: bool) -> None:
    policy = make(name, "cuda", lora=lora)
    other = copied_to_cpu(policy)

    def gradients(of: Policy, length: int, compiled: bool) -> list[Any]:
        ids = torch.randint(5, VOCABULARY, (4, length), generator=torch.Generator().manual_seed(0))
        rows, columns = torch.arange(4).repeat_interleave(length - 1), torch.arange(1, length).repeat(4)
        with training_layers(of, recomputed=recomputed, compiled=compiled):
            logprobs, entropies = score_tokens(of, ids.to(of.device), rows.to(of.device), columns.to(of.device))
            (logprobs.mean() + 0.1 * entropies.mean()).backward()
        found = [p.grad.cpu() for p in of.parameters if p.grad is not None]
        of.model.zero_grad()
        return found

    for length in (300, 256, 31):
        for mine, theirs in zip(gradients(policy, length, compiled), gradients(other, length, False), strict=True):
            assert (mine - theirs).norm() <= 1e-3 * theirs.norm() + 1e-7
