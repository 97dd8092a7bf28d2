"""Which models this package computes itself, and which it leaves to transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from empg.policy.llama.weights import WIDEST, is_small_llama, rotary_table, rotate_
from tests.policy.llama.models import SHAPES, make

SHAPE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.mark.parametrize("name", SHAPES)
def test_small_llamas_are_computed_here(name: str) -> None:
    assert is_small_llama(make(name))


@pytest.mark.parametrize(
    "more",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"attention_dropout": 0.1},
        {"hidden_size": WIDEST + 4},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ],
    ids=lambda more: next(iter(more)),
)
def test_a_llama_with_anything_else_is_not(more: dict[str, Any]) -> None:
    assert not is_small_llama(LlamaForCausalLM(LlamaConfig(**{**SHAPE, **more})))


def test_nor_is_another_model_or_another_precision() -> None:
    assert not is_small_llama(MistralForCausalLM(MistralConfig(**SHAPE)))
    assert not is_small_llama(LlamaForCausalLM(LlamaConfig(**SHAPE)).bfloat16())


def test_a_rotation_by_hand() -> None:
    # Pairs are (i, i + 2). Angle 0 for the first pair; 90 degrees for the second: (4, 6) becomes (-6, 4).
    vectors = torch.tensor([[[3.0, 4.0, 5.0, 6.0]]])
    rotate_(vectors, torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]))
    assert vectors.tolist() == [[[3.0, -6.0, 5.0, 4.0]]]


def test_the_first_position_is_not_rotated() -> None:
    cos, sin = rotary_table(make("one key for two heads"), 3)
    assert cos.shape == sin.shape == (3, 1, 8)
    assert cos[0].unique().tolist() == [1.0]
    assert sin[0].unique().tolist() == [0.0]
    torch.testing.assert_close(cos[2, 0, 0], torch.tensor(2.0).cos())  # the first pair turns by one radian per token
