"""Small random models of several architectures, on the GPU and on the CPU with the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from empg.policy.adapter import add_adapter
from empg.policy.model import Policy
from empg.recipe import LoraSection

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

LENGTH = 640  # tokens of a slot: more than two of the column counts that graphs are rounded to
VOCABULARY = 500
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
    "max_position_embeddings": 2048,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}  # looks at the positions in every pass
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=32)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=128, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=1)
    ),
    "dynamic rope": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=DYNAMIC)),
    "experts": lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4)),
}


def make(name: str, device: str, *, lora: bool = False) -> Policy:
    """The same weights on every device; spread out, so that tokens are neither certain nor equally likely."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[name]().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(2.0)
        adapter = None
        model.set_attn_implementation("sdpa")
        if lora:
            adapter = add_adapter(model, LoraSection(r=4), 0)
            model = adapter.get_base_model()
            with torch.no_grad():
                for part, parameter in model.named_parameters():
                    if "lora_B" in part:
                        parameter.normal_(std=0.05)
    (adapter or model).to(device)
    return Policy(model, None, torch.device(device), adapter)


def copied_to_cpu(policy: Policy) -> Policy:
    return Policy(copy.deepcopy(policy.model).to("cpu"), policy.tokenizer, torch.device("cpu"))
