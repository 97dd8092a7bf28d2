"""Loading a published model: its configuration, tokenizer and weights, but never its Python code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig
from transformers.utils.peft_utils import find_adapter_config_file

from empg.errors import MissingFileError, UserError, described, message_of
from empg.validation import did_you_mean

# Unpickling can run arbitrary code from the file.
CONVERT = (
    "pickled weights (pytorch_model.bin) are not supported. If you trust them, convert them once with "
    "transformers' from_pretrained(...).save_pretrained(FOLDER), and use that folder"
)

# Upper bounds for the numbers in a configuration. Models are built layer by layer, so a wrong count would take hours.
# The first pattern that a name has counts: `shared_expert_intermediate_size` is a size.
_LARGEST = ((re.compile("size|dim|embd"), 1 << 26), (re.compile("layer"), 1_000), (re.compile("expert|head"), 10_000))

# No model can do without these; whether another number of its configuration may be 0 depends on the architecture.
_COUNTS = "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"

_OTHER = "Use another model, such as one of the Qwen or Llama families"


def load_config(name: str, *, local: bool = False) -> Any:
    """Load the configuration of a model.

    Args:
        name: a folder or a Hugging Face name.
        local: do not download anything.

    Raises:
        UserError: the configuration cannot be used.
        OSError: it is unavailable.
    """
    settings: Mapping[str, Any] = {}
    try:
        _check_place(name)
        _refuse_adapter(name, local)
        settings, _ = PretrainedConfig.get_config_dict(name, local_files_only=local)
        _check_settings(settings)
        config = AutoConfig.from_pretrained(name, local_files_only=local, trust_remote_code=False)
        _check_counts(config.get_text_config())
    except (MissingFileError, UserError) as error:
        raise type(error)(f"policy.model={name}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # a damaged file can raise any exception inside transformers
        raise UserError(f"policy.model={name}: {reason(error, settings)}") from None
    return config


def load_tokenizer(name: str, *, local: bool = False) -> Any:
    """Load the tokenizer of a model.

    Raises:
        UserError: the tokenizer is unavailable or cannot be used.
    """
    try:
        _check_place(name)
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise UserError(f"policy.model={name}: {reason(error)}") from None
    for key in ("is_local", "local_files_only"):  # how it was loaded: a resumed run would save another tokenizer
        tokenizer.init_kwargs.pop(key, None)
    return tokenizer


def load_model(name: str, config: Any) -> Any:
    """Load a model with float32 weights.

    Raises:
        UserError: the model is unavailable or cannot be used, or some of its weights are missing.
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
            raise UserError(f"policy.model={name}: model.safetensors not found; {CONVERT}") from None
        raise UserError(f"policy.model={name}: {reason(error, config.to_dict())}") from None
    model, report = loaded
    if report["missing_keys"]:  # transformers would fill them with random numbers
        missing = sorted(report["missing_keys"])
        raise UserError(
            f"policy.model={name}: {len(missing)} weights are missing, {missing[0]} among them. "
            "Use a complete causal language model"
        )
    _check_ends(model.generation_config, f"policy.model={name}: generation_config.json")
    return model


