"""The queue, with real processes and a recipe that trains in seconds."""

from __future__ import annotations

import hashlib
import json
import os
import re
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

pytestmark = pytest.mark.slow

EMPG = [sys.executable, "-m", "empg"]
RECIPE = """
name: tiny
iterations: 2
checkpoint_every: 1
environment: {options: {rooms: small}, max_steps: 4}
policy:
  tiny: {hidden_size: 16, layers: 1, heads: 2, kv_heads: 1, intermediate_size: 32, vocab_size: 400, phrases: 0}
warm_start: {episodes: 16, episodes_per_step: 8}
rollout: {groups: 2, group_size: 2, max_turn_tokens: 12, max_episode_tokens: 512}
"""
STUDY = """
name: mini
recipes: [tiny.yaml]
base: grpo
variants: {grpo: [credit.modulation=null], empg: [], broken: ["environment.options={rooms: small, games: /nowhere}"]}
seeds: [0, 1]
splits: [valid_seen]
tasks: 4
parallel: 2
"""
RUNS = ["tiny-grpo-s0", "tiny-empg-s0", "tiny-grpo-s1", "tiny-empg-s1"]
ENDLESS = STUDY.replace("parallel: 2", "parallel: 1\noverrides: [iterations=400, checkpoint_every=1]")


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*EMPG, *arguments], cwd=folder, env=environment, **piped)  # type: ignore[call-overload]


def call(folder: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=400)
    assert process.returncode == code, out + err
    return out, err


