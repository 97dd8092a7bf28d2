"""The comparison with TRL, at sizes whose figures mean nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.rl_iteration import empg_side, floors, parts, table, transformers_side
from benchmarks.rl_iteration.setting import Setting, requests
from tests import ROOT


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    setting = Setting(folder=tmp_path_factory.mktemp("rl_iteration"), small=True)
    setting.prepare()
    return setting


@pytest.fixture(scope="module")
def model(setting: Setting) -> Any:
    return transformers_side.load(setting.policy_folder).eval()


def results_of(function: Any, *arguments: Any, steps: int = 2) -> list[dict[str, Any]]:
    """What the work of a process sends, without a process."""
    wanted: Iterator[bool] = iter([*[True] * steps, False])
    results: list[dict[str, Any]] = []
    function(lambda: next(wanted), results.append, *arguments)
    assert len(results) == steps
    return results


def test_the_fixed_episodes_keep_what_was_played(setting: Setting) -> None:
    [played, _] = results_of(empg_side.iterations, setting, True)
    [fixed, again] = results_of(empg_side.iterations, setting, False)
    assert [[turn.action_ids for turn in e.turns] for e in setting.episodes()] == played["written_ids"]
    assert played["written"] == fixed["written"] == fixed["trained"] > 0
    assert set(fixed["cpu"]) == {"rollout", "score", "update"}
    assert fixed["peak_rss"] >= fixed["rss"] > 0
    assert fixed["loss"] == pytest.approx(again["loss"], abs=1e-6)  # the policy stays the same
    assert empg_side.gradients(setting, "empg").is_file()


def test_rows_in_lockstep_give_the_logits_of_each_row_alone(model: Any) -> None:
    def alone(ids: list[int]) -> torch.Tensor:
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]

    def agree(logits: torch.Tensor, rows: list[list[int]]) -> None:
        assert torch.allclose(logits, torch.stack([alone(row) for row in rows]), atol=1e-4)

    with torch.no_grad():
        rows = transformers_side.Lockstep(model, 2)
        agree(rows.read([[5, 6, 7], [8]]), [[5, 6, 7], [8]])
        rows.repeat(2)
        rows.read([[], [9], [10, 11], []])
        agree(
            rows.read([[20], [21, 22], [23], [24]]),
            [[5, 6, 7, 20], [5, 6, 7, 9, 21, 22], [8, 10, 11, 23], [8, 24]],
        )
        rows.keep([1, 3])
        agree(rows.read([[30], [31]]), [[5, 6, 7, 9, 21, 22, 30], [8, 24, 31]])
        static = transformers_side.Lockstep(model, 2, static_length=4)
        static.read([[5, 6, 7], [8]])
        agree(static.read([[20], [24]]), [[5, 6, 7, 20], [8, 24]])


def test_transformers_samples_the_ids_of_our_decoder(setting: Setting, model: Any) -> None:
    """The first turn of each group, from the same random numbers."""
    recipe = setting.recipe
    for episode, request in zip(setting.episodes(), requests(recipe, 0), strict=True):
        turn, rng = episode.turns[0], np.random.Generator(np.random.Philox(np.random.SeedSequence(request.key)))
        rows, chunk, ids = transformers_side.Lockstep(model, 1), turn.prompt_ids, []
        for _ in turn.action_ids:
            chunk = transformers_side.sample(rows.read([chunk]), recipe.rollout.temperature, [rng])
            ids += chunk
        assert ids == turn.action_ids


def test_padded_passes_have_every_row_once(setting: Setting) -> None:
    episodes = setting.episodes()
    passes = transformers_side.padded_passes(episodes, 600)
    assert sum(len(ids) for ids, _ in passes) == len(episodes)
    assert all(ids.numel() <= 600 for ids, _ in passes)
    assert sum(int(written.sum()) for _, written in passes) == sum(e.num_action_tokens for e in episodes)
    results_of(transformers_side.updates, setting)


def test_the_floors_count_the_matrices_of_the_model(model: Any) -> None:
    shape = floors.Shape.of(model.config)
    matrices = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    assert (shape.weights, shape.head) == (matrices, model.lm_head.weight.numel())
    linear = 6 * (10 * shape.weights + 4 * shape.head)
    assert shape.training_flops([10], 4) == linear + 6 * 2 * 55 * shape.attended
    rows = transformers_side.Lockstep(model, 1)
    rows.read([[5] * 10])
    layers: list[Any] = rows.cache.layers
    stored = sum(layer.keys.numel() + layer.values.numel() for layer in layers)
    assert shape.decoding_bytes([10]) == 4 * (stored + shape.weights + shape.head)
    assert shape.decoding_flops([10]) == 2 * (shape.weights + shape.head + 2 * 10 * shape.attended)


def test_decoding_is_measured_and_printed(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = floors.measure(side=64, numbers=1 << 10)
    monkeypatch.setattr(floors, "measure", lambda: speed)
    result = parts.decode(setting, 1)
    assert all(len(rates) == 1 for rates in result["tokens_per_second"].values())
    text = table.markdown({"machine": table.machine(1), "decode": result})
    assert "| transformers, static cache |" in text
    assert "(1 thread)" in text


def test_the_tables_replace_those_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n" + "\nold\n".join(table.MARKS) + "\nafter\n")
    table.write(page, "new")
    assert page.read_text() == "before\n" + "\nnew\n".join(table.MARKS) + "\nafter\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has no lines"):
        table.write(page, "new")


def test_the_page_on_performance_has_the_marks() -> None:
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert [text.count(mark) for mark in table.MARKS] == [1, 1]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason='needs TRL: pip install "trl==1.16.*"')
def test_trl_does_the_same_work(setting: Setting, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.rl_iteration", "--small", "--runs", "1", "--json", str(file)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}"}
    subprocess.run([*command, "--folder", str(tmp_path)], cwd=ROOT, env=environment, check=True, timeout=600)
    results = json.loads(file.read_text())
    assert results["rollout"]["identical_episodes"] == 1.0
    agreement = results["update"]["agreement"]
    assert agreement["loss"] < 1e-6
    assert agreement["gradient"] < 1e-4
