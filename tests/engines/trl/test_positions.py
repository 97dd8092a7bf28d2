"""A model whose numbers depend on the padding before a row cannot train with TRL."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed: make test-trl runs these tests")

from transformers import GPT2Config, GPT2LMHeadModel

from empg.engines.trl.positions import check_padding
from empg.errors import UserError
from empg.policy.model import Policy
from tests.engines.trl.parts import tiny_policy


def test_rotary_positions_pass() -> None:
    policy = tiny_policy()
    check_padding(policy, "tiny")
    policy.model.bfloat16()
    check_padding(policy, "tiny")


def test_learned_positions_are_refused() -> None:
    tokenizer = tiny_policy().tokenizer
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3)
    policy = Policy(GPT2LMHeadModel(shape), tokenizer, torch.device("cpu"))
    with pytest.raises(
        UserError, match=r"^policy.model=gpt2: padding on the left changes .* of GPT2LMHeadModel by up to"
    ):
        check_padding(policy, "gpt2")
