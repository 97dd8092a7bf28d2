"""A whole run, as a person starts it: by the command, in processes of its own, killed and resumed."""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from empg.errors import UserError
from empg.learner.assign import assign_credit
from empg.recipe import parse_recipe
from empg.run.evaluate import evaluate_policy
from empg.run.train import task_of, train

EMPG = str(Path(sys.executable).with_name("empg"))

RECIPE = """
iterations: 4
workers: {workers}
checkpoint_every: 2
environment: {{max_steps: 4, options: {{rooms: small}}}}
policy:
  device: cpu
  tiny: {{hidden_size: 32, layers: 2, heads: 2, kv_heads: 1, intermediate_size: 64, vocab_size: 400}}
agent: {{history: {history}}}
warm_start: {{episodes: 32, episodes_per_step: 8}}
rollout: {{groups: 2, group_size: 3, max_turn_tokens: 24, max_episode_tokens: 512, slots: 4}}
loss: {{kl_coef: 0.01, entropy_coef: 0.001}}
optimizer: {{minibatches: 2, autocast: true, lr: 1.0e-3}}
evaluation: {{episodes: 4, every: 3}}
"""


def command(recipe: Path, run: Path, *more: str) -> list[str]:
    return [EMPG, "train", str(recipe), "--run", str(run), *more]


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory, surroundings: dict[str, str]) -> Callable[[int, str], Path]:
    """Runs without an interruption, by number of workers and history; each is made once."""

    @functools.cache
    def make(workers: int, history: str) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        run_to_the_end(
            command(write_recipe(folder, workers, history), folder / "run"), {**surroundings, "PYTHONHASHSEED": "1"}
        )
        return folder / "run"

    return make


def write_recipe(tmp_path: Path, workers: int = 1, history: str = "merged") -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(workers=workers, history=history))
    return path


