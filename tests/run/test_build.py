"""The parts of a run fit together, or it is said in one line that they do not."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from tokenizers import normalizers

import empg
from empg.environments.alfworld.env import ALFWorldEnv
from empg.policy.decode import Decoder
from empg.policy.device import computes_bfloat16
from empg.policy.model import Policy
from empg.recipe import dump_recipe, parse_recipe
from empg.rollout.collector import Request
from empg.run import build, warm_start_cache
from empg.run.build import build_agent, build_policy, resolve
from empg.run.warm_start_cache import cache_entry, starting_policy
from empg.system.workers import Workers
from tests.packages import importable, install_lamproom


def test_a_model_with_a_shorter_context_than_an_episode_is_rejected(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)  # it reads 512 tokens
    fits = {"policy": {"model": str(tmp_path), "device": "cpu"}, "rollout": {"max_episode_tokens": 512}}
    build_policy(parse_recipe(fits))
    with pytest.raises(ValueError, match=r"expected at most 512, got 513$"):
        build_policy(parse_recipe({**fits, "rollout": {"max_episode_tokens": 513}}))


@pytest.mark.parametrize("setting", [True, False, "auto"])
@pytest.mark.parametrize("tiny", [True, False])
def test_a_settled_recipe_says_what_is_done_on_this_machine(
    setting: bool | str, tiny: bool, policy: Policy, tmp_path: Path
) -> None:
    policy.save(tmp_path)
    model = "tiny" if tiny else str(tmp_path)
    recipe = resolve(parse_recipe({"policy": {"model": model, "device": "cpu"}, "optimizer": {"autocast": setting}}))
    pays = computes_bfloat16(torch.device("cpu")) and not tiny
    assert recipe.optimizer.autocast is (pays if setting == "auto" else setting)
    assert resolve(recipe) == recipe


def test_a_resolved_recipe_records_the_noun_rule_that_the_shop_uses() -> None:
    recipe = resolve(parse_recipe({"environment": {"id": "webshop"}, "policy": {"device": "cpu"}}))
    assert recipe.environment.options["nouns"] == "lexicon"  # the default, auto, means the lexicon in a generated shop
    assert resolve(recipe) == recipe


def test_the_date_that_a_template_prints_is_fixed_for_the_run(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    recipe = parse_recipe({"policy": {"model": str(tmp_path), "device": "cpu"}})
    assert resolve(recipe).agent.date is None  # this template prints no date
    policy.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + policy.tokenizer.chat_template
    policy.save(tmp_path)
    today = resolve(recipe).agent.date
    assert today is not None
    then = parse_recipe({**recipe.model_dump(), "agent": {"date": "2001-02-03"}})
    assert resolve(then) == then
    assert parse_recipe(yaml.safe_load(dump_recipe(then))) == then
    first = build_agent(then, policy).chat.first("A mug.")
    assert "03 feb 2001" in policy.tokenizer.decode(first).lower()


def test_an_agent_stops_at_every_end_of_its_model(policy: Policy) -> None:
    recipe = parse_recipe({"policy": {"device": "cpu"}})
    other = policy.tokenizer.convert_tokens_to_ids("<|user|>")
    policy.model.generation_config.eos_token_id = [other, policy.tokenizer.eos_token_id]
    assert build_agent(recipe, policy).chat.stop_ids == sorted([other, policy.tokenizer.eos_token_id])


def test_a_tokenizer_that_cannot_write_a_turn_is_refused(policy: Policy) -> None:
    policy.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("<", " ")
    with pytest.raises(ValueError, match="cannot write turns of the form react: expected 'look', read ''"):
        build_agent(parse_recipe({"policy": {"device": "cpu"}}), policy)


@pytest.mark.parametrize("own", [True, False], ids=["own passes", "transformers"])
def test_the_kv_cache_is_freed_as_soon_as_its_episodes_are_over(
    own: bool, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.is_small_llama = own
    caches: list[weakref.ref[Any]] = []

    class Watched(Decoder):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            caches.append(weakref.ref(getattr(self.contexts, "cache", self.contexts)))

    monkeypatch.setattr(build, "Decoder", Watched)
    recipe = parse_recipe(
        {"policy": {"device": "cpu"}, "rollout": {"max_episode_tokens": 512, "max_turn_tokens": 4}}
        | {"environment": {"options": {"rooms": "small"}, "max_steps": 1}}
    )
    gc.disable()  # the cache is large, but a single object: the collector of cycles may leave it for minutes
    try:
        build.play(recipe, policy, "train", [Request(0, 0, (1,))])
        assert [cache() for cache in caches] == [None]
    finally:
        gc.enable()


class Told:
    """A logger that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def stage(self, name: str, total: int | None = None) -> None:
        pass

    def warm_start(self, record: object) -> None:
        pass


