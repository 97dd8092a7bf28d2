"""Models with windows or other positions: correct up to what the cache supports, rejected beyond."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from empg.policy import attention
from empg.policy.context_length import require_length
from empg.policy.decode import Decoder, Sampling
from empg.policy.model import Policy

LENGTH = 8  # tokens of every window and of every table of positions
SHAPE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def gemma3() -> Any:
    config = Gemma3TextConfig(**{**SHAPE, "num_hidden_layers": 6}, head_dim=16, sliding_window=LENGTH)
    return Gemma3ForCausalLM(config)  # five layers with a window, one without


def gpt2() -> Any:
    ends: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=LENGTH, **ends))


def opt() -> Any:
    config = OPTConfig(**SHAPE, ffn_dim=32, max_position_embeddings=LENGTH, word_embed_proj_dim=32)
    return OPTForCausalLM(config)


WINDOWED: dict[str, Callable[[], Any]] = {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=LENGTH)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SHAPE, sliding_window=LENGTH)),
    "gemma3": gemma3,
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=LENGTH, max_window_layers=1)
    ),
}
COUNTED = {"gpt2": gpt2, "opt": opt}


def make(build: Callable[[], Any]) -> Policy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(5.0)
    model.set_attn_implementation(attention.NAME)
    return Policy(model, None, torch.device("cpu"))


def error_of_the_decoder(policy: Policy, length: int) -> float:
    """How far its logits are from a plain forward's at the end of a slot, beside a row that pads past that end."""
    ids = torch.randint(5, 290, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    decoder = Decoder(policy, 2, length, Sampling())
    decoder.prefill([0], [ids[:-1]])
    logits = decoder.prefill([0, 1], [ids[-1:], ids[:4]])
    with torch.no_grad():
        wanted = [policy.model(torch.tensor([row])).logits[0, -1] for row in (ids, ids[:4])]
    return max(float((ours - theirs).abs().max()) for ours, theirs in zip(logits, wanted, strict=True))


@pytest.mark.parametrize("name", [*WINDOWED, *COUNTED])
def test_a_full_slot_equals_a_plain_forward_pass(name: str) -> None:
    policy = make({**WINDOWED, **COUNTED}[name])
    require_length(policy.model.config, LENGTH, name)
    assert error_of_the_decoder(policy, LENGTH) < 1e-4


@pytest.mark.parametrize("name", WINDOWED)
def test_more_than_the_window_is_rejected(name: str) -> None:
    policy = make(WINDOWED[name])
    assert error_of_the_decoder(policy, LENGTH + 4) > 1e-2
    said = rf"sliding window of policy\.model={name}: expected at most 8, got 9$"
    with pytest.raises(ValueError, match=said):
        require_length(policy.model.config, LENGTH + 1, name)


@pytest.mark.parametrize("name", COUNTED)
def test_more_than_the_positions_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=rf"positions of policy\.model={name}: expected at most 8, got 9$"):
        require_length(make(COUNTED[name]).model.config, LENGTH + 1, name)


def test_a_window_that_is_switched_off_limits_nothing() -> None:
    require_length(Qwen2Config(**SHAPE, use_sliding_window=False, sliding_window=LENGTH), 512, "qwen2")
    require_length(MistralConfig(**SHAPE, sliding_window=None), 512, "mistral")


def test_layers_without_keys_and_values_are_rejected() -> None:
    config = LlamaConfig(**SHAPE)
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="has linear_attention layers"):
        require_length(config, 8, "hybrid")
