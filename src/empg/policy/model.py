"""The policy: a Hugging Face causal language model with its tokenizer, as two functions.

`hidden` runs the decoder, with or without a cache. `logits` computes logits from selected hidden states. Because the
two are separate, scoring can skip tokens that do not enter the loss.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from empg.errors import UserError
from empg.policy.device import computes_bfloat16
from empg.policy.llama.weights import is_small_llama
from empg.policy.source import load_weights

BASE = "base_model.txt"  # in the folder of an adapter: the fingerprint of the model that it was trained on

disable_progress_bar()  # the progress bar of weight shards; a run has its own display


@dataclass
class Policy:
    """A causal language model for sampling and training.

    `model` is the bare transformers model; with LoRA, `adapter` is the peft wrapper around it, and only the adapter
    is trained. `base` is then the `fingerprint` of the model without the adapter; None means unknown. `recomputed` says
    whether passes with gradients keep only the inputs of each layer, `compiled` whether layers and scores are compiled;
    `training_layers` sets both.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    adapter: Any = None
    base: str | None = None
    recomputed: bool = False
    compiled: bool = False

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @cached_property
    def cache_argument(self) -> str:
        """Name of the decoder's argument for the KV cache: `cache` in newer transformers, `past_key_values` before.

        Some models keep the old name for longer, so the signature decides and not the version.
        """
        parameters = inspect.signature(self.model.get_decoder().forward).parameters
        return "cache" if "cache" in parameters else "past_key_values"

    @cached_property
    def is_small_llama(self) -> bool:
        """Whether this package's own passes compute the model (`policy/llama/`)."""
        return self.adapter is None and is_small_llama(self.model)

    @property
    def own_passes(self) -> bool:
        """Whether this package's own passes compute the model here and now: they are in float32, not under autocast."""
        return self.is_small_llama and not torch.is_autocast_enabled("cpu")

    @property
    def ends(self) -> list[int]:
        """The ids that end a text according to the model's configuration and generation configuration."""
        model, found = self.model, set()
        for source in (getattr(model, "generation_config", None), model.config.get_text_config()):
            ids = getattr(source, "eos_token_id", None)
            found |= set(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
        return sorted(found)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the last hidden states (B, T, hidden) of `input_ids` (B, T).

        Without a mask, attention is causal and rows are padded on the right, so real tokens never attend to padding.
        """
        output = self.model.get_decoder()(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits (..., vocabulary) of hidden states (..., hidden), in at least the precision of the weights.

        Under bfloat16 autocast, the log-probabilities would have errors of several per cent.
        """
        head = self.model.get_output_embeddings()
        with torch.autocast(hidden.device.type, enabled=False):
            return head(hidden.to(head.weight.dtype))  # type: ignore[no-any-return]

    def autocast(self, setting: bool | str) -> torch.autocast:
        """Return the context of a forward pass for `optimizer.autocast`: bfloat16 products of float32 weights."""
        faster = computes_bfloat16(self.device) and not self.is_small_llama  # whose own passes are in float32
        enabled = faster if setting == "auto" else bool(setting)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def keeping_casts(self) -> torch.autocast:
        """Return a context that keeps the bfloat16 copies of trained weights which `autocast` makes, until it ends.

        Nothing else in it is under autocast. The weights must not change meanwhile.
        """
        return torch.autocast(self.device.type, enabled=False)

    def reference(self) -> Policy:
        """Return this policy as it is now, for a KL penalty: it does not change when this one is trained.

        With a new LoRA adapter this is the model without the adapter, which takes no memory. Otherwise it is a copy.
        """
        if self.adapter is None or any(bool(p.any()) for name, p in self.model.named_parameters() if "lora_B" in name):
            return Policy(copy.deepcopy(self.model).requires_grad_(False).eval(), self.tokenizer, self.device)
        return _WithoutAdapter(self.model, self.tokenizer, self.device, self.adapter)

    def save(self, folder: Path) -> None:
        """Write a standard Hugging Face folder (weights, configuration, tokenizer, chat template).

        Raises:
            OSError: a file cannot be written, e.g. because the disk is full.
        """
        with plain_os_errors():
            (self.adapter or self.model).save_pretrained(folder, safe_serialization=True)
            self.tokenizer.save_pretrained(folder)
            if self.base is not None:
                Path(folder, BASE).write_text(self.base)

    def load_weights(self, folder: Path) -> None:
        """Load the weights of a folder that `save` wrote.

        Raises:
            UserError: the weights do not match the model, or an adapter was trained on another base model.
        """
        if self.adapter is None:
            load_weights(self.model, folder)
            return
        self._require_base(folder / BASE)
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.adapter, load_file(folder / "adapter_model.safetensors"))

    def _require_base(self, file: Path) -> None:
        # An adapter of an earlier version has no such file.
        if self.base is not None and file.exists() and file.read_bytes() != self.base.encode():
            raise UserError(
                f"policy.model={self.model.name_or_path} has changed since the adapter {file.parent} was trained on "
                "it. Restore its files, or start a new run"
            )


class _WithoutAdapter(Policy):
    """The model of a LoRA policy with its adapter switched off."""

    def hidden(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        with self.adapter.disable_adapter():
            return super().hidden(input_ids, attention_mask, **kwargs)

    def logits(self, hidden: Tensor) -> Tensor:
        with self.adapter.disable_adapter():
            return super().logits(hidden)


@contextlib.contextmanager
def plain_os_errors() -> Iterator[None]:
    """Raise failed writes as `OSError`; safetensors and tokenizers raise other classes."""
    try:
        yield
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from None
