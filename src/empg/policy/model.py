"""The policy: a Hugging Face causal language model, its tokenizer, and the two things we need of it.

`hidden` runs the decoder (with or without a cache), `logits` turns chosen hidden states into logits; keeping the two
apart is what lets scoring skip the tokens that carry no loss.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from empg.errors import UserError
from empg.policy import attention
from empg.policy.source import load_config, load_model, load_tokenizer, load_weights, require_vocabulary
from empg.policy.tiny import make_model, make_tokenizer
from empg.policy.trial import check_forward
from empg.recipe import PolicySection

disable_progress_bar()  # of weight shards: a run has its own display


@dataclass
class Policy:
    """A causal language model ready to act and to learn.

    `model` is the bare transformers model; with LoRA, `adapter` is the peft wrapper around it, and only the adapter
    trains.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    adapter: Any = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that train."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @cached_property
    def cache_argument(self) -> str:
        """Name of the decoder's argument for the KV cache: `cache` in newer transformers, `past_key_values` before.

        Some models keep the old name for longer, so the signature decides and not the version.
        """
        parameters = inspect.signature(self.model.get_decoder().forward).parameters
        return "cache" if "cache" in parameters else "past_key_values"

    @property
    def ends(self) -> list[int]:
        """Ids with which the model ends a text, as its configuration and its generation configuration say."""
        model, found = self.model, set()
        for source in (getattr(model, "generation_config", None), model.config.get_text_config()):
            ids = getattr(source, "eos_token_id", None)
            found |= set(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
        return sorted(found)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Last hidden states (B, T, hidden) of `input_ids` (B, T).

        Without a mask attention is causal and rows are padded on the right, where nothing real can see the padding.
        """
        output = self.model.get_decoder()(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocabulary) of hidden states (..., hidden), never in less than the weights' precision.

        Under bfloat16 autocast the logits would carry errors of several per cent into the log-probabilities.
        """
        head = self.model.get_output_embeddings()
        with torch.autocast(hidden.device.type, enabled=False):
            return head(hidden.to(head.weight.dtype))  # type: ignore[no-any-return]

    def autocast(self, setting: bool | str) -> torch.autocast:
        """The context of a forward and backward pass under `optimizer.autocast`."""
        enabled = computes_bfloat16(self.device) if setting == "auto" else bool(setting)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def frozen_copy(self) -> Policy:
        """A copy that never trains: the reference of a KL penalty."""
        model = copy.deepcopy(self.model).requires_grad_(False).eval()
        return Policy(model, self.tokenizer, self.device)

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder (weights, configuration, tokenizer, chat template).

        Raises:
            OSError: a file cannot be written (a full disk, say).
        """
        with plain_os_errors():
            (self.adapter or self.model).save_pretrained(folder, safe_serialization=True)
            self.tokenizer.save_pretrained(folder)

    def load_weights(self, folder: Path) -> None:
        """Take the weights of a folder that `save` wrote."""
        if self.adapter is None:
            load_weights(self.model, folder)
            return
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.adapter, load_file(folder / "adapter_model.safetensors"))


@contextlib.contextmanager
def plain_os_errors() -> Iterator[None]:
    """Tell of a write that failed as `OSError`: safetensors and tokenizers have other classes, or none, for it."""
    try:
        yield
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face folder, one or several shards."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
    return [folder / "model.safetensors"]


def load_policy(section: PolicySection, corpus: Iterable[str] | None = None, seed: int = 0) -> Policy:
    """The policy of a recipe.

    `tiny` makes a new model, its tokenizer trained on `corpus`; anything else is a folder or a Hugging Face name. New
    weights (the tiny model's, a LoRA adapter's) are drawn from `seed`.

    Raises:
        UserError: the model cannot be had or cannot be used, with the reason.
    """
    device = resolve_device(section.device)
    if section.model == "tiny":
        if corpus is None:
            raise UserError("policy.model=tiny needs a warm start: its tokenizer is trained on the expert's episodes")
        tokenizer: Any = make_tokenizer(corpus, section.tiny.vocab_size, section.tiny.phrases)
        model: Any = make_model(section.tiny, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, seed)
    else:
        tokenizer, model = _read_model(section.model, _implementation(device))
    model.to(device=device, dtype=getattr(torch, section.dtype)).eval()
    for parameter in model.parameters():
        # Weights read from a file lie where the file put them, and matrix kernels round differently at addresses that
        # are not aligned: a resumed run would not be the same to the last bit.
        parameter.data = parameter.data.clone()
    model.set_attn_implementation(_implementation(device))
    adapter = None
    if section.lora is not None:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise UserError("policy.lora needs peft: pip install 'empg[lora]'") from None

        lora = LoraConfig(r=section.lora.r, lora_alpha=section.lora.alpha, target_modules=section.lora.target_modules)
        with torch.random.fork_rng(devices=[]):  # every worker must begin from the same adapter
            torch.manual_seed(seed)
            adapter = get_peft_model(model, lora)
        # A set is written in the order of its hashes, another one in every process.
        lora.target_modules = sorted(lora.target_modules or ())
        model = adapter.get_base_model()
    return Policy(model, tokenizer, device, adapter)


def _read_model(name: str, implementation: str) -> tuple[Any, Any]:
    """Tokenizer and model of a folder or a Hugging Face name, if they can be used."""
    try:
        config = load_config(name)
    except OSError as error:
        raise UserError(f"policy.model={name}: {' '.join(str(error).split())[:300]}") from None
    require_length(config, 1, name)
    tokenizer = load_tokenizer(name)
    model = load_model(name, config).eval()
    require_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0], name)
    check_forward(Policy(model, tokenizer, torch.device("cpu")), implementation, name)
    return tokenizer, model


def _implementation(device: torch.device) -> str:
    return attention.NAME if device.type == "cpu" else "sdpa"


def longest_context(config: Any) -> int | None:
    """Tokens that a model (its `config`) reads as it would with all of them before its eyes; None without a limit."""
    config = config.get_text_config()
    limits = (getattr(config, "max_position_embeddings", None), _window(config), _original_length(config))
    return min((limit for limit in limits if limit is not None), default=None)


def require_length(config: Any, length: int, name: str) -> None:
    """Refuse contexts of `length` tokens that the model `name` (its `config`) could not read, or would read otherwise.

    The KV cache shows a token all of its context. A sliding window (Mistral, Gemma, Phi-3) or an attention chunk
    (Llama 4) shows it less once the context is longer; up to that length the two are the same.

    Rotary positions of the kind longrope (Phi-3.5, Phi-4-mini) have other factors once the longest row of a forward
    pass is beyond the original length: tokens in the cache would have been read with the factors of shorter texts.

    Raises:
        UserError: in one line, what is too long for what; or layers that keep a state instead of keys and values.
    """
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if unknown := kinds - {"full_attention", "sliding_attention", "chunked_attention"}:
        raise UserError(f"policy.model={name} has layers of the kind {min(unknown)}, which the KV cache cannot hold")
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and length > positions:
        raise UserError(
            f"policy.model={name} reads {positions} tokens; rollout.max_episode_tokens ({length}) must not be more"
        )
    window = _window(config)
    if window is not None and length > window:
        raise UserError(
            f"policy.model={name} attends to the last {window} tokens only (its sliding window); "
            f"rollout.max_episode_tokens ({length}) must not be more"
        )
    original = _original_length(config)
    if original is not None and length > original:
        raise UserError(
            f"policy.model={name} reads {original} tokens before its rotary factors change (longrope); "
            f"rollout.max_episode_tokens ({length}) must not be more"
        )


def _original_length(config: Any) -> int | None:
    """Tokens up to which a model with longrope keeps the factors of short texts; None without longrope."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(config, name, None) or {}
        kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]  # one a kind of layer (Gemma 3)
        for part in kinds:
            if "longrope" in (part.get("rope_type"), part.get("type")):
                original = part.get("original_max_position_embeddings")
                return int(
                    original or getattr(config, "original_max_position_embeddings", config.max_position_embeddings)
                )
    return None


def _window(config: Any) -> int | None:
    """How far back the least far-sighted layer looks, tokens; None if all see everything."""
    kinds = set(getattr(config, "layer_types", None) or ())
    wanted = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    # Without a list of layers (Mistral, Phi-3) a window that is set is that of all.
    names = [wanted[kind] for kind in kinds if kind in wanted] if kinds else ["sliding_window"]
    return min((w for name in names if (w := getattr(config, name, None)) is not None), default=None)


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA device if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 in hardware. Emulated, it is ten times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cpu" and bool(supported)
