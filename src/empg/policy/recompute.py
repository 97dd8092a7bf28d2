"""Gradient checkpointing: the backward pass computes each layer again, so that its activations need not be kept.

transformers' own switch works only in training mode, in which some models have dropout. The policy is trained without
dropout, because its log-probabilities are compared with those of the sampler.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from empg.errors import UserError
from empg.policy.model import Policy


@contextlib.contextmanager
def layers_recomputed(policy: Policy, wanted: bool) -> Iterator[None]:
    """Let passes with gradients keep only the inputs of each layer, in this block and in its backward passes.

    The own passes of small Llamas (`policy/llama/`) do not call the layers, so they read `Policy.recomputed`.

    Raises:
        UserError: the layers of this model cannot be recomputed.
    """
    layers = recomputable_layers(policy) if wanted else []
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)
    policy.recomputed = wanted
    try:
        yield
    finally:
        policy.recomputed = False
        for layer in layers:
            del layer.forward  # that of the class remains


def recomputable_layers(policy: Policy) -> list[Any]:
    """Return the layers of a policy that can be computed again; raises `UserError` if there are none."""
    layers = [module for module in policy.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        kind = type(policy.model).__name__
        raise UserError(f"optimizer.gradient_checkpointing: the layers of {kind} cannot be recomputed. Set it to false")
    return layers


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
