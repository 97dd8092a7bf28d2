"""Reading a model that somebody else made: its configuration, tokenizer and weights, and never its code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from empg.errors import UserError

# Unpickling can run whatever the file's author wrote.
CONVERT = (
    "pickled weights (pytorch_model.bin) are never read: if you trust them, convert them once with "
    "transformers' from_pretrained(...).save_pretrained(FOLDER), and name that folder"
)

# Of the numbers in a configuration. A model is made layer by layer, so a wrong count would take hours or all memory.
_LARGEST = ((re.compile("layer"), 1_000), (re.compile("expert|head"), 10_000), (re.compile("size|dim|embd"), 1 << 26))

_OTHER = "Use another model, such as one of the Qwen or Llama families"


def load_config(name: str, *, local: bool = False) -> Any:
    """The configuration of a model: a folder or a Hugging Face name.

    Args:
        name: the model.
        local: take it from this machine only; a name that is not here raises `OSError`.

    Raises:
        UserError: it cannot be used.
        OSError: it is unavailable.
    """
    try:
        settings, _ = PretrainedConfig.get_config_dict(name, local_files_only=local)
        _check_settings(settings)
        return AutoConfig.from_pretrained(name, local_files_only=local, trust_remote_code=False)
    except (OSError, UserError):
        raise
    except Exception as error:  # a wrong file fails anywhere in transformers, in classes of errors of its own
        raise UserError(f"policy.model={name}: {reason(error)}") from None


def load_tokenizer(name: str, *, local: bool = False) -> Any:
    """The tokenizer of a model.

    Raises:
        UserError: it is unavailable or cannot be used.
    """
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=local, trust_remote_code=False)
    except Exception as error:  # the Rust tokenizers raise bare exceptions
        raise UserError(f"policy.model={name}: {reason(error)}") from None


def load_model(name: str, config: Any) -> Any:
    """The model with its weights in float32.

    Raises:
        UserError: it is unavailable or cannot be used, or some of its weights are missing.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        if isinstance(error, OSError) and "model.safetensors" in str(error):
            raise UserError(f"policy.model={name}: there is no model.safetensors; {CONVERT}") from None
        raise UserError(f"policy.model={name}: {reason(error)}") from None
    model, report = loaded
    if report["missing_keys"]:  # transformers fills them with random numbers
        missing = sorted(report["missing_keys"])
        raise UserError(
            f"policy.model={name}: {len(missing)} weights are missing, {missing[0]} among them. "
            "Name a complete causal language model"
        )
    return model


def load_weights(model: Any, folder: Any) -> None:
    """Give `model` the weights of a folder that its `save_pretrained` wrote.

    They are read by transformers, which may write weights under other names than the model's own (mixtures of experts).

    Raises:
        UserError: they belong to another model.
    """
    try:
        loaded, report = type(model).from_pretrained(
            folder, config=model.config, dtype=model.dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: weights do not fit the model ({reason(error)})") from None
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing or unexpected:
        differing = f"missing {missing[:3]}, unexpected {unexpected[:3]}"
        raise UserError(f"{folder}: weights do not fit the model ({differing})")
    model.load_state_dict(loaded.state_dict())


def require_vocabulary(tokenizer: Any, rows: int, name: str) -> None:
    """Refuse a tokenizer that writes ids which the model's embedding of `rows` rows has not.

    Control tokens that neither the chat template nor the end of a sequence uses may lie beyond it (a padding token
    that somebody added): they are never read.

    Raises:
        UserError: there is such an id.
    """
    used = f"{tokenizer.chat_template} {tokenizer.eos_token} {tokenizer.bos_token}"
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    outside = [
        token
        for token, index in tokenizer.get_vocab().items()
        if index >= rows and (index not in special or token in used)
    ]
    if outside:
        raise UserError(
            f"policy.model={name}: its tokenizer has {len(outside):,} tokens ({min(outside)!r:.40} is one) beyond the "
            f"{rows:,} rows of its embedding. Use the tokenizer that the model was trained with"
        )


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse, before any of it is made, a configuration with absurd sizes or with quantized weights."""
    for key, value in _numbers(settings):
        for pattern, largest in _LARGEST:
            if pattern.search(key):
                if not -largest <= value <= largest:
                    raise UserError(
                        f"config.json: {key} is not a size of a model: expected at most {largest:,}, got {value:.6g}. "
                        "Use another model"
                    )
                break
    if settings.get("quantization_config") is not None:
        raise UserError("its weights are quantized, which cannot be trained. Use the model that was not quantized")


def _numbers(settings: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield key, value


def reason(error: BaseException) -> str:
    """Why transformers could not make a model, in one line."""
    if isinstance(error, ValueError) and "trust_remote_code" in str(error):
        return f"it brings Python code of its own, which is never run. {_OTHER}"
    if isinstance(error, ValueError) and "scaled_dot_product_attention" in str(error):
        kind = str(error).partition(" ")[0]
        return f"{kind} needs attention of its own (sinks, soft caps, biases), which is not supported. {_OTHER}"
    return f"{' '.join(str(error).split())[:300]}" or type(error).__name__
