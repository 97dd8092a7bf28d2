"""A model from somewhere else: its code never runs, and what is missing or absurd in it is one line."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import MambaConfig

from empg.errors import MissingFileError, UserError
from empg.policy.load import load_policy
from empg.policy.model import Policy
from empg.policy.source import load_config, load_tokenizer, reason, require_vocabulary
from empg.recipe import LoraSection, PolicySection, parse_recipe
from empg.run.doctor import check


def at(folder: Path) -> PolicySection:
    return PolicySection(model=str(folder), device="cpu")


def failures(folder: Path) -> list[str]:
    """What the doctor finds wrong with the model in a folder."""
    recipe = parse_recipe(
        {
            "policy": {"model": str(folder), "device": "cpu"},
            "environment": {"options": {"rooms": "small"}},
            "rollout": {"max_episode_tokens": 512},
        }
    )
    return [f.text for f in check(recipe) if f.level == "fail" and str(folder) in f.text]


def change(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("config.json", {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}),
        ("config.json", {"model_type": "mamba2x", "auto_map": {"AutoConfig": "mine.C"}}),
        ("tokenizer_config.json", {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.T", None]}}),
    ],
)
def test_code_that_a_model_brings_is_never_run_and_never_asked_about(
    policy: Policy, tmp_path: Path, file: str, settings: dict[str, Any]
) -> None:
    policy.save(tmp_path)
    change(tmp_path / file, **settings)
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\nM = T = C\n")
    said = []
    try:  # a tokenizer that transformers has itself may still be usable
        load_policy(at(tmp_path))
    except ValueError as error:
        said.append(str(error))
    if file == "config.json":
        assert "needs its own Python code, which is never executed" in said[0]
        assert failures(tmp_path)
    assert all("\n" not in line for line in [*said, *failures(tmp_path)])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9), ("vocab_size", 10**15), ("hidden_size", 10**12), ("head_dim", 10**10),
        ("num_attention_heads", 10**9), ("intermediate_size", -(10**12)), ("num_hidden_layers", 1e12),
    ],
)  # fmt: skip
def test_absurd_sizes_are_refused_at_once(policy: Policy, tmp_path: Path, key: str, value: float) -> None:
    policy.save(tmp_path)
    change(tmp_path / "config.json", **{key: value})
    began = time.process_time()
    with pytest.raises(ValueError, match=rf"config\.json: {key} is out of range: expected at most .*, got"):
        load_config(str(tmp_path), local=True)
    assert any(key in text for text in failures(tmp_path))
    assert time.process_time() - began < 10


@pytest.mark.parametrize("key", ["shared_expert_intermediate_size", "vocab_size_per_layer_input", "head_dim_total"])
def test_a_size_whose_name_has_other_words_may_be_large(policy: Policy, tmp_path: Path, key: str) -> None:
    policy.save(tmp_path)
    change(tmp_path / "config.json", **{key: 262_144})
    load_config(str(tmp_path), local=True)


@pytest.mark.parametrize(
    ("key", "value"), [("num_attention_heads", 0), ("hidden_size", 33), ("vocab_size", -5), ("hidden_size", "many")]
)
def test_impossible_sizes_are_one_line(policy: Policy, tmp_path: Path, key: str, value: object) -> None:
    policy.save(tmp_path)
    change(tmp_path / "config.json", **{key: value})
    with pytest.raises(ValueError, match=r"^policy\.model=") as caught:
        load_policy(at(tmp_path))
    assert "\n" not in str(caught.value)
    assert all("\n" not in text for text in failures(tmp_path))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pad_token_id": None}, "pad_token_id: expected less than vocab_size"),
        ({"hidden_act": "xielu2"}, "hidden_act has the unknown value 'xielu2'"),
        ({"rope_parameters": {"rope_type": "foo", "rope_theta": 1e4}}, "rope_type has the unknown value 'foo'"),
        ({"vocab_size": 0}, "vocab_size: expected >= 1, got 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: expected >= 1, got 0"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
    ],
)
def test_what_the_configuration_asks_for_is_named(
    policy: Policy, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    policy.save(tmp_path)
    if "pad_token_id" in settings:
        settings = {"pad_token_id": policy.model.config.vocab_size}
    change(tmp_path / "config.json", **settings)
    with pytest.raises(UserError, match=r"^policy\.model=") as caught:
        load_policy(at(tmp_path))
    assert said in str(caught.value)
    assert str(caught.value).count("policy.model=") == 1
    assert any(said in text for text in failures(tmp_path))
    assert all(text.count("policy.model=") == 1 for text in failures(tmp_path))


def test_a_model_without_attention_is_one_line(tmp_path: Path) -> None:
    MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=300).save_pretrained(tmp_path)
    said = r"^policy\.model=.*config\.json: num_attention_heads: expected >= 1, got None"
    with pytest.raises(UserError, match=said):
        load_policy(at(tmp_path))
    assert [text for text in failures(tmp_path) if re.match(said, text)]


def test_an_end_token_that_is_no_id(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": "</s>"}))
    with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id: expected ids of tokens, got '</s>'"):
        load_policy(at(tmp_path))


def test_an_adapter_is_not_a_model(policy: Policy, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    policy.save(base)
    load_policy(PolicySection(model=str(base), device="cpu", lora=LoraSection(r=2))).save(adapter)
    said = (
        rf"^policy\.model={adapter}: it is an adapter of '{base}', not a complete model\. .* --from, .*save_pretrained"
    )
    with pytest.raises(UserError, match=said):
        load_policy(at(adapter))
    assert [text for text in failures(adapter) if re.match(said, text)]
    shutil.copy(adapter / "adapter_config.json", base)
    said = rf"^policy\.model={base}: it has an adapter \(adapter_config\.json\) beside a model\. Remove adapter_config"
    with pytest.raises(UserError, match=said):
        load_policy(at(base))
    assert [text for text in failures(base) if re.match(said, text)]


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_of_shards_is_one_line(policy: Policy, tmp_path: Path, index: str) -> None:
    policy.save(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    [line] = failures(tmp_path)
    assert line.startswith(f"policy.model={tmp_path}: model.safetensors.index.json is damaged")


def test_quantized_weights_are_refused(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    change(tmp_path / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ValueError, match="quantized weights cannot be trained"):
        load_policy(at(tmp_path))


def test_a_missing_output_layer_is_not_filled_with_noise(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    load_policy(at(tmp_path))  # it is the embedding
    change(tmp_path / "config.json", tie_word_embeddings=False)
    weights = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in weights
    with pytest.raises(ValueError, match=r"1 weights are missing, lm_head\.weight among them"):
        load_policy(at(tmp_path))
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"] + 0}, tmp_path / "model.safetensors")
    load_policy(at(tmp_path))


def test_a_tokenizer_larger_than_the_embedding_is_refused_before_the_run(policy: Policy, tmp_path: Path) -> None:
    policy.tokenizer.add_tokens(["brandnew"])
    policy.save(tmp_path)
    said = r"its tokenizer has 1 tokens \('brandnew' is one\) beyond the \d+ rows of its embedding"
    with pytest.raises(ValueError, match=said):
        load_policy(at(tmp_path))
    assert any("beyond the" in text for text in failures(tmp_path))


def test_a_control_token_beyond_the_embedding_that_nothing_writes_does_no_harm(policy: Policy) -> None:
    rows = len(policy.tokenizer)
    policy.tokenizer.add_tokens([AddedToken("[PAD]", special=True)], special_tokens=True)
    require_vocabulary(policy.tokenizer, rows, "m")
    policy.tokenizer.chat_template += "{{ '[PAD]' }}"
    with pytest.raises(ValueError, match="beyond the"):
        require_vocabulary(policy.tokenizer, rows, "m")


def test_every_end_of_the_model_s_configurations_is_known(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    change(tmp_path / "config.json", eos_token_id=7)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 5]}))
    assert load_policy(at(tmp_path)).ends == [3, 5, 7]


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^policy\.model=") as caught:
        load_tokenizer(str(tmp_path), local=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["{}/qwen", "{}/qwne", "./qwen/of/nobody", "../qwen-that-is-not-there", "~/qwen/x"])
def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path, place: str) -> None:
    name = place.format(tmp_path)
    with pytest.raises(MissingFileError, match=f"^policy.model={re.escape(name)}: no such folder$"):
        load_config(name)
    with pytest.raises(UserError, match=f"^policy.model={re.escape(name)}: no such folder$"):
        load_tokenizer(name)


def test_the_folder_that_was_meant_is_named(tmp_path: Path) -> None:
    (tmp_path / "qwen-0.5b").mkdir()
    with pytest.raises(MissingFileError, match=r"/qwen-05b: no such folder; did you mean 'qwen-0.5b'\?$"):
        load_config(f"{tmp_path}/qwen-05b")


def test_a_run_folder_is_not_a_model_folder_but_its_checkpoints_are(tmp_path: Path) -> None:
    for name in ("iter-000010", "iter-000020"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "config.json").write_text("{}")
    for load in (load_config, load_tokenizer):
        with pytest.raises(UserError, match=r"config\.json is missing.*name a checkpoint in it, such as .*20$"):
            load(str(tmp_path))


def test_a_file_is_not_a_model_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(MissingFileError, match=r"it is a file\. Name the folder that has config\.json$"):
        load_config(f"{tmp_path}/model.gguf")


def test_a_name_that_cannot_be_downloaded_says_so() -> None:
    error = OSError("We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in ...")
    assert reason(error) == (
        "it is not on this machine, and huggingface.co cannot be reached. Check the name, or name a folder"
    )


def test_a_policy_that_was_loaded_is_saved_as_it_was(policy: Policy, tmp_path: Path) -> None:
    """So that the checkpoints of a resumed run have the same files as those of one that was never stopped."""
    policy.save(tmp_path / "a")
    load_policy(at(tmp_path / "a")).save(tmp_path / "b")
    files = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert len(files[0]) > 4
    assert files[0] == files[1]
