"""How passes with gradients compute the layers of a model: compiled, or again in the backward pass, or both.

Gradient checkpointing computes each layer again in the backward pass, so that its activations need not be kept.
transformers' own switch works only in training mode, in which some models have dropout. The policy is trained without
dropout, because its log-probabilities are compared with those of the sampler.

Compiling fuses the operations between the matrix products of a layer. All layers of a model share the compiled code.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from empg.errors import UserError, message_of
from empg.policy.model import Policy

_VARIANTS = 32  # code for rows of one length or several, one row, passes without gradient; torch allows 8 by default


@contextlib.contextmanager
def training_layers(policy: Policy, *, recomputed: bool, compiled: bool) -> Iterator[None]:
    """Compute the layers as `optimizer.gradient_checkpointing` and `optimizer.compile` say, in this block.

    Run the backward passes inside the block as well. The own passes of small Llamas (`policy/llama/`) do not call the
    layers: they read `Policy.recomputed`, and nothing is compiled.

    Args:
        policy: the model; it is restored after the block.
        recomputed: passes with gradients keep only the inputs of each layer.
        compiled: layers and scores are compiled, in the first pass of each kind (about 10 s). Numbers that were rounded
            to bfloat16 between two operations then are not.

    Raises:
        UserError: the layers of this model cannot be recomputed or compiled, or torch cannot compile here.
    """
    layers = replaced_layers(policy, recomputed=recomputed, compiled=compiled)
    compiled = compiled and not policy.is_small_llama
    policy.recomputed, policy.compiled = recomputed, compiled
    try:
        with _compiling() if compiled else contextlib.nullcontext():
            for layer in layers:
                forward = torch.compile(layer.forward, dynamic=True) if compiled else layer.forward
                layer.forward = partial(_recomputed, forward) if recomputed else forward
            yield
    finally:
        policy.recomputed = policy.compiled = False
        for layer in layers:
            layer.__dict__.pop("forward", None)  # that of the class remains


def replaced_layers(policy: Policy, *, recomputed: bool, compiled: bool) -> list[Any]:
    """Return the layers whose forward pass `training_layers` replaces.

    Raises:
        UserError: they are not known, since the model has none of transformers' usual class.
    """
    if not (recomputed or compiled):
        return []
    layers = [module for module in policy.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        key = "gradient_checkpointing" if recomputed else "compile"
        raise UserError(f"optimizer.{key}: the layers of {type(policy.model).__name__} are not known. Set it to false")
    return layers


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


@contextlib.contextmanager
def _compiling() -> Iterator[None]:
    from torch._dynamo import config
    from torch._dynamo.exc import TorchDynamoException

    try:
        with config.patch(recompile_limit=_VARIANTS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\.")  # of its own parts, and about kernels that we chose
            yield
    except TorchDynamoException as error:  # no C++ compiler, or an operation that it does not support
        raise UserError(
            f"optimizer.compile: torch cannot compile this model here ({message_of(error, 300)}). Set it to false"
        ) from None
