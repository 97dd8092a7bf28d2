"""The loggers of a recipe: each gets the numbers, a resumed run continues, and none can end a run.

The tests of Weights & Biases and trackio run where these packages are installed, in processes without a network login.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from empg.errors import MissingExtraError
from empg.recipe import dump_recipe
from empg.record.runfolder import RunFolder
from empg.run.doctor import check
from empg.run.logger import RunLogger, resume_record
from empg.run.metric_loggers import require_packages, run_id
from empg.run.resume import resolve_into
from empg.system.workers import Workers
from tests.learner.plays import recipe
from tests.record.made_runs import eval_record

RUN: Any = {"kind": "run", "command": "empg train demo", "seed": 0, "started": "2026-01-05T09:30:00+00:00"}

# A run of two evaluations that is resumed after the first.
PROGRAM = """
import sys
from pathlib import Path
from empg.recipe import dump_recipe
from empg.record.runfolder import RunFolder
from empg.run.logger import RunLogger
from empg.system.workers import Workers
from tests.learner.plays import recipe

def evaluated(iteration, success):
    record = {"kind": "eval", "iteration": iteration, "split": "s", "decoding": "greedy", "success": success}
    return {**record, "successes": 1, "n": 4, "low": 0.0, "high": 1.0, "panel": "p", "panel_sha256": "0", "by_type": {}}

if __name__ == "__main__":
    wanted = recipe(name="lamps", loggers=sys.argv[2:])
    folder = RunFolder.create(Path(sys.argv[1]), dump_recipe(wanted))
    with RunLogger(folder, wanted, Workers()) as logger:
        logger.begin("empg train lamps")
        for iteration in (0, 1):
            logger._write(evaluated(iteration, 0.25))
    with RunLogger(folder, wanted, Workers(), resumed_at=0) as logger:
        for iteration in (1, 2):
            logger._write(evaluated(iteration, 0.5))
    print(len(folder.read_metrics()), "records")
"""


def log_in_a_process(place: Path, *loggers: str, **variables: str) -> list[str]:
    """Run `PROGRAM` in a process of its own; returns the lines that it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "TRACKIO_"))}
    path = os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(place / "run"), *loggers],
        env={**kept, "HOME": str(place / "home"), "PYTHONPATH": path, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("wandb", "trackio", "*"))]
    assert done.stdout.splitlines()[-1] == "5 records"
    return lines


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_package_is_one_line_before_any_work(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    wanted = recipe(loggers=[name])
    line = f"loggers: {name} is not installed: pip install 'empg[{name}]'"
    with pytest.raises(MissingExtraError) as refused:
        resolve_into(wanted, tmp_path / "run")
    assert str(refused.value) == line
    [finding] = [finding for finding in check(wanted) if finding.text.startswith("loggers")]
    assert (finding.level, f"{finding.text}: {finding.remedy}") == ("fail", line)


def test_tensorboard_alone_needs_no_extra_and_no_loggers_are_a_choice(tmp_path: Path) -> None:
    assert recipe().loggers == ["tensorboard"]
    require_packages(recipe())
    wanted = recipe(loggers=[])
    folder = RunFolder.create(tmp_path / "run", dump_recipe(wanted))
    with RunLogger(folder, wanted, Workers()) as logger:
        logger.begin("")
    assert not folder.tensorboard.exists()


def test_a_resumed_run_keeps_its_id_and_a_fork_gets_another() -> None:
    resumed: Any = resume_record("", recipe(), 2, {}, None)
    forked: Any = resume_record("", recipe(), 2, {}, "runs/demo/checkpoints/iter-000002")
    assert run_id([RUN]) == run_id([RUN, resumed]) != run_id([RUN, forked])
    assert run_id([RUN, forked]) == run_id([RUN, forked, resumed])
    assert run_id([RUN]) != run_id([{**RUN, "seed": 1}])


def test_a_logger_that_fails_is_one_line_and_the_run_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = recipe()
    folder = RunFolder.create(tmp_path / "run", dump_recipe(wanted))
    folder.tensorboard.write_text("where a folder should be")
    evaluated: Any = eval_record(0)
    with RunLogger(folder, wanted, Workers()) as logger:
        logger.begin("")
        logger._write(evaluated)
    lines = [line for line in capsys.readouterr().out.splitlines() if "tensorboard" in line]
    assert len(lines) == 1
    assert lines[0].endswith("the run continues without this logger")
    assert len(folder.read_metrics()) == 2


def test_trackio_has_the_numbers_and_a_resumed_run_continues(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    first, again = log_in_a_process(tmp_path, "trackio", TRACKIO_DIR=str(tmp_path / "tracked"))
    assert first == again
    assert first.startswith("trackio: run run-")
    with sqlite3.connect(tmp_path / "tracked" / "empg.db") as database:
        rows = database.execute("select run_id, step, metrics from metrics order by id").fetchall()
        [(config,)] = database.execute("select config from configs").fetchall()
    assert len({run for run, _, _ in rows}) == 1
    told = [(step, json.loads(numbers)["eval/s/greedy/success"]) for _, step, numbers in rows]
    assert told == [(0, 0.25), (1, 0.25), (1, 0.5), (2, 0.5)]
    assert json.loads(config)["name"] == "lamps"


def test_wandb_offline_writes_folders_of_one_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    first, again = log_in_a_process(tmp_path, "wandb", WANDB_MODE="offline")
    assert first.startswith("wandb: offline, in ")
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({file.name for file in files}) == 1  # the id
    assert b"eval/s/greedy/success" in files[-1].read_bytes()
    assert Path(again.removeprefix("wandb: offline, in ")).is_dir()


def test_wandb_without_a_login_is_one_line_and_the_run_continues(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    first, again = log_in_a_process(tmp_path, "wandb")
    assert first == again
    assert first.startswith("wandb: not logged in; run `wandb login`, or set")
