"""Loading and saving standard Hugging Face folders; one clear line for any other folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from empg.policy.device import computes_bfloat16
from empg.policy.load import load_policy
from empg.policy.model import Policy
from empg.recipe import LoraSection, PolicySection

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def logits(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.logits(policy.hidden(IDS))


def at(folder: Path, **more: object) -> PolicySection:
    return PolicySection(model=str(folder), device="cpu", **more)


def test_transformers_alone_loads_what_we_save(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(theirs(IDS).logits, logits(policy), atol=1e-4, rtol=1e-4)
    assert "empg" not in (tmp_path / "config.json").read_text()  # no attention of ours is asked of other readers
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "<think>a mug</think> 12 ü"
    assert tokenizer.encode(text) == policy.tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.chat_template == policy.tokenizer.chat_template


def test_a_saved_policy_comes_back_bit_for_bit(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    assert torch.equal(logits(load_policy(at(tmp_path))), logits(policy))


def test_a_bfloat16_policy_computes_what_transformers_computes_at_every_position(
    policy: Policy, tmp_path: Path
) -> None:
    policy.save(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    ours = load_policy(at(tmp_path, dtype="bfloat16"))
    ours.model.set_attn_implementation("sdpa")
    ids = torch.randint(5, 300, (1, 500), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours.logits(ours.hidden(ids)), theirs(ids).logits)


def test_a_token_that_pads_and_is_read_has_a_gradient(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    change = json.loads((tmp_path / "config.json").read_text()) | {"pad_token_id": policy.tokenizer.eos_token_id}
    (tmp_path / "config.json").write_text(json.dumps(change))
    loaded = load_policy(at(tmp_path))
    loaded.hidden(torch.tensor([[5, loaded.tokenizer.eos_token_id, 6]])).square().sum().backward()
    gradient = loaded.model.get_input_embeddings().weight.grad
    assert gradient[loaded.tokenizer.eos_token_id].abs().max() > 0


def test_shards_are_put_together(policy: Policy, tmp_path: Path) -> None:
    policy.model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    wanted = logits(policy)
    with torch.no_grad():
        for parameter in policy.parameters:
            parameter.zero_()
    policy.load_weights(tmp_path)
    assert torch.equal(logits(policy), wanted)


def test_weights_of_another_shape_are_rejected(policy: Policy, tiny_section: PolicySection, tmp_path: Path) -> None:
    deeper = tiny_section.model_copy(update={"tiny": tiny_section.tiny.model_copy(update={"layers": 3})})
    load_policy(deeper, ["a mug"]).save(tmp_path)
    with pytest.raises((ValueError, RuntimeError), match=r"weights do not match|size mismatch"):
        policy.load_weights(tmp_path)


def test_the_seed_makes_the_weights(tiny_section: PolicySection) -> None:
    torch.manual_seed(123)
    first = load_policy(tiny_section, ["a mug"], seed=4)
    state = torch.random.get_rng_state()
    again, other = (load_policy(tiny_section, ["a mug"], seed=seed) for seed in (4, 5))
    assert torch.equal(logits(first), logits(again))
    assert not torch.equal(logits(first), logits(other))
    assert torch.equal(state, torch.random.get_rng_state())  # nobody else's rng are touched


def test_embeddings_start_with_the_standard_deviation_of_the_recipe(tiny_section: PolicySection) -> None:
    tiny = tiny_section.tiny.model_copy(update={"embedding_std": 0.08})
    usual = load_policy(tiny_section, ["a mug"]).model.state_dict()
    wide = load_policy(tiny_section.model_copy(update={"tiny": tiny}), ["a mug"]).model.state_dict()
    embeddings = {"model.embed_tokens.weight", "lm_head.weight"}  # one matrix
    assert all(torch.equal(wide[name], weight * (4 if name in embeddings else 1)) for name, weight in usual.items())
    assert wide["model.embed_tokens.weight"].std() == pytest.approx(0.08, rel=0.05)


def test_a_reference_stays_behind(policy: Policy) -> None:
    reference = policy.reference()
    before = logits(reference)
    with torch.no_grad():
        policy.parameters[0].add_(1.0)
    assert torch.equal(logits(reference), before)
    assert reference.parameters == []


@pytest.mark.filterwarnings("ignore:Model with .tie_word_embeddings:UserWarning")  # an earlier peft, of lm_head
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("target", ["q_proj", "lm_head"])
def test_the_reference_of_a_new_adapter_is_the_model_without_it(policy: Policy, tmp_path: Path, target: str) -> None:
    pytest.importorskip("peft")
    policy.save(tmp_path / "base")
    adapted = load_policy(at(tmp_path / "base", lora=LoraSection(r=2, target_modules=[target])))
    reference = adapted.reference()
    assert reference.model is adapted.model  # no second copy in memory
    move(adapted)
    torch.testing.assert_close(logits(reference), logits(load_policy(at(tmp_path / "base"))), atol=0, rtol=0)
    moved = logits(adapted)
    assert not torch.allclose(moved, logits(reference), atol=1e-2)
    assert torch.equal(logits(adapted), moved)  # it is switched on again
    assert all(p.requires_grad for p in adapted.parameters)
    assert len(adapted.parameters) == (4 if target == "q_proj" else 2)


def test_the_reference_of_a_trained_adapter_is_a_copy(policy: Policy, tmp_path: Path) -> None:
    """After a warm start, or in a fork, the run does not start from the model without adapter."""
    pytest.importorskip("peft")
    policy.save(tmp_path / "base")
    adapted = load_policy(at(tmp_path / "base", lora=LoraSection(r=2, target_modules=["q_proj"])))
    move(adapted)
    before = logits(adapted)
    reference = adapted.reference()
    move(adapted, seed=1)
    assert torch.equal(logits(reference), before)
    assert not torch.allclose(logits(adapted), before, atol=1e-2)


def test_adapters_stay_in_float32_beside_bfloat16_weights(policy: Policy, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    policy.save(tmp_path / "base")
    adapted = load_policy(at(tmp_path / "base", lora=LoraSection(r=2), dtype="bfloat16"))
    assert {p.dtype for p in adapted.parameters} == {torch.float32}
    assert {p.dtype for p in adapted.model.parameters() if not p.requires_grad} == {torch.bfloat16}


def move(policy: Policy, seed: int = 0) -> None:
    with torch.no_grad():
        for parameter in policy.parameters:
            parameter.normal_(generator=torch.Generator().manual_seed(seed))


def test_a_new_adapter_changes_nothing_and_is_all_that_trains(policy: Policy, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    policy.save(tmp_path / "base")
    adapted = load_policy(at(tmp_path / "base", lora=LoraSection(r=2)))
    torch.testing.assert_close(logits(adapted), logits(policy), atol=1e-4, rtol=1e-4)
    trained = {name for name, p in adapted.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)


def test_an_adapter_is_saved_alone_and_loaded(policy: Policy, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    policy.save(tmp_path / "base")
    section = at(tmp_path / "base", lora=LoraSection(r=2, target_modules=["q_proj"]))
    adapted = load_policy(section)
    with torch.no_grad():
        for parameter in adapted.parameters:
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    adapted.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter/model.safetensors").exists()
    again = load_policy(section)
    assert not torch.allclose(logits(again), logits(adapted), atol=1e-2)
    again.load_weights(tmp_path / "adapter")
    torch.testing.assert_close(logits(again), logits(adapted))


def test_lora_without_peft_says_what_to_install(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.save(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'empg\[lora\]'"):
        load_policy(at(tmp_path, lora=LoraSection()))


@pytest.mark.parametrize(
    "what", ["missing", "empty", "no_weights", "broken_weights", "broken_config", "broken_tokenizer"]
)
def test_a_folder_without_a_usable_model_is_one_line(policy: Policy, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "model"
    if what != "missing":
        folder.mkdir()
    if what not in ("missing", "empty"):
        policy.save(folder)
    if what == "no_weights":
        (folder / "model.safetensors").unlink()
    if what.startswith("broken"):
        name = {"weights": "model.safetensors", "config": "config.json", "tokenizer": "tokenizer.json"}[what[7:]]
        (folder / name).write_text('{"broken')
    with pytest.raises(ValueError, match=r"^policy\.model=.*model: .{10}") as caught:
        load_policy(at(folder))
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_never_read(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(policy.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"model\.safetensors not found; pickled weights .* convert them") as caught:
        load_policy(at(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_tiny_policy_needs_texts(tiny_section: PolicySection) -> None:
    with pytest.raises(ValueError, match=r"policy\.model=tiny needs a corpus"):
        load_policy(tiny_section)


def test_a_model_that_changes_its_logits_is_rejected(policy: Policy, tmp_path: Path) -> None:
    from transformers import CohereConfig, CohereForCausalLM

    config = CohereConfig(
        vocab_size=len(policy.tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, logit_scale=0.1, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    model = CohereForCausalLM(config)
    with torch.no_grad():
        model.get_parameter("model.embed_tokens.weight").mul_(100.0)
    model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="CohereForCausalLM caps or scales its logits"):
        load_policy(at(tmp_path))


@pytest.mark.parametrize("small_llama", [True, False])
def test_autocast_on_demand_and_where_it_pays(small_llama: bool, policy: Policy) -> None:
    policy.is_small_llama = small_llama  # its own passes are in float32
    weight = torch.randn(8, 8)
    for setting in (True, False, "auto"):
        with policy.autocast(setting):
            computed = (weight @ weight).dtype
        pays = computes_bfloat16(policy.device) and not small_llama
        wanted = pays if setting == "auto" else setting
        assert (computed == torch.bfloat16) is wanted
