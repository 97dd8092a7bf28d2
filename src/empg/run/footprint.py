"""Estimate the memory and disk space of a recipe from the shape of its model, before anything is loaded.

For Llama-like models on a CPU, a whole run takes what is estimated within a quarter, and each phase within a factor of
two (tests measure both). For other models the estimates are rough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from empg.errors import MissingFileError, UserError
from empg.policy.adapter import adapted_layers
from empg.policy.attention import LONGEST
from empg.policy.llama.weights import has_own_passes
from empg.policy.scoring import logit_budget
from empg.policy.source import load_config, reason
from empg.policy.tiny import make_model
from empg.recipe import LoraSection, Recipe

PROCESS_BYTES = 500 << 20  # a Python process ready to train: 0.45 GiB measured on Linux, and 50 MiB of torch's kernels
LOGIT_COPIES = 5  # scaled logits, log-probabilities, probabilities, their product, and a gradient


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of a model that determine its memory: parameters and dimensions."""

    parameters: int
    trainable: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    own_passes: bool  # on a CPU: an unchanged float32 Llama, see `policy/llama`


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of memory per worker. `weights` to `optimizer` are permanent; the later phases use theirs one at a time."""

    process: int
    weights: int  # including the reference policy, if the loss has one
    gradients: int
    optimizer: int
    rollout: int  # the KV cache, copies of one layer of it, one pass of a prefill, and the logits of one token per slot
    update: int  # activations and logits of one forward and backward pass
    exchange: int  # two flat copies of the gradients, with several workers

    @property
    def total(self) -> int:
        """The peak: the permanent parts plus the largest phase."""
        stays = self.process + self.weights + self.gradients + self.optimizer
        return stays + max(self.rollout, self.update, self.exchange)


def model_shape(recipe: Recipe) -> Shape:
    """Return the shape of the recipe's model. The model is created without weights; nothing is downloaded.

    Raises:
        MissingFileError: the model's configuration is not on this machine.
        UserError: the configuration cannot be used, or a layer of `policy.lora` does not exist.
    """
    section = recipe.policy
    with torch.device("meta"):
        if section.model == "tiny":
            model: Any = make_model(section.tiny, section.tiny.vocab_size, 1, 0, recipe.seed)
        else:
            model = _without_weights(section.model)
    config = model.config.get_text_config()
    parameters = sum(p.numel() for p in model.parameters())
    heads = int(config.num_attention_heads)
    return Shape(
        parameters=parameters,
        trainable=parameters if section.lora is None else _adapter_parameters(model, section.lora),
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        intermediate=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
        vocab=int(config.vocab_size),
        own_passes=has_own_passes(model) and section.dtype == "float32" and section.lora is None,
    )


def footprint(shape: Shape, recipe: Recipe, *, on_cpu: bool) -> Footprint:
    """Estimate the memory per worker, with b bytes per number of `policy.dtype` and P parameters, of which Q train.

    - weights `b P`, twice with a KL penalty (once with a new LoRA adapter, which is switched off for it); gradients and
      AdamW `3 b Q`, where b is 4 for the adapters of LoRA.
    - a pass over T = `micro_batch_tokens` ids in rows of L = `max_episode_tokens` takes, per id and layer,
      `6 hidden * b` (the two norms) and `(2 heads + 2 kv_heads) * head_dim + 4 intermediate` (attention, MLP) of b
      bytes, or 2 bytes under autocast; on the CPU with L <= 1024 also the `heads * L` attention weights, and with
      longer rows half of them, if the own passes of small Llamas compute the model. Under autocast there are 2 P bytes
      of cast weights.
    - rollout: `slots * (L + 1) * layers * 2 * kv_heads * head_dim` numbers in the cache, of b bytes or 2 under
      autocast; one layer's share twice, or where the fused kernel computes attention, once and once more for each query
      head of a key; `4 * slots * vocab * LOGIT_COPIES`; one layer of one pass; its mask of `T L` numbers, as bytes and
      in the type of the keys. A worker has at most as many slots as episodes.
    - update: all layers of one pass and two more for the gradients in the backward pass; with gradient checkpointing
      three layers, and `hidden * b` per id for each of the others; logits of `min(T, budget / vocab)` tokens,
      LOGIT_COPIES times in float32. A processor that emulates bfloat16 can take more.
    - exchange `2 b Q` with more than one worker.

    For the attention weights, every row is assumed to have length L, which is the worst case.
    """
    size, trained = _bytes_per_number(recipe)
    autocast = recipe.optimizer.autocast
    inner = 2 if autocast else size
    length, passed = recipe.rollout.max_episode_tokens, recipe.optimizer.micro_batch_tokens
    slots = _slots(recipe)
    own_attention = on_cpu and length <= LONGEST
    width = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim + 4 * shape.intermediate
    if own_attention:
        width += shape.heads * length
    elif on_cpu and shape.own_passes and not autocast:
        width += shape.heads * length // 2  # the weights of keys up to the query are kept
    layer = 6 * shape.hidden * size + width * inner  # bytes per id of a pass
    kept = (shape.layers + 2) * layer
    if recipe.optimizer.gradient_checkpointing:
        kept = min(kept, shape.layers * shape.hidden * size + 3 * layer)
    layer_cache = slots * (length + 1) * 2 * shape.kv_heads * shape.head_dim * inner
    copies = 2 if own_attention else 1 + shape.heads // shape.kv_heads
    read = min(passed, slots * length)  # ids of one pass of a prefill
    logits = min(passed, logit_budget(on_cpu=on_cpu) // shape.vocab + 1) * shape.vocab * 4 * LOGIT_COPIES
    casts = 2 * shape.parameters if autocast and size == 4 else 0
    copied = recipe.loss.kl_coef and (recipe.policy.lora is None or recipe.warm_start is not None)
    return Footprint(
        process=PROCESS_BYTES,
        weights=size * shape.parameters * (2 if copied else 1),
        gradients=trained * shape.trainable,
        optimizer=2 * trained * shape.trainable,
        rollout=layer_cache * (shape.layers + copies)
        + 4 * slots * shape.vocab * LOGIT_COPIES
        + read * (layer + length * (1 + inner))
        + casts,
        update=passed * kept + logits + casts,
        exchange=2 * trained * shape.trainable if recipe.workers > 1 else 0,
    )


def checkpoint_bytes(shape: Shape, recipe: Recipe) -> int:
    """Return the maximum disk space of a run's checkpoints: those kept, the one being written, and `start`.

    A checkpoint has the weights (with LoRA only those of the adapter) and two moments per trained parameter.
    """
    _, size = _bytes_per_number(recipe)
    weights = size * shape.trainable
    written = 1 + -(-recipe.iterations // recipe.checkpoint_every)
    return min(recipe.keep_checkpoints + 1, written) * (weights + 2 * size * shape.trainable) + weights


def _bytes_per_number(recipe: Recipe) -> tuple[int, int]:
    """Return the bytes of a weight and of a trained weight: peft keeps the adapters of LoRA in float32."""
    size = 4 if recipe.policy.dtype == "float32" else 2
    return size, size if recipe.policy.lora is None else 4


def _slots(recipe: Recipe) -> int:
    """Return the maximum number of episodes that a worker plays at once, in a rollout or an evaluation."""
    rollout = recipe.rollout
    trained = rollout.groups // recipe.workers * rollout.group_size
    evaluated = -(-recipe.evaluation.episodes // recipe.workers)
    return min(rollout.slots, max(trained, evaluated))


def _without_weights(name: str) -> Any:
    try:
        config = load_config(name, local=True)
    except MissingFileError:
        raise
    except OSError:
        raise MissingFileError(f"policy.model={name}: it is not on this machine") from None
    try:
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", trust_remote_code=False)
    except Exception as error:  # what config.json asks for can raise any exception inside transformers
        raise UserError(f"policy.model={name}: {reason(error, config.to_dict())}") from None


def _adapter_parameters(model: Any, lora: LoraSection) -> int:
    """Return the parameters of the adapters: `r (in + out)` for each linear layer that gets one."""
    return sum(lora.r * sum(module.weight.shape) for module in adapted_layers(model, lora))
