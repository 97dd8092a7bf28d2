"""The weights of a small Llama, arranged for few matrix products.

The weight of each norm is multiplied into the matrix that follows it, and matrices with the same input are joined. All
of this is differentiable, so gradients reach the model's own parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

WIDEST = 1024  # hidden size up to which the own passes are used; beyond it the matrix products take nearly all time


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: attention reads `qkv` and writes through `output`; the MLP reads `gate_up` and writes through `down`.

    Attributes:
        qkv: ((heads + 2 kv_heads) * head_dim, hidden); queries are scaled for attention.
        output: (hidden, heads * head_dim).
        gate_up: (2 intermediate, hidden).
        down: (hidden, intermediate).
    """

    qkv: Tensor
    output: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """All layers of a Llama, and its numbers."""

    layers: list[Layer]
    heads: int
    kv_heads: int
    head_dim: int
    eps: float  # of the norms


def is_small_llama(model: Any) -> bool:
    """Return whether the own passes compute this model: one that has them, in float32, on the CPU, without adapter."""
    return (
        has_own_passes(model)
        and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())
        and not any(hasattr(module, "base_layer") for module in model.modules())  # a LoRA adapter inside
    )


def has_own_passes(model: Any) -> bool:
    """Return whether the own passes can compute such a model: a Llama not wider than `WIDEST`, without rare options."""
    if type(model) is not LlamaForCausalLM:
        return False
    config = model.config
    plain = config.hidden_act == "silu" and not config.attention_bias and not config.mlp_bias
    return (
        plain
        and config.hidden_size <= WIDEST
        and not config.attention_dropout
        and (config.rope_parameters or {}).get("rope_type", "default") in {"default", "llama3", "linear"}
    )


def arrange(model: LlamaForCausalLM) -> Weights:
    """Return the weights of the layers."""
    config: Any = model.config
    layers = []
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = torch.cat((attention.q_proj.weight * attention.scaling, attention.k_proj.weight, attention.v_proj.weight))
        gate_up = torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))
        layers.append(
            Layer(
                qkv=qkv * layer.input_layernorm.weight,
                output=attention.o_proj.weight,
                gate_up=gate_up * layer.post_attention_layernorm.weight,
                down=mlp.down_proj.weight,
            )
        )
    return Weights(
        layers=layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        eps=config.rms_norm_eps,
    )


@torch.no_grad()
def rotary_table(model: LlamaForCausalLM, length: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the rotary embedding, each (length, 1, head_dim / 2), for positions from 0."""
    embedding = model.model.embed_tokens.weight
    cos, sin = model.model.rotary_emb(embedding[None, :1], torch.arange(length)[None])
    half = cos.shape[-1] // 2  # transformers repeats them for both halves
    return cos[0, :, None, :half].contiguous(), sin[0, :, None, :half].contiguous()


def rotate_(vectors: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate `vectors` (N, heads, head_dim) in place by the angles of their positions, (N, 1, head_dim / 2).

    The pairs of a rotation are (i, i + head_dim / 2), as in transformers.
    """
    first, second = vectors.chunk(2, dim=-1)
    before = first.clone()
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).addcmul_(before, sin)


def normalize(states: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return `states` (N, hidden) divided by their root mean square, and the factors (N, 1)."""
    scale = states.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return states * scale, scale