def metrics(run: Path) -> list[dict[str, Any]]:
    """The records without what a clock says and without those of resuming."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    records = [record for record in records if record["kind"] != "resume"]
    return [
        {k: v for k, v in record.items() if not k.startswith("time") and k not in ("started", "command")}
        for record in records
    ]


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / name / "model.safetensors")


def trained_iterations(run: Path) -> int:
    path = run / "metrics.jsonl"
    return sum('"train"' in line for line in path.read_text().splitlines()) if path.exists() else 0


def started(arguments: list[str], surroundings: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments,
        env=surroundings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], run: Path, iterations: int) -> None:
    deadline = time.monotonic() + 240
    while trained_iterations(run) < iterations:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run_to_the_end(arguments: list[str], surroundings: dict[str, str]) -> str:
    done = subprocess.run(arguments, env=surroundings, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "history"), [(1, "merged"), (2, "merged"), (1, "per_turn")])
def test_a_killed_run_resumes_as_if_nothing_had_happened(
    tmp_path: Path,
    surroundings: dict[str, str],
    whole_run: Callable[[int, str], Path],
    workers: int,
    history: str,
) -> None:
    recipe = write_recipe(tmp_path, workers, history)
    whole, killed = whole_run(workers, history), tmp_path / "killed"
    process = started(command(recipe, killed), {**surroundings, "PYTHONHASHSEED": "2"})
    wait_for(process, killed, 3)  # after the checkpoint of iteration 2, so that some work is lost
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / "checkpoints" / "iter-000004").exists()

    run_to_the_end(command(recipe, killed, "--resume"), {**surroundings, "PYTHONHASHSEED": "3"})
    # One run had to warm up, the other found that in the cache; all else is equal to the last bit.
    wanted = [record for record in metrics(whole) if record["kind"] != "warm_start"]
    assert [r for r in metrics(killed) if r["kind"] != "warm_start"] == wanted
    trained = [record for record in wanted if record["kind"] == "train"]
    assert [record["rollout/episodes"] for record in trained] == [6] * 4  # all groups, however many workers
    assert [record["rollout/groups"] for record in trained] == [2] * 4
    assert any(record["policy/grad_norm"] > 0 for record in trained)
    for name in ("start", "iter-000004"):
        a, b = weights(whole, name), weights(killed, name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(
        weights(whole, "start")["model.embed_tokens.weight"], weights(whole, "iter-000004")["model.embed_tokens.weight"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "name"), [(1, "SIGTERM"), (2, "SIGINT")])
def test_a_signal_writes_a_checkpoint_from_which_the_run_continues_as_if_nothing_had_happened(
    tmp_path: Path, surroundings: dict[str, str], whole_run: Callable[[int, str], Path], workers: int, name: str
) -> None:
    recipe, number = write_recipe(tmp_path, workers), signal.Signals[name]
    whole, stopped = whole_run(workers, "merged"), tmp_path / "stopped"
    process = started(command(recipe, stopped), surroundings)
    wait_for(process, stopped, 1)
    if number is signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: to every process of the run
    else:
        process.send_signal(number)
    said = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 128 + number
    resumed = command(recipe, stopped, "--resume")
    done = trained_iterations(stopped)
    assert 1 <= done < 4
    assert said == [
        f"{name}: stopping at the next safe point; a second signal ends the run at once",
        f"empg: stopped by {name} after iteration {done}; to resume: {shlex.join(['empg', *resumed[1:]])}",
    ]
    assert (stopped / "checkpoints" / f"iter-{done:06d}").is_dir()

    run_to_the_end(resumed, surroundings)
    assert [r for r in metrics(stopped) if r["kind"] != "warm_start"] == [
        r for r in metrics(whole) if r["kind"] != "warm_start"
    ]
    a, b = weights(whole, "iter-000004"), weights(stopped, "iter-000004")
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_a_run_that_is_training_is_not_resumed_or_overwritten_by_another_process(
    tmp_path: Path, surroundings: dict[str, str], whole_run: Callable[[int, str], Path]
) -> None:
    recipe, run, whole = write_recipe(tmp_path), tmp_path / "run", whole_run(1, "merged")
    process = started(command(recipe, run), surroundings)
    wait_for(process, run, 1)
    process.send_signal(signal.SIGSTOP)  # it must not end before the others are done
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:  # on a busy machine that takes a moment
        time.sleep(0.05)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    for option in ("--resume", "--force"):
        other = subprocess.run(
            command(recipe, run, option), env=surroundings, capture_output=True, text=True, timeout=120
        )
        wanted = f"empg: {run} is in use by another empg process; wait until it has ended, or stop it\n"
        assert (other.returncode, other.stderr) == (1, wanted)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=240)
    assert process.returncode == 0
    assert [r for r in metrics(run) if r["kind"] != "warm_start"] == [
        r for r in metrics(whole) if r["kind"] != "warm_start"
    ]


@pytest.mark.slow
def test_too_few_gpus_are_an_error_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="workers: expected at most 2, one per CUDA device, got 4"):
        train(parse_recipe({"workers": 4}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_longer_run_is_the_one_that_was_long_from_the_beginning(tmp_path: Path, surroundings: dict[str, str]) -> None:
    recipe, long, short = write_recipe(tmp_path), tmp_path / "long", tmp_path / "short"
    run_to_the_end(command(recipe, long, "evaluation.every=2"), surroundings)
    run_to_the_end(command(recipe, short, "evaluation.every=2", "iterations=2"), surroundings)
    run_to_the_end(command(recipe, short, "evaluation.every=2", "--resume"), surroundings)
    kept = [[r for r in metrics(run) if r["kind"] != "warm_start"] for run in (long, short)]
    assert kept[0] == kept[1]
    a, b = weights(long, "iter-000004"), weights(short, "iter-000004")
    assert all(torch.equal(a[key], b[key]) for key in a)

    fork = command(recipe, tmp_path / "fork", "evaluation.every=2", "--from", str(short / "checkpoints/iter-000002"))
    run_to_the_end(fork, surroundings)
    assert [r for r in metrics(tmp_path / "fork") if r["kind"] != "warm_start"] == kept[0]
    run_to_the_end(command(recipe, short, "evaluation.every=2", "--resume", "--from", "start"), surroundings)
    assert [r for r in metrics(short) if r["kind"] != "warm_start"] == kept[0]


@pytest.mark.slow
def test_a_rate_that_would_overflow_the_weights_is_rejected_and_a_huge_one_ends_without_a_traceback(
    tmp_path: Path, surroundings: dict[str, str]
) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"

    def trained(rate: str) -> subprocess.CompletedProcess[str]:
        arguments = command(recipe, run, f"optimizer.lr={rate}", "keep_checkpoints=1", "checkpoint_every=1")
        return subprocess.run(arguments, env=surroundings, capture_output=True, text=True, timeout=240)

    rejected = trained("1e308")
    wanted = f"empg: {recipe}: optimizer.lr: expected a number of at most 1e+15, got 1e+308\n"
    assert (rejected.returncode, rejected.stderr, run.exists()) == (1, wanted, False)
    assert "Traceback" not in trained("1e15").stderr
    saved = weights(run, sorted(entry.name for entry in (run / "checkpoints").glob("iter-*"))[-1])
    assert all(bool(tensor.isfinite().all()) for tensor in saved.values())


SMALL = {
    "checkpoint_every": 10,
    "environment": {"max_steps": 2, "options": {"rooms": "small"}},
    "policy": {
        "device": "cpu",
        "tiny": {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 32, "vocab_size": 320},
    },
    "rollout": {"groups": 1, "group_size": 2, "max_turn_tokens": 8, "max_episode_tokens": 512},
    "evaluation": {"splits": ["valid_seen"], "episodes": 1},
}


def test_an_evaluation_that_fails_costs_no_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate_the_start(*arguments: Any, iteration: int, **more: Any) -> Any:
        if iteration:
            raise MemoryError
        return evaluate_policy(*arguments, iteration=iteration, **more)

    monkeypatch.setattr("empg.run.train.evaluate_policy", evaluate_the_start)
    with pytest.raises(MemoryError):
        train(parse_recipe({**SMALL, "iterations": 2}), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "iter-000002").is_dir()


def test_a_service_that_fails_costs_no_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def assign_twice(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise UserError("the judge is unavailable")
        return assign_credit(*arguments, **more)

    monkeypatch.setattr("empg.run.train.assign_credit", assign_twice)
    recipe = parse_recipe({**SMALL, "iterations": 4})
    with pytest.raises(UserError, match="the judge is unavailable"):
        train(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "iter-000002").is_dir()
    train(recipe, tmp_path / "run", resume=True)
    assert [r["iteration"] for r in metrics(tmp_path / "run") if r["kind"] == "train"] == [1, 2, 3, 4]


def test_dynamic_sampling_begins_with_every_task_in_order() -> None:
    """Also where the tasks of an iteration divide those of the split, as 16 * (1 + 3) divide 8,000."""
    drawn = [task_of(i, group, groups=16, reserved=48, tasks=8000) for i in range(500) for group in range(64)]
    firsts = [task for i in range(500) for task in drawn[64 * i : 64 * i + 16]]
    assert firsts == list(range(8000))
    assert set(drawn[16:64]) == set(range(4000, 4048))
    assert all(len(set(drawn[64 * i : 64 * i + 64])) == 64 for i in range(100))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_dynamic_sampling_draws_until_the_batch_is_full_or_its_budget_is_used(
    tmp_path: Path, surroundings: dict[str, str], workers: int
) -> None:
    """So small a policy wins nothing in two turns: every group has zero variance, and every round draws two more."""
    recipe, run = write_recipe(tmp_path, workers), tmp_path / "run"
    sampling = ["credit.drop_zero_variance=true", "credit.max_resample=2"]
    run_to_the_end(command(recipe, run, "iterations=1", "environment.max_steps=2", *sampling), surroundings)
    [record] = [record for record in metrics(run) if record["kind"] == "train"]
    assert (record["rollout/groups"], record["rollout/episodes"]) == (6, 18)
    assert (record["credit/zero_variance_groups"], record["tokens/trained"]) == (1.0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dapo", "gspo", "gigpo+empg"])
def test_every_kind_of_preset_trains(tmp_path: Path, surroundings: dict[str, str], algorithm: str) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    run_to_the_end(command(recipe, run, f"algorithm={algorithm}", "iterations=1"), surroundings)
    [record] = [record for record in metrics(run) if record["kind"] == "train"]
    assert 2 <= record["rollout/groups"] <= (8 if algorithm == "dapo" else 2)
    assert "advantage: grpo" in (run / "recipe.yaml").read_text() or algorithm == "gigpo+empg"


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    tmp_path: Path, surroundings: dict[str, str]
) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    run_to_the_end(command(recipe, run), surroundings)
    before = metrics(run)
    damaged = run / "checkpoints" / "iter-000004" / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    said = run_to_the_end(command(recipe, run, "--resume"), surroundings)
    assert "iter-000004" in said
    assert "damaged" in said
    assert metrics(run) == before


@pytest.mark.slow
def test_a_damaged_start_stops_only_those_who_need_it(tmp_path: Path, surroundings: dict[str, str]) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    run_to_the_end(command(recipe, run, "loss.kl_coef=0"), surroundings)
    before = metrics(run)
    (run / "checkpoints" / "start" / "checksums.json").write_text("null")
    shutil.rmtree(run / "checkpoints" / "iter-000004")
    said = run_to_the_end(command(recipe, run, "loss.kl_coef=0", "--resume"), surroundings)
    assert "checkpoints/start: checksums.json is damaged" in said
    assert [r for r in metrics(run) if r["kind"] != "warm_start"] == [r for r in before if r["kind"] != "warm_start"]

    resolved = run / "recipe.yaml"  # with a KL penalty it is the reference
    resolved.write_text(resolved.read_text().replace("kl_coef: 0.0", "kl_coef: 0.01"))
    stopped = subprocess.run(
        command(recipe, run, "--resume"), env=surroundings, capture_output=True, text=True, timeout=200
    )
    assert stopped.returncode == 1
    assert "checkpoints/start: checksums.json is damaged" in stopped.stderr
    assert "Traceback" not in stopped.stderr


@pytest.mark.slow
def test_a_run_leaves_everything_readable(tmp_path: Path, surroundings: dict[str, str]) -> None:
    import pyarrow.parquet as pq

    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    said = run_to_the_end(command(recipe, run, "seed=5"), surroundings)
    assert str(run / "report.html") in said
    assert "seed: 5" in (run / "recipe.yaml").read_text()
    assert "<html" in (run / "report.html").read_text()
    table = pq.read_table(run / "episodes" / "iter-000001.parquet")
    for column in ("entropy", "scale", "clarity", "advantage"):
        assert table.column(column).null_count < table.num_rows
    assert list((run / "tensorboard").iterdir())
    kinds = [record["kind"] for record in metrics(run)]
    assert kinds.count("eval") == 6  # two splits: before, at iteration 3, after
    evaluated = subprocess.run(
        [EMPG, "evaluate", str(run), "--checkpoint", "start", "--split", "valid_seen"],
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert evaluated.returncode == 0, evaluated.stderr
    first = next(r for r in metrics(run) if r["kind"] == "eval")
    again = metrics(run)[-1]
    assert again == first  # the same policy, panel and rng
