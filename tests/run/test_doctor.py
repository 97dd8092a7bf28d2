"""What the doctor finds, and how near its estimates of memory come to what is used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import normalizers

from empg.environments.webshop import WebShopEnv, recording
from empg.learner.checkpoint import Checkpoints
from empg.learner.update import make_optimizer
from empg.policy.load import load_policy
from empg.recipe import Recipe, parse_recipe
from empg.run.build import resolve
from empg.run.doctor import Finding, check, check_inputs, environments
from empg.run.footprint import checkpoint_bytes, footprint, model_shape
from tests.environments.webshop.test_recording import shop_for
from tests.packages import ECHO, importable, install_lamproom

SHAPE = {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate_size": 64, "vocab_size": 400}


def recipe(**changes: Any) -> Recipe:
    base: dict[str, Any] = {
        "policy": {"model": "tiny", "tiny": SHAPE},
        "warm_start": {},
        "environment": {"options": {"rooms": "small"}},
        "evaluation": {"episodes": 10},
        "rollout": {"groups": 4, "group_size": 4, "max_episode_tokens": 512},
    }
    for section, values in changes.items():
        base[section] = {**base.get(section, {}), **values} if isinstance(values, dict) else values
    return parse_recipe(base)


def found(findings: list[Finding], word: str) -> Finding:
    """The one finding whose text holds a word."""
    (only,) = [finding for finding in findings if word in finding.text]
    return only


class TestFindings:
    def test_a_recipe_that_can_run(self) -> None:
        findings = check(recipe())
        assert {f.level for f in findings} <= {"ok", "warn"}
        assert found(findings, "memory").level == "ok"
        assert found(findings, "work:").text.endswith("100 iterations of 16 episodes, at most 8 k tokens each")

    def test_every_complaint_has_a_remedy(self) -> None:
        poor = recipe(
            environment={"options": {"games": "/nowhere"}},
            policy={"device": "cuda:99"},
            rollout={"max_turn_tokens": 4096},
            workers=4,
        )
        findings = check(poor)
        assert sum(f.level == "fail" for f in findings) >= 5
        assert all(f.remedy for f in findings if f.level != "ok")

    def test_missing_games_are_named(self) -> None:
        finding = found(check(recipe(environment={"options": {"games": "/nowhere"}})), "alfworld, train")
        assert finding.level == "fail"
        assert "/nowhere/train" in finding.text

    def test_a_panel_longer_than_its_split(self) -> None:
        finding = found(check(recipe(evaluation={"splits": ["valid_seen"], "episodes": 5000})), "valid_seen")
        assert (finding.level, finding.text) == (
            "warn",
            "environment alfworld, valid_seen: 1000 tasks, fewer than evaluation.episodes=5000",
        )

    @pytest.mark.parametrize("device", ["cuda:99", "toaster", "meta", "mps", "xla", "hpu", "vulkan", "fpga:1", "cpu:x"])
    def test_a_device_that_does_not_exist(self, device: str) -> None:
        assert found(check(recipe(policy={"device": device})), f"policy.device={device}").level == "fail"

    @pytest.mark.parametrize(("workers", "free", "level"), [(2, 8 << 30, "ok"), (2, 1 << 20, "fail"), (4, 8 << 30, "")])
    def test_each_worker_has_a_gpu_with_enough_memory(
        self, monkeypatch: pytest.MonkeyPatch, workers: int, free: int, level: str
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        memory = {0: (8 << 30, 8 << 30), 1: (free, free)}
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: memory[device.index])
        findings = check(recipe(workers=workers))
        device = found(findings, "device:" if level else "workers: expected at most 2, one per CUDA device, got 4")
        assert device.level == ("ok" if level else "fail")
        assert [(f.level, " per device (" in f.text) for f in findings if "memory:" in f.text] == (
            [(level, True)] if level else []
        )

    def test_a_model_that_must_be_downloaded(self) -> None:
        findings = check(recipe(policy={"model": "somebody/some-model"}))
        assert found(findings, "somebody/some-model is not on this machine").level == "warn"
        assert found(findings, "memory: unknown").level == "warn"

    def test_a_model_that_is_not_here_leaves_the_date_open_and_downloads_nothing(self) -> None:
        before = recipe(policy={"model": "somebody/some-model"})
        assert resolve(before, local=True) == before

    @pytest.mark.parametrize("name", ["no/such/thing", "a model"])
    def test_a_model_that_can_be_nothing(self, name: str) -> None:
        assert found(check(recipe(policy={"model": name})), name).level == "fail"

    def test_a_file_in_place_of_a_model_or_of_the_run_folder(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.touch()
        assert found(check(recipe(policy={"model": str(file)})), f"policy.model={file} is a file").level == "fail"
        assert found(check(recipe(), file), f"run: {file} is a file, not a folder").level == "fail"

    def test_a_folder_that_is_not_a_model_folder(self, tmp_path: Path) -> None:
        assert "config.json is missing" in found(check(recipe(policy={"model": str(tmp_path)})), str(tmp_path)).text

    def test_a_model_without_its_weights(self, tmp_path: Path) -> None:
        policy = load_policy(recipe().policy, ["a b c"])
        policy.save(tmp_path)
        assert found(check(recipe(policy={"model": str(tmp_path)})), str(tmp_path)).level == "ok"
        (tmp_path / "model.safetensors").unlink()
        finding = found(check(recipe(policy={"model": str(tmp_path)})), str(tmp_path))
        assert (finding.level, "model.safetensors is missing" in finding.text) == ("fail", True)
        assert finding.remedy == "download it again"
        (tmp_path / "pytorch_model.bin").touch()
        assert "convert" in found(check(recipe(policy={"model": str(tmp_path)})), str(tmp_path)).remedy

    def test_episodes_longer_than_the_model_supports(self, tmp_path: Path) -> None:
        load_policy(recipe().policy, ["a b c"]).save(tmp_path)
        longer = recipe(policy={"model": str(tmp_path)}, rollout={"max_episode_tokens": 4096})
        finding = found(check(longer), "max_episode_tokens")
        assert (finding.level, finding.remedy) == ("fail", "set rollout.max_episode_tokens=2048")

    def test_episodes_longer_than_a_sliding_window(self, tmp_path: Path) -> None:
        load_policy(recipe().policy, ["a b c"]).save(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        windowed = {**config, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 256}
        (tmp_path / "config.json").write_text(json.dumps(windowed))
        finding = found(check(recipe(policy={"model": str(tmp_path)})), "sliding window")
        assert (finding.level, finding.remedy) == ("fail", "set rollout.max_episode_tokens=256")

    def test_a_tokenizer_and_its_chat_template_are_checked(self, tmp_path: Path) -> None:
        load_policy(recipe().policy, ["a b c"]).save(tmp_path)
        at_hand = recipe(policy={"model": str(tmp_path)})
        assert found(check(at_hand), "chat template").level == "ok"
        (tmp_path / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}")
        finding = found(check(at_hand), "chat template")
        assert (finding.level, "drops, repeats or reorders" in finding.text) == ("fail", True)
        (tmp_path / "tokenizer.json").write_text("{")
        assert any(f.level == "fail" and str(tmp_path) in f.text for f in check(at_hand))

    def test_a_turn_is_written_and_read_with_the_template_of_the_model(self, tmp_path: Path) -> None:
        policy = load_policy(recipe().policy, ["a b c"])
        opened = policy.tokenizer.chat_template.replace("<|assistant|>{%", "<|assistant|><think>\n{%")
        assert opened != policy.tokenizer.chat_template
        policy.tokenizer.chat_template = opened
        policy.save(tmp_path)
        folder = {"model": str(tmp_path)}
        assert found(check(recipe(policy=folder)), "chat template").level == "ok"
        unknown = recipe(policy=folder, agent={"template_arguments": {"enable_thinking": False}})
        assert found(check(unknown), "agent.template_arguments").level == "fail"
        policy.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("<", " ")
        policy.save(tmp_path)
        assert found(check(recipe(policy=folder)), "cannot write turns of the form react").level == "fail"

    def test_a_function_that_cannot_be_imported(self) -> None:
        finding = found(check(recipe(credit={"process_reward": "no_such_module:f"})), "process_reward")
        assert (finding.level, "No module named" in finding.text) == ("fail", True)
        known = found(check(recipe(credit={"process_reward": "builtins:list"})), "process r")
        assert known.level == "ok"

    @pytest.mark.parametrize("model", ["tiny", "folder"])
    def test_an_adapter_of_a_layer_that_does_not_exist(self, model: str, tmp_path: Path) -> None:
        load_policy(recipe().policy, ["a b c"]).save(tmp_path)
        name = model if model == "tiny" else str(tmp_path)
        lora = {"target_modules": ["q_proj", "c_attn"]}
        finding = found(check(recipe(policy={"model": name, "lora": lora})), "no linear layer")
        wanted = (
            "policy.lora.target_modules: no linear layer is named 'c_attn'; expected q_proj, k_proj, v_proj, o_proj,"
        )
        assert finding.level == "fail"
        assert finding.text.startswith(wanted)

    def test_the_token_limit_is_per_turn_in_per_turn_history(self) -> None:
        turns = recipe(agent={"history": "per_turn"})
        assert found(check(turns), "work:").text.endswith("16 episodes, at most 512 tokens per turn")

    def test_slow_games_in_one_process(self) -> None:
        slow = {"options": {"backend": "textworld"}}
        finding = found(check(recipe(environment=slow)), "cores")
        assert (finding.level, "environment.workers=" in finding.remedy) == ("warn", True)
        assert "textworld" not in found(check(recipe(environment={**slow, "workers": 1})), "cores").text

    def test_what_a_warm_start_imitates_must_be_there(self, tmp_path: Path) -> None:
        with importable(tmp_path):
            (tmp_path / "echoing.py").write_text(ECHO)
            echo = {"id": "echoing:Echo-v0", "options": {"rounds": 3}}
            text = "environment echoing:Echo-v0, train: "
            lacking = found(check(recipe(environment=echo)), text)
            assert lacking.level == "fail"
            assert lacking.text.endswith("echoing:Echo-v0 has no expert, which warm_start and --expert need")
            assert lacking.remedy == "leave out warm_start and set policy.model to a pretrained model"
            no_words = found(check(recipe(environment=echo, warm_start=None)), text)
            assert "policy.model=tiny takes its vocabulary from the play of an expert" in no_words.text
            assert no_words.remedy == "set policy.model to a pretrained model"
            pretrained = {"model": "somebody/some-model"}
            imitating = found(check(recipe(environment=echo, policy=pretrained)), text)
            assert (imitating.level, imitating.remedy) == ("fail", "leave out warm_start")
            loaded = recipe(environment=echo, warm_start=None, policy=pretrained)
            assert found(check(loaded), text).level == "ok"

    @pytest.mark.parametrize(
        ("environment", "evaluation", "split", "remedy"),
        [
            ({"train_split": "training"}, {}, "training", "set environment.train_split to what this environment has"),
            ({}, {"splits": ["test"]}, "test", "set evaluation.splits to what this environment has"),
            (
                {"options": {"games": "/nowhere"}},
                {"splits": ["valid_seen"]},
                "valid_seen",
                "fix environment.id, environment.options or evaluation.splits",
            ),
        ],
    )
    def test_the_remedy_names_the_key_of_a_split(
        self, environment: dict[str, Any], evaluation: dict[str, Any], split: str, remedy: str
    ) -> None:
        finding = found(check(recipe(environment=environment, evaluation=evaluation)), f"alfworld, {split}: ")
        assert (finding.level, finding.remedy) == ("fail", remedy)

    @pytest.mark.parametrize(
        ("id_", "said"),
        [("Flooded", "RuntimeError: the pump failed"), ("Needy", "DependencyNotInstalled: pip install it")],
    )
    def test_an_environment_that_raises_is_a_finding(self, id_: str, said: str, tmp_path: Path) -> None:
        with importable(tmp_path):
            (tmp_path / "echoing.py").write_text(ECHO)
            broken = recipe(environment={"id": f"echoing:{id_}-v0", "options": {}}, warm_start=None)
            finding = found(check(broken), f"environment echoing:{id_}-v0, train: ")
        assert finding.level == "fail"
        assert finding.text.endswith(said)

    def test_so_must_the_expert_of_every_task_that_is_imitated(self, tmp_path: Path) -> None:
        hops = {"title": "Dunmere", "text": "The mayor of Dunmere is Ada Thorn."}
        chain = {
            "id": "2hop__1", "question": "Who is the mayor of Dunmere?", "answer": "Ada Thorn",
            "paragraphs": [{"idx": 0, "title": hops["title"], "paragraph_text": hops["text"], "is_supporting": True}],
            "question_decomposition": [{"id": 1, "question": "mayor", "answer": "Ada", "paragraph_support_idx": 0}],
        }  # fmt: skip
        (tmp_path / "musique.jsonl").write_text(
            "\n".join(json.dumps({**chain, "question": f"Who is mayor {n}?"}) for n in range(3))
        )
        (tmp_path / "nq.jsonl").write_text(json.dumps({"question": "Who?", "golden_answers": ["she"]}))
        corpus = tmp_path / "corpus.jsonl"
        corpus.write_text(json.dumps({"id": "1", **hops}))
        files = [str(tmp_path / "musique.jsonl"), str(tmp_path / "nq.jsonl")]
        (tmp_path / "dev.jsonl").write_text(json.dumps({"question": "When?", "golden_answers": ["then"]}))
        questions = {"train": files, "dev": str(tmp_path / "dev.jsonl")}
        options = {"data": {"questions": questions, "corpus": str(corpus)}}
        asked = {"environment": {"id": "deepsearch", "options": options}, "evaluation": {"splits": ["dev"]}}
        model = {"policy": {"model": "somebody/some-model"}}
        finding = found(check(parse_recipe({**asked, **model, "warm_start": {"episodes": 10}})), "deepsearch, train")
        assert (finding.level, "has no gold chain" in finding.text) == ("fail", True)
        assert "deepsearch, train: task 3: question" in finding.text
        assert (
            found(check(parse_recipe({**asked, **model, "warm_start": {"episodes": 3}})), "deepsearch, train").level
            == "ok"
        )
        assert found(check(parse_recipe({**asked, **model})), "deepsearch, train").level == "ok"

    def test_a_long_preparation_is_only_estimated(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        options = {"pages": 6_000, "cache": str(tmp_path / "cache")}
        large = parse_recipe(
            {"environment": {"id": "deepsearch", "options": options}, "policy": {"tiny": SHAPE}, "warm_start": {}}
        )
        monkeypatch.setattr(environments, "LONG", 0.0)
        findings = check(large)
        finding = found(findings, "index of 6,000 passages, bm25: ")
        assert (finding.level, finding.remedy) == ("warn", "the first run waits for it")
        rate = " passages per second, measured on 2,000: about "
        for part in (rate, f"free disk at {options['cache']}", "free memory"):
            assert part in finding.text
        assert not (tmp_path / "cache").exists()
        assert found(findings, "environment deepsearch, train: ").level == "ok"
        monkeypatch.undo()
        assert found(check(large), "index of 6,000 passages").level == "ok"
        assert not [f for f in check(large) if "passages" in f.text]  # it is built now

    def test_recorded_episodes_are_played(self, tmp_path: Path) -> None:
        shop, path = WebShopEnv("train", products=200), tmp_path / "visits.jsonl"
        recording.append(path, [shop_for(shop, 2), shop_for(shop, 5)])

        def recorded(environment: dict[str, Any], recordings: Path) -> Finding:
            sections = {"environment": environment, "warm_start": {"recordings": str(recordings)}}
            return next(one for one in check(parse_recipe(sections)) if "recordings" in one.text + one.remedy)

        shop_of = {"id": "webshop", "options": {"products": 200}}
        assert recorded(shop_of, path) == Finding("ok", f"recordings: 2 episodes in {path}")
        missing = recorded(shop_of, tmp_path / "none.jsonl")
        assert (missing.level, missing.remedy) == ("fail", "fix warm_start.recordings, or remove the key")
        assert "none.jsonl is neither a file nor a folder" in missing.text
        other = recorded({**shop_of, "options": {"products": 300}}, path)
        assert other.level == "fail"
        assert f"{path}, line 1: " in other.text
        assert "this environment has no recordings" in recorded({"id": "alfworld"}, path).text

    def test_an_index_too_large_for_the_disk(self, tmp_path: Path) -> None:
        options = {"products": 10**12, "cache": str(tmp_path)}
        finding = found(check(parse_recipe({"environment": {"id": "webshop", "options": options}})), "products")
        assert finding.level == "fail"
        assert finding.remedy == f"free disk space at {tmp_path}, or set environment.options.cache"

    def test_so_must_an_expert_that_can_stop_early(self, tmp_path: Path) -> None:
        with importable(tmp_path):
            install_lamproom(tmp_path)
            lamps = {"environment": {"id": "lamproom"}, "policy": {"tiny": SHAPE}, "warm_start": {"early_stop": 0.1}}
            finding = found(check(parse_recipe(lamps)), "environment lamproom, train")
            assert (finding.level, "this environment cannot stop early" in finding.text) == ("fail", True)
            assert finding.remedy == "set warm_start.early_stop=0"

    def test_the_expert_of_the_warm_start_is_that_of_its_own_options(self) -> None:
        damaged = {"games": "/nowhere", "backend": "python"}
        data = {"environment": {"id": "alfworld"}, "policy": {"tiny": SHAPE}, "warm_start": {"options": damaged}}
        finding = found(check(parse_recipe(data)), "environment alfworld, train")
        assert (finding.level, "/nowhere" in finding.text) == ("fail", True)

    def test_a_model_too_large_for_this_machine(self) -> None:
        huge = {**SHAPE, "hidden_size": 16384, "intermediate_size": 65536, "layers": 100}
        findings = check(recipe(policy={"tiny": huge}))
        assert found(findings, "memory").level == "fail"
        assert "smaller model" in found(findings, "memory").remedy
        assert found(findings, "disk").level == "fail"

    def test_the_checkpoints_of_a_run_make_room_for_those_of_its_continuation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        need = checkpoint_bytes(model_shape(recipe()), recipe())
        free = shutil.disk_usage(tmp_path)._replace(free=need // 2)
        monkeypatch.setattr(shutil, "disk_usage", lambda place: free)
        finding = found(check(recipe(), tmp_path), "disk")
        assert (finding.level, finding.text.endswith(f"free at {tmp_path}")) == ("fail", True)
        for name in ("start", "iter-000010", "mine"):
            (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / "mine" / "weights").write_bytes(bytes(need))
        assert found(check(recipe(), tmp_path), "disk").level == "fail"
        (tmp_path / "checkpoints" / "start" / "weights").write_bytes(bytes(need // 4))
        (tmp_path / "checkpoints" / "iter-000010" / "weights").write_bytes(bytes(need // 4 + 1))
        finding = found(check(recipe(), tmp_path), "disk")
        assert (finding.level, finding.text.endswith(" in those that are there")) == ("warn", True)

    def test_a_warm_start_needs_to_know_its_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def homeless(cls: type[Path]) -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", classmethod(homeless))
        finding = found(check_inputs(recipe(), Path()), "the cache folder is unknown: ")
        assert (finding.level, finding.remedy) == ("fail", "Set XDG_CACHE_HOME")
        assert not [f for f in check_inputs(recipe(warm_start=None), Path()) if "the cache folder" in f.text]

    def test_a_cache_too_large_for_this_machine(self) -> None:
        slots = {"slots": 10**9, "groups": 10**6, "group_size": 10**3}
        assert "rollout.slots" in found(check(recipe(rollout=slots)), "memory").remedy

    def test_more_workers_than_cores(self) -> None:
        findings = check(recipe(workers=512, rollout={"groups": 512}))
        assert found(findings, "cores").level == "warn"


class TestEstimates:
    def test_the_shape_is_that_of_the_real_model(self) -> None:
        policy = load_policy(recipe().policy, ["the mug is in the cabinet"] * 3)
        shape = model_shape(recipe())
        words = len(policy.tokenizer)  # of so little text, fewer than `vocab_size`
        real = sum(p.numel() for p in policy.parameters)
        assert shape.parameters == real + (shape.vocab - words) * shape.hidden
        assert shape.trainable == shape.parameters

    @pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
    def test_adapters_train_as_many_parameters_as_peft_makes(self, targets: Any) -> None:
        with_lora = recipe(policy={"lora": {"r": 4, "target_modules": targets}})
        policy = load_policy(with_lora.policy, ["a b c"])
        assert model_shape(with_lora).trainable == sum(p.numel() for p in policy.parameters)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_adapters_are_counted_in_float32_and_their_reference_takes_nothing(self, dtype: str) -> None:
        def parts(**changes: Any) -> Any:
            policy = {"lora": {"r": 4}, "dtype": dtype}
            made = recipe(**{"policy": policy, "loss": {"kl_coef": 0.1}, "warm_start": None, **changes})
            return footprint(model_shape(made), made, on_cpu=True)

        trainable = model_shape(recipe(policy={"lora": {"r": 4}})).trainable
        assert (parts().gradients, parts().optimizer) == (4 * trainable, 8 * trainable)
        assert parts().weights == parts(loss={}).weights
        copied = {"policy": {"dtype": dtype}, "loss": {"kl_coef": 0.1}}
        assert parts(**copied).weights == 2 * parts(**{**copied, "loss": {}}).weights
        assert parts(warm_start={}).weights == 2 * parts().weights  # its reference is not the model without adapter

    def test_memory_of_a_prefill_is_bounded_by_the_ids_of_a_pass(self) -> None:
        def rollout(**optimizer: Any) -> int:
            shape = {**SHAPE, "hidden_size": 1024, "intermediate_size": 4096}
            made = recipe(policy={"tiny": shape}, optimizer=optimizer, rollout={"max_episode_tokens": 2048})
            return footprint(model_shape(made), made, on_cpu=False).rollout

        small, large = rollout(micro_batch_tokens=1024), rollout(micro_batch_tokens=4096)
        per_id = 6 * 1024 * 4 + (2 * (2 + 1) * 512 + 4 * 4096) * 4  # activations of one layer
        assert large - small == 3072 * (per_id + 2048 * (1 + 4))  # and a mask, as one byte and as a float32
        assert rollout(micro_batch_tokens=1 << 30) - large == (16 * 2048 - 4096) * (per_id + 2048 * 5)
        assert rollout(micro_batch_tokens=1024, autocast=True) < small  # keys and values have two bytes

    def test_checkpointing_takes_less_memory(self) -> None:
        deep = {"policy": {"tiny": {**SHAPE, "layers": 32}}}
        kept, recomputed = (
            footprint(model_shape(made), made, on_cpu=False)
            for made in (recipe(**deep), recipe(**deep, optimizer={"gradient_checkpointing": True}))
        )
        assert recomputed.update < 0.5 * kept.update
        assert recomputed.rollout == kept.rollout

    def test_checkpoints_take_the_disk_that_was_foreseen(self, tmp_path: Path) -> None:
        policy = load_policy(recipe().policy, ["the mug is in the cabinet"] * 3)
        optimizer = make_optimizer(policy, recipe().optimizer)
        torch.stack([p.sum() for p in policy.parameters]).sum().backward()
        optimizer.step()
        saved = Checkpoints(tmp_path).save("iter-000000", policy, optimizer, {})
        tensors = sum(file.stat().st_size for file in saved.glob("*.safetensors"))
        one = checkpoint_bytes(model_shape(recipe()), recipe(keep_checkpoints=2)) - checkpoint_bytes(
            model_shape(recipe()), recipe(keep_checkpoints=1)
        )
        assert 0.8 < one / tensors < 1.25


# A process's peak memory, after the phase that is named in its arguments. Its model is large enough to stand out.
MEASURE = """
import json, resource, sys
import torch
from empg.learner.update import make_optimizer
from empg.policy.decode import Decoder, Sampling
from empg.policy.layers import training_layers
from empg.policy.load import load_policy
from empg.policy.scoring import score_tokens
from empg.recipe import parse_recipe

