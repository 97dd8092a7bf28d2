"""Load the policy of a recipe: a Hugging Face model, or the tiny one that is created in the run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from empg.errors import UserError
from empg.policy import attention
from empg.policy.adapter import add_adapter
from empg.policy.context_length import require_length
from empg.policy.device import resolve_device
from empg.policy.fingerprint import fingerprint
from empg.policy.model import Policy
from empg.policy.source import load_config, load_model, load_tokenizer, reason, require_vocabulary
from empg.policy.tiny import make_model, make_tokenizer
from empg.policy.trial import check_forward
from empg.recipe import PolicySection


def load_policy(section: PolicySection, corpus: Iterable[str] | None = None, seed: int = 0) -> Policy:
    """Load or create the policy of a recipe.

    `tiny` creates a new model and trains its tokenizer on `corpus`. Any other name is a folder or a Hugging Face name.
    New weights (of the tiny model or a LoRA adapter) are initialised from `seed`.

    Raises:
        UserError: the model is unavailable or cannot be used; the message has the reason.
    """
    device = resolve_device(section.device)
    if section.model == "tiny":
        if corpus is None:
            raise UserError("policy.model=tiny needs a corpus: its tokenizer is trained on expert episodes")
        tokenizer: Any = make_tokenizer(corpus, section.tiny.vocab_size, section.tiny.phrases)
        model: Any = make_model(section.tiny, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, seed)
    else:
        tokenizer, model = _read_model(section.model, _implementation(device))
    for parameter in model.parameters():
        # A copy even where nothing changes: weights read from a file may be at unaligned addresses, where matrix
        # kernels round differently. A resumed run would not be bit-identical.
        parameter.data = parameter.data.to(device=device, dtype=getattr(torch, section.dtype), copy=True)
    model.to(device=device).eval()  # buffers stay in float32: rounded rotary frequencies are wrong at late positions
    # transformers gives the padding token no gradient. In some models it is also the token that ends a turn.
    model.get_input_embeddings().padding_idx = None
    model.set_attn_implementation(_implementation(device))
    if section.lora is None:
        return Policy(model, tokenizer, device)
    adapter = add_adapter(model, section.lora, seed)
    return Policy(adapter.get_base_model(), tokenizer, device, adapter, fingerprint(section.model))


def _read_model(name: str, implementation: str) -> tuple[Any, Any]:
    """Load and check the tokenizer and the model of a folder or a Hugging Face name."""
    try:
        config = load_config(name)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"policy.model={name}: {reason(error)}") from None
    require_length(config, 1, name)
    tokenizer = load_tokenizer(name)
    model = load_model(name, config).eval()
    require_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0], name)
    check_forward(Policy(model, tokenizer, torch.device("cpu")), implementation, name)
    return tokenizer, model


def _implementation(device: torch.device) -> str:
    return attention.NAME if device.type == "cpu" else "sdpa"
