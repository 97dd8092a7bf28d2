"""Small Llamas of different shapes with weights that are far from uniform."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES: dict[str, dict[str, Any]] = {
    "one key for two heads": {"num_attention_heads": 2, "num_key_value_heads": 1},
    "a key for each head": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "two keys for six heads": {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48},
    "one layer": {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1},
    "a head of its own": {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False},
    "rotary embedding of Llama 3": {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
}


def make(name: str) -> LlamaForCausalLM:
    """A Llama of a shape above; the same call gives the same weights."""
    options = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "tie_word_embeddings": True,
        "max_position_embeddings": 128,
        **SHAPES[name],
    }
    config = LlamaConfig(vocab_size=60, intermediate_size=48, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(8.0)
                else:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)  # norms with weights of their own
    model.set_attn_implementation("eager")
    return model
