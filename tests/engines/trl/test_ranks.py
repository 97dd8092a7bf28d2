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
from tests.engines.trl.parts import SMALL

pytestmark = pytest.mark.slow


def start(processes: int, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a module with torchrun, which sets no number of threads that is set already."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **variables}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return subprocess.run(
        [*launch, *map(str, command)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400
    )


def advantages(folder: Path, processes: int, modulation: str, group_size: int) -> list[list[float]]:
    """Train on this many processes; return the advantages of the written tokens of each row."""
    folder.mkdir()
    done = start(processes, "tests.engines.trl.ranks", folder, modulation, str(group_size))
    assert done.returncode == 0, done.stderr[-3000:]
    parts: list[Any] = [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(processes)]
    return [row[row != 0].tolist() for part in parts for row in part]


@pytest.mark.parametrize(("modulation", "group_size"), [("empg", 4), ("gtpo", 8)], ids=["empg", "a divided group"])
def test_two_processes_give_the_advantages_and_weights_of_one(tmp_path: Path, modulation: str, group_size: int) -> None:
    one = advantages(tmp_path / "one", 1, modulation, group_size)
    two = advantages(tmp_path / "two", 2, modulation, group_size)
    assert len(one) == len(two) == 8
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, abs=1e-4)
    weights = [load_file(tmp_path / name / "trained" / "model.safetensors") for name in ("one", "two")]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-6, rtol=1e-4)


def test_a_recipe_runs_on_two_processes(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**SMALL, "workers": 2}))
    done = start(2, "empg", "train", tmp_path / "small.yaml", "--engine", "trl", "--run", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    run = RunFolder.open(tmp_path / "run")
    records = run.read_metrics()
    assert [r["iteration"] for r in records if r["kind"] == "train"] == [1, 2]
    assert [r["rollout/episodes"] for r in records if r["kind"] == "train"] == [8, 8]
    assert [(r["iteration"], r["n"]) for r in records if r["kind"] == "eval"] == [(0, 4), (2, 4)]
    assert set(run.read_episodes(2)["group"]) == {2, 3}
