"""LoRA: the linear layers that get a low-rank adapter, and the adapter itself (package peft)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from empg.errors import UserError
from empg.recipe import LoraSection


def adapted_layers(model: Any, lora: LoraSection) -> list[Any]:
    """Return the linear layers of a model that get an adapter; GPT-2's are of a class of their own, `Conv1D`.

    `all-linear` means all but the output head. A name means all layers whose path ends with it.

    Raises:
        UserError: there is no layer of a name.
    """
    linear = {path: module for path, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    if lora.target_modules == "all-linear":
        head = model.get_output_embeddings()
        return [module for module in linear.values() if module is not head]
    for name in lora.target_modules:
        if not any(_ends(path, name) for path in linear):
            known = ", ".join(dict.fromkeys(path.split(".")[-1] for path in linear))
            raise UserError(f"policy.lora.target_modules: no linear layer is named {name!r:.80}; expected {known}")
    return [module for path, module in linear.items() if any(_ends(path, name) for name in lora.target_modules)]


def add_adapter(model: Any, lora: LoraSection, seed: int) -> Any:
    """Return the peft wrapper of a model with a new adapter, initialised from `seed`.

    Raises:
        UserError: peft is not installed, or there is no layer of a name.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("policy.lora needs the package peft: pip install 'empg[lora]'") from None

    adapted_layers(model, lora)
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=lora.target_modules)
    with torch.random.fork_rng(devices=[]):  # every worker must start from the same adapter
        torch.manual_seed(seed)
        with warnings.catch_warnings():  # peft 0.21 reads this from transformers 5
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")  # peft then sets it for a Conv1D
            adapter = get_peft_model(model, config)
    # The order of a set depends on hashes, which differ between processes.
    config.target_modules = sorted(config.target_modules or ())
    return adapter


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")