def load_weights(model: Any, folder: Any) -> None:
    """Load the weights of a folder that `model.save_pretrained` wrote.

    transformers reads them, because it may save weights under names that differ from the model's own (mixtures of
    experts).

    Raises:
        UserError: the weights do not match the model.
    """
    try:
        loaded, report = type(model).from_pretrained(
            folder, config=model.config, dtype=model.dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: the weights do not match the model ({reason(error)})") from None
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing or unexpected:
        differing = f"missing {missing[:3]}, unexpected {unexpected[:3]}"
        raise UserError(f"{folder}: the weights do not match the model ({differing})")
    model.load_state_dict(loaded.state_dict())


def require_vocabulary(tokenizer: Any, rows: int, name: str) -> None:
    """Reject a tokenizer whose ids exceed the `rows` rows of the model's embedding.

    Control tokens are allowed beyond the embedding if the chat template does not use them (an added padding token, for
    example), because the model never reads them.

    Raises:
        UserError: a token that the model may read has no row.
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


def _check_place(name: str) -> None:
    """Reject a folder that is missing or not of a model; other names are of Hugging Face, `model` or `owner/model`."""
    folder = Path(name)
    if folder.is_dir():
        _check_folder(folder)
        return
    if not (name.startswith((".", "~")) or name.count("/") > 1 or folder.is_absolute()):
        return
    if folder.exists():
        raise MissingFileError("it is a file. Name the folder that has config.json")
    known = [other.name for other in folder.parent.iterdir()] if folder.parent.is_dir() else []
    raise MissingFileError(f"no such folder{did_you_mean(folder.name, known)}")


def _check_folder(folder: Path) -> None:
    """Reject a folder that is neither of a model nor of an adapter, for which `load_config` says what to do."""
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return
    of_run = sorted(folder.glob("checkpoints/*/config.json"))
    end = f". It is a run folder: name a checkpoint in it, such as {of_run[-1].parent}" if of_run else ""
    raise MissingFileError(f"it is not a model folder: config.json is missing{end}")


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Reject absurd sizes and quantized weights before the configuration or the model is built."""
    for key, value in _entries(settings):
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        for pattern, largest in _LARGEST:
            if pattern.search(key):
                if not -largest <= value <= largest:
                    raise UserError(
                        f"config.json: {key} is out of range: expected at most {largest:,}, got {value:.6g}. "
                        "Use another model"
                    )
                break
    if settings.get("quantization_config") is not None:
        raise UserError("quantized weights cannot be trained. Use the unquantized model")


def _check_counts(config: Any) -> None:
    for key in _COUNTS:
        count = getattr(config, key, None)
        if not isinstance(count, int) or count < 1:
            raise UserError(f"config.json: {key}: expected >= 1, got {count!r:.80}. {_OTHER}")
    _check_ends(config, "config.json")


def _check_ends(config: Any, file: str) -> None:
    """Reject end tokens that are not ids."""
    ids = getattr(config, "eos_token_id", None)
    for index in ids if isinstance(ids, list | tuple) else [] if ids is None else [ids]:
        if not isinstance(index, int):
            raise UserError(f"{file}: eos_token_id: expected ids of tokens, got {index!r:.80}. Correct the file")


def _refuse_adapter(name: str, local: bool) -> None:
    """Reject an adapter, which transformers would load onto another model."""
    file = find_adapter_config_file(name, local_files_only=local)
    if file is None:
        return
    merge = "merge it with peft's merge_and_unload().save_pretrained(FOLDER) and use FOLDER"
    if (Path(file).parent / "config.json").is_file():
        raise UserError(
            f"it has an adapter (adapter_config.json) beside a model. Remove adapter_config.json, or {merge}"
        )
    base = json.loads(Path(file).read_text(encoding="utf-8")).get("base_model_name_or_path")
    raise UserError(
        f"it is an adapter of {base!r:.200}, not a complete model. Fork its run with --from, evaluate its run folder, "
        f"or {merge}"
    )


def _entries(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _entries(value)
        else:
            yield key, value


def reason(error: Exception, settings: Mapping[str, Any] | None = None) -> str:
    """Return why transformers could not build a model with these `settings` in config.json, in one line."""
    if isinstance(error, ValueError) and "trust_remote_code" in str(error):
        return f"the model needs its own Python code, which is never executed. {_OTHER}"
    if isinstance(error, ValueError) and "scaled_dot_product_attention" in str(error):
        kind = str(error).partition(" ")[0]
        return f"{kind} needs a special kind of attention (sinks, soft caps, biases), which is not supported. {_OTHER}"
    if isinstance(error, OSError) and "couldn't connect" in str(error):
        return "it is not on this machine, and huggingface.co cannot be reached. Check the name, or name a folder"
    if isinstance(error, KeyError) and error.args:  # a table of transformers has no such entry
        value = error.args[0]
        key = next((key for key, found in _entries(settings or {}) if found == value), None)
        what = f" has no {value!r:.80}" if key is None else f": {key} has the unknown value {value!r:.80}"
        return f"config.json{what}. {_OTHER}"
    if isinstance(error, AssertionError) and "Padding_idx" in str(error):
        return "config.json: pad_token_id: expected less than vocab_size. Set it to the id of a token, or to null"
    plain = isinstance(error, ValueError | OSError | RuntimeError) and str(error)
    return message_of(error, 300) if plain else described(error)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a Hugging Face folder, one or several shards."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
    return [folder / "model.safetensors"]
