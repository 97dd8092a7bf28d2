"""A LoRA adapter is initialised from the seed, equally in every process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from empg.errors import UserError
from empg.policy.adapter import adapted_layers, add_adapter
from empg.policy.load import load_policy
from empg.policy.model import Policy
from empg.recipe import LoraSection, PolicySection
from empg.run.footprint import _adapter_parameters

pytest.importorskip("peft")

DIGEST = """
import hashlib, sys
import torch
from empg.policy.load import load_policy
from empg.recipe import LoraSection, PolicySection

torch.manual_seed(int(sys.argv[2]))  # whatever else the process drew before
policy = load_policy(PolicySection(model=sys.argv[1], device="cpu", lora=LoraSection(r=2)), seed=3)
digest = hashlib.sha256()
for parameter in policy.parameters:
    digest.update(parameter.detach().numpy().tobytes())
policy.save(sys.argv[3])
print(digest.hexdigest())
"""


def flat(policy: Policy) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in policy.parameters])


def test_the_seed_makes_the_adapter(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    section = PolicySection(model=str(tmp_path), device="cpu", lora=LoraSection(r=2))
    torch.manual_seed(1)
    first = flat(load_policy(section, seed=4))
    state = torch.random.get_rng_state()
    assert torch.equal(first, flat(load_policy(section, seed=4)))
    assert not torch.equal(first, flat(load_policy(section, seed=5)))
    assert torch.equal(state, torch.random.get_rng_state())  # nobody else's rng are touched


@pytest.mark.filterwarnings("error")
def test_an_adapter_is_made_without_a_warning(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    load_policy(PolicySection(model=str(tmp_path), device="cpu", lora=LoraSection(r=2)))


def test_two_processes_make_and_write_the_same_adapter(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "base")
    digests = []
    for process in ("1", "2"):
        command = [sys.executable, "-c", DIGEST, str(tmp_path / "base"), process, str(tmp_path / process)]
        surroundings = {**os.environ, "PYTHONHASHSEED": process}
        done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True, timeout=120)
        digests.append(done.stdout)
    assert digests[0] == digests[1]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_every_named_layer_must_exist(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    lora = LoraSection(r=2, target_modules=["q_proj", "query"])  # peft would adapt the one and ignore the other
    with pytest.raises(
        UserError, match=r"^policy\.lora\.target_modules: no linear layer is named 'query'; expected q_proj"
    ):
        load_policy(PolicySection(model=str(tmp_path), device="cpu", lora=lora))


def test_an_adapter_is_not_loaded_onto_another_base(policy: Policy, cased_policy: Policy, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    policy.save(base)
    section = PolicySection(model=str(base), device="cpu", lora=LoraSection(r=2))
    load_policy(section).save(adapter)
    load_policy(section).load_weights(adapter)
    shutil.rmtree(base)
    cased_policy.save(base)  # only its tokenizer differs
    other = load_policy(section)
    with pytest.raises(
        UserError, match=r"^policy\.model=.*base has changed since the adapter .*adapter was trained on"
    ):
        other.load_weights(adapter)
    (adapter / "base_model.txt").unlink()  # an adapter of an earlier version
    other.load_weights(adapter)


def test_the_layers_of_gpt2_get_an_adapter() -> None:
    shape = GPT2Config(vocab_size=64, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    model, lora = GPT2LMHeadModel(shape), LoraSection(r=2)
    layers = adapted_layers(model, lora)
    assert [tuple(layer.weight.shape) for layer in layers] == [(8, 24), (8, 8), (8, 32), (32, 8)]
    adapter = add_adapter(model, lora, 0)
    added = sum(weights.numel() for name, weights in adapter.named_parameters() if "lora_" in name)
    assert added == _adapter_parameters(GPT2LMHeadModel(shape), lora) == 2 * (32 + 16 + 40 + 40)
