"""Two workers equal one: the same credit, the same gradient, the same weights."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from empg.errors import UserError
from empg.learner.checkpoint import CheckpointError
from empg.policy.load import load_policy
from empg.recipe import PolicySection, TinyModel
from empg.system.signals import StopRequested, StopSignals
from empg.system.workers import WorkerError, Workers, start_workers
from tests import ROOT
from tests.system import spmd

SHAPE = TinyModel(
    hidden_size=16, layers=1, heads=2, kv_heads=1, intermediate_size=16, vocab_size=300, max_positions=128
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("policy")
    load_policy(PolicySection(model="tiny", tiny=SHAPE, device="cpu"), ["a mug"], seed=1).save(made)
    return made


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    """What both workers answered; started once for all tests of this file."""
    kept: list[Any] = []
    with start_workers(2, spmd.everything, folder) as workers:
        spmd.everything(workers, folder, kept.extend)
    return kept


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[str, Any]:
    [mine] = spmd.shares(1)
    with start_workers(1, spmd.everything, folder) as workers:
        return {
            "credit": spmd.credit(workers, mine),
            "reinforce": spmd.credit(workers, mine, spmd.REINFORCE),
            "one_step": spmd.update(workers, mine, folder, spmd.ONE_STEP),
            "update": spmd.update(workers, mine, folder, spmd.RECIPE),
        }


def together(two: list[dict[str, Any]], experiment: str, name: str) -> list[float]:
    return [*two[0][experiment][name], *two[1][experiment][name]]


def test_collectives(two: list[dict[str, Any]]) -> None:
    for rank, answer in enumerate(two):
        assert answer["primitives"] == {
            "sum": [1.0, -1.0],
            "min": [0.0, -1.0],
            "max": [1.0, 0.0],
            "untouched": [rank, -rank],
            "total": 2.0,
            "gather": [{"rank": 0}, {"rank": 1}],
            "first": rank == 0,
            "gradients": [[3.0, 4.0], [[11.0, 22.0]]],
        }


@pytest.mark.parametrize("experiment", ["credit", "reinforce"])
@pytest.mark.parametrize("name", ["advantages", "outcome", "scale"])
def test_credit_is_that_of_one_worker(
    two: list[dict[str, Any]], one: dict[str, Any], experiment: str, name: str
) -> None:
    assert together(two, experiment, name) == pytest.approx(one[experiment][name], abs=1e-5)


def test_a_poisoned_step_of_one_worker_reaches_nobody(two: list[dict[str, Any]]) -> None:
    assert two[0]["poisoned"]["advantages"][0] == 0
    assert all(math.isfinite(value) for value in together(two, "poisoned", "advantages"))
    assert sum(together(two, "poisoned", "advantages")) == pytest.approx(0, abs=1e-5)


def test_a_worker_with_nothing_to_train_on_takes_every_step(two: list[dict[str, Any]]) -> None:
    assert two[1]["nothing"]["advantages"] == []
    assert sum(two[0]["nothing"]["advantages"]) == pytest.approx(0, abs=1e-5)
    assert two[0]["idle"] == two[1]["idle"]
    assert two[0]["idle"]["tokens"] == 6


@pytest.mark.parametrize("experiment", ["one_step", "update", "adapter"])
def test_both_workers_have_the_same_weights_and_numbers_afterwards(two: list[dict[str, Any]], experiment: str) -> None:
    assert two[0][experiment] == two[1][experiment]


def test_a_step_of_two_workers_is_that_of_one(two: list[dict[str, Any]], one: dict[str, Any]) -> None:
    ours, alone = two[0]["one_step"], one["one_step"]
    assert ours["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
    assert ours["loss"] == pytest.approx(alone["loss"], abs=1e-5)
    assert ours["tokens"] == alone["tokens"] == 14
    assert ours["weights"] == pytest.approx(alone["weights"], abs=2e-4)  # Adam's first step is lr * sign: 1e-3


def test_minibatches_of_two_workers_cover_what_those_of_one_do(two: list[dict[str, Any]], one: dict[str, Any]) -> None:
    assert two[0]["update"]["scored"] == one["update"]["scored"] == 28


def test_a_worker_may_have_processes_of_its_own(two: list[dict[str, Any]]) -> None:
    assert [answer["observation"] for answer in two] == ["Lamp 0 is lit."] * 2


def test_one_worker_starts_nothing() -> None:
    with start_workers(1, spmd.fail) as workers:
        assert (workers.rank, workers.size, workers.first) == (0, 1, True)
        assert not torch.distributed.is_initialized()


def test_the_folder_of_temporary_files_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a?b#c%20d"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with start_workers(2, Workers.barrier) as workers:
        workers.barrier()


@pytest.mark.slow
def test_no_process_remains_when_worker_0_is_killed() -> None:
    command = (
        "from tests.system import spmd\nfrom empg.system.workers import start_workers\n"
        "with start_workers(3, spmd.linger) as workers: spmd.linger(workers)"
    )
    main = subprocess.Popen(
        [sys.executable, "-c", command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert main.stdout is not None
    children = [psutil.Process(pid) for pid in json.loads(main.stdout.readline())]
    assert len(children) == 5  # two other workers, one in a collective; and a process of each worker's own
    main.kill()
    _, alive = psutil.wait_procs(children, timeout=10)  # it takes milliseconds on an idle machine
    for child in alive:
        child.kill()
    assert alive == []
    assert main.communicate(timeout=10)[1] == ""


def test_an_error_of_worker_0_is_raised_immediately() -> None:
    began: list[float] = []

    def write(workers: Workers) -> None:
        workers.barrier()
        began.append(time.monotonic())
        raise CheckpointError("the disk is full")

    with pytest.raises(CheckpointError, match="the disk is full"), start_workers(2, spmd.wait) as workers:
        write(workers)
    assert time.monotonic() - began[0] < 10  # nobody waits for workers that are in good health
    assert multiprocessing.active_children() == []


def test_a_user_error_of_another_worker_is_that_of_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(UserError, match=r"^the judge does not answer: expected a reply$"),
        start_workers(2, spmd.refuse) as workers,
    ):
        workers.total(1.0)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_worker_that_fails_ends_the_others_soon(capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()

    def count(workers: Workers) -> None:
        workers.barrier()
        for _ in range(1000):
            workers.total(1.0)
            time.sleep(0.05)

    with (
        pytest.raises(WorkerError, match="worker 1 ended with exit code 1; its output is above"),
        start_workers(2, spmd.fail) as workers,
    ):
        count(workers)
    assert time.monotonic() - began < 50
    assert "ValueError: this worker fails" in capfd.readouterr().err
    assert not torch.distributed.is_initialized()
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_while_it_starts_ends_the_run() -> None:
    """Its imports take seconds; the operating system may need the memory meanwhile."""

    def kill() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        os.kill(children[0].pid or 0, signal.SIGKILL)

    threading.Thread(target=kill).start()
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"^worker 1 ended with exit code -9;"), start_workers(2, spmd.wait):
        pytest.fail("the workers have joined")
    assert time.monotonic() - began < 30
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_worker_that_cannot_read_its_arguments_ends_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(WorkerError, match=r"^worker 1 ended with exit code 1; its output is above$"),
        start_workers(2, spmd.wait, spmd.Unreadable(int, "no number")),
    ):
        pytest.fail("the workers have joined")
    assert "ValueError: invalid literal for int()" in capfd.readouterr().err


def test_a_signal_stops_a_run_whose_workers_are_starting() -> None:
    with StopSignals() as signals:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with (
            pytest.raises(StopRequested),
            start_workers(2, spmd.wait, spmd.Unreadable(time.sleep, 600), signals=signals),
        ):
            pytest.fail("the workers have joined")
    assert time.monotonic() - began < 10
    assert signals.number == signal.SIGINT
    assert multiprocessing.active_children() == []
