"""Models of many architectures: compared with transformers before a run, resumed, or refused in one line."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from empg.errors import UserError
from empg.policy import attention
from empg.policy.decode import Decoder, Sampling
from empg.policy.load import load_policy
from empg.policy.model import Policy
from empg.policy.trial import check_forward
from empg.recipe import PolicySection

SHAPE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "max_position_embeddings": 64,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "shared_expert_intermediate_size": 32,
}  # fmt: skip
LATENT: dict[str, Any] = {  # keys wider than values
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 12, "head_dim": 8,
}  # fmt: skip
SUPPORTED: dict[str, dict[str, Any]] = {
    "llama": {}, "phi3": {}, "gpt_neox": {}, "doge": {"keep_window_size": 4},
    "mixtral": EXPERTS, "qwen2_moe": EXPERTS, "qwen3_moe": {**EXPERTS, "head_dim": 8}, "olmoe": EXPERTS,
    "phimoe": EXPERTS, "granitemoe": EXPERTS, "glm4_moe": {**EXPERTS, "head_dim": 8},
    "deepseek_v2": {**EXPERTS, **LATENT}, "deepseek_v3": {**EXPERTS, **LATENT},
}  # fmt: skip
OLDER = tuple(map(int, version("transformers").split(".")[:2])) < (5, 24)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "llama4_text": ({**EXPERTS, "intermediate_size_mlp": 32}, "does not run with this trainer's KV cache"),
    "gemma2": ({"head_dim": 8}, "needs a special kind of attention"),
    "gpt_oss": (EXPERTS, "needs a special kind of attention"),
    "jamba": (EXPERTS, "linear_attention|mamba layers|does not run with this trainer's KV cache"),  # by version
    "cohere": ({"logit_scale": 0.1}, "caps or scales its logits"),
}


def make(kind: str, more: dict[str, Any], seed: int = 0) -> Any:
    """A random model whose tokens differ much in probability."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SHAPE, **more})).eval()
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.15)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def policy_of(model: Any) -> Policy:
    return Policy(model, None, torch.device("cpu"))


@pytest.mark.parametrize("kind", SUPPORTED)
def test_an_architecture_is_sampled_as_transformers_computes_it(kind: str) -> None:
    policy = policy_of(make(kind, SUPPORTED[kind]))
    if kind == "doge" and OLDER:  # its attention bias does not reach an attention function there
        with pytest.raises(UserError, match="differ from transformers' own"):
            check_forward(policy, attention.NAME, kind)
        return
    check_forward(policy, attention.NAME, kind)
    rows = torch.randint(5, 290, (2, 16), generator=torch.Generator().manual_seed(1)).tolist()
    decoder = Decoder(policy, 2, 16, Sampling())
    decoder.prefill([0, 1], [rows[0][:9], rows[1][:5]])
    ours = decoder.prefill([0, 1], [rows[0][9:], rows[1][5:11]])
    policy.model.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = [policy.model(torch.tensor([row])).logits[0, -1] for row in (rows[0], rows[1][:11])]
    torch.testing.assert_close(ours, torch.stack(theirs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_weights_that_were_saved_are_loaded_again_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    saved, other = (policy_of(make(kind, SUPPORTED[kind], seed)) for seed in (0, 1))
    saved.model.save_pretrained(tmp_path)
    before = next(iter(other.parameters))
    other.load_weights(tmp_path)
    assert next(iter(other.parameters)) is before  # the optimizer's own
    for (name, wanted), found in zip(saved.model.named_parameters(), other.parameters, strict=True):
        assert torch.equal(found, wanted), name


@pytest.mark.parametrize("kind", REFUSED)
def test_an_architecture_that_is_not_supported_is_one_line(kind: str, policy: Policy, tmp_path: Path) -> None:
    if kind == "gemma2" and OLDER:
        pytest.skip("older transformers do not refuse its soft cap, and random weights are too small to show it")
    more, reason = REFUSED[kind]
    make(kind, {**more, "vocab_size": 400}).save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=reason) as caught:
        load_policy(PolicySection(model=str(tmp_path), device="cpu"))
    assert "\n" not in str(caught.value)


def test_attention_that_differs_from_the_model_s_own_is_refused() -> None:
    def shifted(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        return sdpa_attention_forward(module, query, key, value, mask, **{**kwargs, "scaling": 0.1})

    AttentionInterface.register("empg_shifted", shifted)
    policy = policy_of(make("llama", {}))
    with pytest.raises(ValueError, match=r"^policy\.model=m: the log-probabilities of LlamaForCausalLM differ .*nats"):
        check_forward(policy, "empg_shifted", "m")
