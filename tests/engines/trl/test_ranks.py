"""Several processes compute what one computes: the statistics are over the steps of all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("trl", reason="trl is not installed: make test-trl runs these tests")

from safetensors.torch import load_file

from empg.record.runfolder import RunFolder
from tests import ROOT
from tests.engines.trl import ranks
from tests.engines.trl.parts import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # of TRL and transformers


def start(processes: int, *command: str | Path) -> None:
    """Run a module with torchrun."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "--"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, *map(str, command)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def advantages(folder: Path, processes: int) -> list[list[float]]:
    """Return the advantages of the written tokens of each row, which the processes have written."""
    parts: list[Any] = [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(processes)]
    return [row[row != 0].tolist() for part in parts for row in part]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per case, with what two processes computed."""
    folder = tmp_path_factory.mktemp("together")
    start(2, "tests.engines.trl.ranks", folder)
    return folder


@pytest.mark.parametrize("case", ranks.CASES)
def test_two_processes_give_the_advantages_and_weights_of_one(case: str, together: Path, tmp_path: Path) -> None:
    ranks.train(tmp_path / case, case)
    one, two = advantages(tmp_path / case, 1), advantages(together / case, 2)
    assert len(one) == len(two) == 8
    for alone, with_another in zip(one, two, strict=True):
        assert with_another == pytest.approx(alone, abs=1e-4)
    weights = [load_file(folder / case / "trained" / "model.safetensors") for folder in (tmp_path, together)]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-6, rtol=1e-4)


def test_a_process_whose_episodes_all_failed_trains_on_with_the_others(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**SMALL, "workers": 2, "evaluation": {"splits": []}}))
    command = ("train", tmp_path / "small.yaml", "--engine", "trl", "--run", tmp_path / "run")
    start(2, "tests.engines.trl.failed_rank", *command)
    failed = [
        r["rollout/end/env_error"] for r in RunFolder.open(tmp_path / "run").read_metrics() if r["kind"] == "train"
    ]
    assert failed == [0.5, 0.5]


def test_a_recipe_runs_on_two_processes(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**SMALL, "workers": 2}))
    start(2, "empg", "train", tmp_path / "small.yaml", "--engine", "trl", "--run", tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    records = run.read_metrics()
    assert [r["iteration"] for r in records if r["kind"] == "train"] == [1, 2]
    assert [r["rollout/episodes"] for r in records if r["kind"] == "train"] == [8, 8]
    assert [(r["iteration"], r["n"]) for r in records if r["kind"] == "eval"] == [(0, 4), (2, 4)]
    assert set(run.read_episodes(2)["group"]) == {2, 3}