def test_a_warm_start_that_cannot_be_kept_is_said_and_the_run_goes_on(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    def onto_a_full_disk(folder: Path) -> None:
        (folder / "weights").write_bytes(b"x")
        Path("/dev/full").write_bytes(b"x" * 100_000)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(warm_start_cache, "build_policy", lambda recipe, start=None: policy)
    monkeypatch.setattr(warm_start_cache, "warm_start", lambda *arguments: None)
    policy.tokenizer.save_pretrained = onto_a_full_disk
    told = Told()
    recipe = parse_recipe({"warm_start": {}})
    made = starting_policy(SimpleNamespace(recipe=recipe, workers=Workers(), logger=told))  # type: ignore[arg-type]
    assert made is policy
    assert "No space left on device; " in told.lines[-1]
    assert told.lines[-1].endswith("; continuing without the cache")
    assert [path for path in (tmp_path / "empg").iterdir() if path.suffix != ".lock"] == []


def test_all_tasks_can_be_imitated_where_some_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    imitated: list[set[str]] = []

    def watch(policy: Policy, agent: object, environment: ALFWorldEnv, *arguments: object) -> None:
        tasks = (environment.reset(options={"task": task})[1] for task in range(64))
        imitated.append({info["task_type"] for info in tasks})

    monkeypatch.setattr(warm_start_cache, "warm_start", watch)
    tiny = {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 32, "vocab_size": 512}
    lamps = ["look_at_obj_in_light"]
    data: dict[str, Any] = {"policy": {"tiny": tiny}, "evaluation": {"splits": []}}
    data["environment"] = {"id": "alfworld", "options": {"rooms": "small", "train_task_types": lamps}}
    words = []
    for options in ({}, {"train_task_types": None}):
        recipe = parse_recipe({**data, "warm_start": {"options": options}})
        assert recipe.environment.options["train_task_types"] == lamps
        made = starting_policy(SimpleNamespace(recipe=recipe, workers=Workers(), logger=Told()))  # type: ignore[arg-type]
        words.append(set(made.tokenizer.get_vocab()))
    assert imitated[0] == set(lamps)
    assert len(imitated[1]) == 6
    assert [any("heat" in word for word in known) for known in words] == [False, True]


def test_a_damaged_entry_of_the_cache_is_reported_and_replaced(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(warm_start_cache, "warm_start", lambda *arguments: None)
    shape = {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 32, "vocab_size": 320}
    recipe = parse_recipe({"policy": {"device": "cpu", "tiny": shape}, "warm_start": {}})

    def start() -> tuple[Policy, list[str]]:
        told = Told()
        run = SimpleNamespace(recipe=recipe, workers=Workers(), logger=told)
        return starting_policy(run), told.lines  # type: ignore[arg-type]

    made, said = start()
    assert said[0].startswith("the same task before and after the warm start: ")
    loaded, said = start()
    entry = tmp_path / "empg" / cache_entry(recipe)
    assert said == [f"warm start loaded from {entry}"]
    weights = entry / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    again, said = start()
    assert said[:1] == [
        f"warm-start cache: checkpoint {entry}: model.safetensors is damaged (its checksum differs); "
        "repeating the warm start"
    ]
    for one, two, three in zip(made.parameters, loaded.parameters, again.parameters, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    assert start()[1] == [f"warm start loaded from {entry}"]


def test_the_cache_depends_on_the_date_only_if_the_template_prints_it(policy: Policy, tmp_path: Path) -> None:
    def entries(model: str) -> set[str]:
        section = {"model": model, "device": "cpu"}
        dates = ("2001-02-03", "2001-02-04")
        return {cache_entry(parse_recipe({"policy": section, "agent": {"date": d}, "warm_start": {}})) for d in dates}

    assert len(entries("tiny")) == 1
    policy.save(tmp_path)
    assert len(entries(str(tmp_path))) == 1
    policy.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + policy.tokenizer.chat_template
    policy.save(tmp_path)
    assert len(entries(str(tmp_path))) == 2


def test_a_run_that_continues_keeps_its_date(policy: Policy, tmp_path: Path) -> None:
    policy.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + policy.tokenizer.chat_template
    policy.save(tmp_path)
    recipe = parse_recipe({"policy": {"model": str(tmp_path), "device": "cpu"}})
    begun = parse_recipe({**recipe.model_dump(), "agent": {"date": "2001-02-03"}})
    assert resolve(recipe, begun) == begun


def test_another_processor_or_number_of_threads_makes_another_warm_start(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = parse_recipe({"warm_start": {}})
    entries = {cache_entry(recipe)}
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    entries.add(cache_entry(recipe))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    entries.add(cache_entry(recipe))
    assert len(entries) == 3


def test_what_a_killed_process_left_in_the_cache_is_removed(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(warm_start_cache, "build_policy", lambda recipe, start=None: policy)
    monkeypatch.setattr(warm_start_cache, "warm_start", lambda *arguments: None)
    recipe = parse_recipe({"warm_start": {}})
    entry = tmp_path / "empg" / cache_entry(recipe)
    left = entry.with_name(f".{entry.name}.123.partial")
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    starting_policy(SimpleNamespace(recipe=recipe, workers=Workers(), logger=Told()))  # type: ignore[arg-type]
    assert (left.exists(), entry.is_dir()) == (False, True)


def test_recordings_that_changed_make_another_warm_start(tmp_path: Path) -> None:
    def folder(recordings: Path | None) -> str:
        return cache_entry(parse_recipe({"warm_start": {"recordings": recordings and str(recordings)}}))

    path = tmp_path / "a.jsonl"
    path.write_text("one\n")
    before = folder(path)
    assert folder(path) == before != folder(None)
    path.write_text("two\n")
    assert folder(path) != before
    alone = folder(tmp_path)
    (tmp_path / "b.jsonl").write_text("three\n")
    assert folder(tmp_path) != alone
    with pytest.raises(ValueError, match=r"warm_start\.recordings=.*none\.jsonl is neither a file"):
        folder(tmp_path / "none.jsonl")


def test_so_does_changed_code_but_not_a_changed_rule_of_credit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "empg"
    for part in ("agent", *warm_start_cache.APART):
        (package / part).mkdir(parents=True)
        (package / part / "module.py").write_text("old = 1\n")
    monkeypatch.setattr(empg, "__file__", str(package / "__init__.py"))

    def entry() -> str:
        warm_start_cache._code.cache_clear()
        return cache_entry(parse_recipe({"warm_start": {}}))

    try:
        before = entry()
        for part in warm_start_cache.APART:
            (package / part / "module.py").write_text("new = 2\n")
            (package / part / "added.py").write_text("more = 3\n")
        assert entry() == before
        (package / "agent" / "module.py").write_text("new = 2\n")
        assert entry() != before
    finally:
        monkeypatch.undo()
        warm_start_cache._code.cache_clear()


def test_so_does_a_model_whose_files_changed(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    recipe = parse_recipe({"policy": {"model": str(tmp_path), "device": "cpu"}, "warm_start": {}})
    before = cache_entry(recipe)
    assert cache_entry(recipe) == before
    with torch.no_grad():
        policy.parameters[0].add_(1.0)
    policy.save(tmp_path)
    assert cache_entry(recipe) != before


def test_a_resolved_recipe_has_the_absolute_path_of_a_model(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.save(tmp_path / "models" / "toy")
    monkeypatch.chdir(tmp_path)
    recipe = parse_recipe({"policy": {"model": "models/toy", "device": "cpu"}})
    resolved = resolve(recipe)
    assert resolved.policy.model == str(tmp_path / "models" / "toy")
    old = parse_recipe({**resolved.model_dump(), "policy": recipe.policy.model_dump()})  # of an earlier version
    assert resolve(recipe, old) == resolve(resolved, old) == old
    monkeypatch.chdir(tmp_path / "models")
    assert resolve(resolved, resolved) == resolved
    again = parse_recipe({"policy": {"model": "../models/toy", "device": "cpu"}})
    assert resolve(again, resolved) == resolved
    (tmp_path / "models" / "tiny").mkdir()
    assert resolve(parse_recipe({"policy": {"device": "cpu"}})).policy.model == "tiny"


def test_so_does_an_environment_of_another_package_that_changed(tmp_path: Path) -> None:
    with importable(tmp_path):
        install_lamproom(tmp_path)
        recipe = parse_recipe({"environment": {"id": "lamproom"}, "warm_start": {}})
        before = cache_entry(recipe)
        assert cache_entry(recipe) == before
        expert = tmp_path / "lamproom" / "lamps.py"
        expert.write_text(expert.read_text().replace("is lit.", "is bright."))
        assert cache_entry(recipe) != before