def place(folder: Path, study: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(RECIPE)
    (folder / "study.yaml").write_text(study)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a study that was run once, and what it printed; the runs of one variant fail."""
    folder = place(tmp_path_factory.mktemp("study"), STUDY)
    return folder, call(folder, "study", "study.yaml", code=1)[0]


def records(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def numbers(run: Path) -> list[dict[str, Any]]:
    """The training and evaluation records without durations, and the digest of the last weights."""
    kept = [record for record in records(run) if record["kind"] in ("train", "eval")]
    weights = (run / "checkpoints" / "iter-000002" / "model.safetensors").read_bytes()
    plain = [{k: v for k, v in record.items() if not k.startswith("time")} for record in kept]
    return [*plain, {"weights": hashlib.sha256(weights).hexdigest()}]


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_failed_runs_are_reported_and_the_others_continue(finished: tuple[Path, str]) -> None:
    folder, output = finished
    lines = output.splitlines()
    assert lines[0] == "mini: 6 runs, 0 of them finished, 2 at a time"
    assert sum(line.startswith("tiny-broken-s") and ": failed: " in line for line in lines) == 2
    assert all(any(line.startswith(f"{run}: finished in ") for line in lines) for run in RUNS)
    assert lines[-1] == "results of 4 of 6 runs: results/mini; make their page with empg results results/mini"
    kept = folder / "results" / "mini"
    broken = ["tiny-broken-s0", "tiny-broken-s1"]
    assert sorted(p.name for p in kept.iterdir()) == sorted([*RUNS, *broken, "study.yaml"])
    logs = [(folder / "runs" / "studies" / "mini" / f"{name}.log").read_text() for name in (*RUNS, *broken)]
    assert all(logs)
    assert "Warning" not in "".join(logs)
    reasons = [(kept / name / "failed.txt").read_text() for name in broken]
    assert all(reason.startswith("iteration 0: ") and "/nowhere" in reason for reason in reasons), reasons


def test_finished_runs_are_skipped_and_failed_ones_tried_again(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    before = {run: (folder / "runs/studies/mini" / run / "metrics.jsonl").stat().st_mtime_ns for run in RUNS}
    lines = call(folder, "study", "study.yaml", code=1)[0].splitlines()
    assert lines[0] == "mini: 6 runs, 4 of them finished, 2 at a time"
    assert sorted(line.split(":")[0] for line in lines if ": started" in line) == ["tiny-broken-s0", "tiny-broken-s1"]
    assert before == {run: (folder / "runs/studies/mini" / run / "metrics.jsonl").stat().st_mtime_ns for run in RUNS}


def test_a_run_is_bit_identical_alone_and_beside_others(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    place(tmp_path, STUDY)
    changes = ["seed=1", "evaluation.splits=[valid_seen]", "evaluation.episodes=4", "name=tiny-empg-s1"]
    call(tmp_path, "train", "tiny.yaml", *changes, "--run", "alone")
    assert numbers(tmp_path / "alone") == numbers(folder / "runs/studies/mini/tiny-empg-s1")


def test_a_warm_start_is_computed_once_per_seed(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    computed = [
        run for run in RUNS if any(r["kind"] == "warm_start" for r in records(folder / "runs/studies/mini" / run))
    ]
    assert sorted(run[-2:] for run in computed) == ["s0", "s1"]


def test_two_processes_do_not_compute_the_same_warm_start_twice(tmp_path: Path) -> None:
    place(tmp_path, STUDY)
    changes = ["warm_start.episodes=1600", "iterations=0", "evaluation.episodes=1"]
    runs = [start(tmp_path, "train", "tiny.yaml", *changes, "--run", name) for name in "ab"]
    printed = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    assert sum(any(r["kind"] == "warm_start" for r in records(tmp_path / name)) for name in "ab") == 1


def test_a_study_continues_after_kill_9_and_its_runs_end_with_it(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    place(tmp_path, STUDY)
    study = start(tmp_path, "study", "study.yaml")
    wait_for(lambda: (tmp_path / "results/mini/tiny-grpo-s0/recipe.yaml").is_file())  # before the others are finished
    _, error = call(tmp_path, "study", "study.yaml", code=1)
    assert error == ("empg: runs/studies/mini is in use by another empg study; wait until it has ended, or stop it\n")
    children = psutil.Process(study.pid).children(recursive=True)
    study.kill()
    study.communicate()
    wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), 20)
    call(tmp_path, "study", "study.yaml", code=1)
    for run in RUNS:
        assert numbers(tmp_path / "runs/studies/mini" / run) == numbers(folder / "runs/studies/mini" / run)


def test_a_killed_run_says_so_and_nothing_of_an_earlier_try(tmp_path: Path) -> None:
    place(tmp_path, ENDLESS)
    log = tmp_path / "runs/studies/mini/tiny-grpo-s0.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: the disk is full\n")
    study = start(tmp_path, "study", "study.yaml")
    wait_for(lambda: any(r["kind"] == "train" for r in records(log.with_suffix(""))))
    [run] = [p for p in psutil.Process(study.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    run.kill()
    reason = tmp_path / "results/mini/tiny-grpo-s0/failed.txt"
    wait_for(reason.is_file)
    study.send_signal(signal.SIGINT)
    study.communicate(timeout=120)
    assert re.fullmatch(
        r"iteration \d+: ended by SIGKILL \(the system does so when memory runs out\) after: iteration \d+/400 .*\n",
        reason.read_text(),
    )


def test_an_evaluation_that_the_study_does_not_ask_for_ends_no_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    place(tmp_path, STUDY)
    name = "runs/studies/mini/tiny-empg-s0"
    run = shutil.copytree(finished[0] / name, tmp_path / name)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))  # it was stopped before its last evaluation
    call(tmp_path, "evaluate", name, "--episodes", "2", "--temperature", "0.6")
    listed = call(tmp_path, "study", "study.yaml", "--dry-run")[0].splitlines()
    assert next(line.split()[1] for line in listed if line.startswith("tiny-empg-s0")) == "waiting"


def test_ctrl_c_writes_checkpoints_and_says_how_to_resume(tmp_path: Path) -> None:
    place(tmp_path, ENDLESS)
    study = start(tmp_path, "study", "study.yaml")
    run = tmp_path / "runs/studies/mini/tiny-grpo-s0"
    wait_for(lambda: any(r["kind"] == "train" for r in records(run)))
    study.send_signal(signal.SIGINT)
    out, error = study.communicate(timeout=120)
    assert study.returncode == 130
    assert "stopping: each run writes a checkpoint first" in out
    assert error.endswith("to resume: empg study study.yaml\n")
    last = max(r["iteration"] for r in records(run) if r["kind"] == "train")
    assert (run / "checkpoints" / f"iter-{last:06d}").is_dir()


def test_a_run_with_another_recipe_is_not_overwritten(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    (folder / "other.yaml").write_text(STUDY.replace("[credit.modulation=null]", "[loss.clip_low=0.1]"))
    _, error = call(folder, "study", "other.yaml", "--dry-run", code=1)
    assert error.count("\n") == 1
    assert "tiny-grpo-s0 cannot be resumed with" in error
    both = "results/mini/tiny-grpo-s0 and runs/studies/mini/tiny-grpo-s0"
    assert error.endswith(f"or remove {both}, or rename the study\n")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tasks: 4", "tasks: 5", "tiny-grpo-s0 has evaluation.episodes=4, this study 5: a study compares runs"),
        ("seeds:", "overrides: [evaluation.temperature=0.5]\nseeds:", "has evaluation.temperature=1.0, this study 0.5"),
    ],
)
def test_a_study_that_evaluates_in_another_way_is_another_study(
    finished: tuple[Path, str], old: str, new: str, said: str
) -> None:
    folder, _ = finished
    (folder / "other.yaml").write_text(STUDY.replace(old, new))
    _, error = call(folder, "study", "other.yaml", "--dry-run", code=1)
    assert said in error
    assert error.count("\n") == 1


def test_a_run_that_is_finished_elsewhere_is_not_trained_again(finished: tuple[Path, str], tmp_path: Path) -> None:
    place(tmp_path, STUDY)
    shutil.copytree(finished[0] / "results", tmp_path / "results")
    run = tmp_path / "runs/studies/mini/tiny-empg-s1"
    shutil.copytree(finished[0] / "runs/studies/mini/tiny-empg-s1", run)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if '"kind":"train"' in line)
    (run / "metrics.jsonl").write_text("".join(lines[: first + 1]))  # it was stopped here after one iteration
    kept = (tmp_path / "results/mini/tiny-empg-s1/metrics.jsonl").read_bytes()
    printed = call(tmp_path, "study", "study.yaml", code=1)[0].splitlines()
    assert printed[0] == "mini: 6 runs, 4 of them finished, 2 at a time"
    assert (tmp_path / "results/mini/tiny-empg-s1/metrics.jsonl").read_bytes() == kept


def test_results_alone_say_that_a_run_is_finished(finished: tuple[Path, str], tmp_path: Path) -> None:
    place(tmp_path, STUDY)
    kept = shutil.copytree(finished[0] / "results", tmp_path / "results") / "mini"
    shutil.rmtree(kept / "tiny-empg-s1")
    lines = call(tmp_path, "study", "study.yaml", code=1)[0].splitlines()
    assert lines[0] == "mini: 6 runs, 3 of them finished, 2 at a time"
    started = sorted(line.split(":")[0] for line in lines if ": started" in line)
    assert started == ["tiny-broken-s0", "tiny-broken-s1", "tiny-empg-s1"]
    assert (kept / "tiny-empg-s1" / "recipe.yaml").is_file()
    (tmp_path / "other.yaml").write_text(STUDY.replace("[credit.modulation=null]", "[loss.clip_low=0.1]"))
    _, error = call(tmp_path, "study", "other.yaml", code=1)
    assert error.endswith("or remove results/mini/tiny-grpo-s0, or rename the study\n")
    assert (kept / "study.yaml").read_text() == STUDY


def test_a_dry_run_lists_runs_states_and_core_hours(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    lines = call(folder, "study", "study.yaml", "--dry-run")[0].splitlines()
    assert lines[1].split() == ["tiny-grpo-s0", "finished", "credit.modulation=null"]
    assert lines[3].split()[:2] == ["tiny-broken-s0", "failed"]
    assert re.match(r"6 runs, 2 left: about 0\.0\d+ core-hours, ", lines[-1])