phase, recipe = sys.argv[1], parse_recipe(json.loads(sys.argv[2]))
policy = load_policy(recipe.policy, [f"go to fridge {n}" for n in range(2000)])
length, slots = recipe.rollout.max_episode_tokens, list(range(recipe.rollout.slots))
words = len(policy.tokenizer)
if phase == "update":
    optimizer = make_optimizer(policy, recipe.optimizer)
    rows = recipe.optimizer.micro_batch_tokens // length
    for _ in range(2):
        where = torch.arange(rows).repeat_interleave(length - 1), torch.arange(1, length).repeat(rows)
        with training_layers(policy, recomputed=recipe.optimizer.gradient_checkpointing, compiled=False):
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.optimizer.autocast):
                logprobs, _ = score_tokens(policy, torch.randint(words, (rows, length)), *where)
            (-logprobs.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
else:
    decoder = Decoder(policy, len(slots), length, Sampling(), pass_tokens=recipe.optimizer.micro_batch_tokens)
    decoder.prefill(slots, [torch.randint(words, (256,)).tolist() for _ in slots])
    decoder.lengths[:] = length - 2
    decoder.advance(slots, [1] * len(slots))
    decoder.advance(slots[::2], [1] * len(slots[::2]))
if sys.platform == "darwin":
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
else:  # there ru_maxrss begins with what the process that started this one had
    told = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(int(told["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "heads", "length", "optimizer"),
    [
        ("update", 4, 1024, {}),
        ("update", 16, 2048, {}),  # the own passes keep the weights of attention
        ("update", 4, 512, {"gradient_checkpointing": True, "micro_batch_tokens": 8192}),
        ("update", 4, 512, {"autocast": "auto"}),
        ("rollout", 4, 1024, {}),
    ],
)
def test_memory_is_foreseen_within_a_factor_of_two(
    phase: str, heads: int, length: int, optimizer: dict[str, Any]
) -> None:
    shape = {
        "hidden_size": 256,
        "layers": 6,
        "heads": heads,
        "kv_heads": 4,
        "intermediate_size": 512,
        "vocab_size": 400,
    }
    measured = {
        "policy": {"model": "tiny", "tiny": shape},
        "rollout": {"slots": 48, "max_episode_tokens": length},
        "optimizer": {"micro_batch_tokens": 2048, **optimizer},
    }
    made = resolve(parse_recipe(measured))  # emulated bfloat16 can take more than is foreseen
    command = [sys.executable, "-c", MEASURE, phase, made.model_dump_json()]
    # What the allocator keeps differs from run to run: the least of three is what the work takes.
    told = [subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout for _ in range(3)]
    used = min(map(int, told))
    parts = footprint(model_shape(made), made, on_cpu=True)
    stays = parts.weights + (parts.gradients + parts.optimizer if phase == "update" else 0)
    above = used - parts.process
    assert 0.5 < (stays + getattr(parts, phase)) / above < 2.0


# A whole run in one process. It prints what was foreseen, and the peak of each iteration with what came before it.
WORKER = """
import json, sys
from pathlib import Path
from empg.recipe import parse_recipe
from empg.run import train
from empg.run.build import resolve
from empg.run.footprint import footprint, model_shape

recipe, peaks, release = resolve(parse_recipe(json.loads(sys.argv[1]))), [], train.release_memory

def measured():
    told = dict(line.split(":", 1) for line in open("/proc/self/status"))
    peaks.append(int(told["VmHWM"].split()[0]) * 1024)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    release()

train.release_memory = measured
train.train(recipe, Path(sys.argv[2]))
print(json.dumps([footprint(model_shape(recipe), recipe, on_cpu=True).total, *peaks]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory a phase took")
def test_a_worker_takes_the_memory_that_was_foreseen_and_no_more_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = {
        "iterations": 3,
        "environment": {"options": {"rooms": "small"}, "max_steps": 6},
        "policy": {"model": "tiny", "tiny": {"kv_heads": 2, "vocab_size": 768}},
        "warm_start": {"episodes": 64},
        "rollout": {"groups": 4, "group_size": 8, "max_turn_tokens": 32, "max_episode_tokens": 512},
        "optimizer": {"autocast": "auto", "micro_batch_tokens": 1024},
        "evaluation": {"splits": ["valid_seen"], "episodes": 32},
    }
    command = [sys.executable, "-c", WORKER, json.dumps(run), str(tmp_path / "run")]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=400).stdout
    foreseen, first, *later = json.loads(out.splitlines()[-1])
    # The peak counts pages of torch's libraries, of which Linux 6.18 maps 0.15 GiB more at once than earlier kernels.
    assert 0.8 < max(first, *later) / foreseen < 1.4
    assert max(later) < 1.1 * first
