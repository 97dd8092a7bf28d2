"""The context length that a model supports: a token must attend to its whole episode."""

from __future__ import annotations

from typing import Any

from empg.errors import UserError


def context_limits(config: Any) -> dict[str, int]:
    """Return the limits of a model's context in tokens; a key ends with the preposition before the model's name."""
    config = config.get_text_config()
    limits = {
        "positions of": getattr(config, "max_position_embeddings", None),
        "sliding window of": _window(config),
        "length at which longrope changes in": _original_length(config),
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


def longest_context(config: Any) -> int | None:
    """Return the longest context in which every layer of a model attends to all tokens; None without a limit."""
    return min(context_limits(config).values(), default=None)


def require_length(config: Any, length: int, name: str) -> None:
    """Reject contexts of `length` tokens that the model `name` with this `config` does not support.

    With the KV cache, a token attends to its whole context. With a sliding window (Mistral, Gemma, Phi-3) or an
    attention chunk (Llama 4), it attends to less if the context is longer. Up to that length there is no difference.

    Longrope (Phi-3.5, Phi-4-mini) uses other rotary factors if the longest row of a forward pass exceeds the original
    length. The keys in the cache would keep the factors of shorter texts.

    Raises:
        UserError: the length exceeds a limit, or the model has layers with a state instead of keys and values.
    """
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ())
    if unknown := kinds - {"full_attention", "sliding_attention", "chunked_attention"}:
        raise UserError(f"policy.model={name} has {min(unknown)} layers, which the KV cache does not support")
    for limit, longest in context_limits(config).items():
        if length > longest:
            raise UserError(
                f"rollout.max_episode_tokens exceeds the {limit} policy.model={name}: "
                f"expected at most {longest}, got {length}"
            )


def _original_length(config: Any) -> int | None:
    """Return the number of tokens up to which longrope uses its short factors; None without longrope."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(config, name, None) or {}
        kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]  # Gemma 3 has one per kind of layer
        for part in kinds:
            if "longrope" in (part.get("rope_type"), part.get("type")):
                key = "original_max_position_embeddings"
                return int(part.get(key) or getattr(config, key, None) or config.max_position_embeddings)
    return None


def _window(config: Any) -> int | None:
    """Return the smallest attention window of the layers in tokens; None if all attend to everything."""
    kinds = set(getattr(config, "layer_types", None) or ())
    wanted = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    # Without a list of layers (Mistral, Phi-3), a window applies to all of them.
    names = [wanted[kind] for kind in kinds if kind in wanted] if kinds else ["sliding_window"]
    return min((w for name in names if (w := getattr(config, name, None)) is not None), default=None)
