"""The list of runs, the estimates of time, and the plain lines of a study."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from empg.study.job import FAILED, FINISHED, RUNNING, Job
from empg.study.plan import Study, load_study, plan
from empg.study.progress import StudyProgress, listed, seconds_left
from tests.study.test_plan import write


def jobs_of(folder: Path, **changes: object) -> tuple[Study, list[Job]]:
    file = write(folder, **changes)
    study = load_study(file)
    return study, [
        Job(planned, folder / planned.key.name, folder / "results" / planned.key.name) for planned in plan(study, file)
    ]


def test_the_estimate_before_a_run_is_finished_is_the_given_one(tmp_path: Path) -> None:
    """A run of the demo has two workers, so half an hour of it is one core-hour."""
    study, jobs = jobs_of(tmp_path, minutes_per_run=30, parallel=2)
    assert listed(study, jobs)[-1] == "4 runs, 4 left: about 4.0 core-hours, 1:00:00 with 2 at a time"


def test_a_finished_run_replaces_it(tmp_path: Path) -> None:
    study, jobs = jobs_of(tmp_path, minutes_per_run=30)
    jobs[0].state, jobs[0].seconds = FINISHED, 600.0
    assert listed(study, jobs)[-1] == "4 runs, 3 left: about 1.0 core-hours, 30:00 with 1 at a time"
    jobs[1].state, jobs[1].seconds = RUNNING, 200.0
    assert seconds_left(study, jobs) == 3 * 600 - 200


def test_the_list_counts_what_is_left_of_a_run_and_at_most_the_runs_that_are_left(tmp_path: Path) -> None:
    study, jobs = jobs_of(tmp_path, parallel=4)
    for job in jobs[:3]:
        job.state, job.seconds = FINISHED, 600.0
    jobs[3].seconds = 240.0
    assert listed(study, jobs)[-1] == "4 runs, 1 left: about 0.2 core-hours, 6:00 with 4 at a time"


def test_without_either_there_is_no_estimate(tmp_path: Path) -> None:
    study, jobs = jobs_of(tmp_path)
    assert seconds_left(study, jobs) is None
    assert listed(study, jobs)[-1].endswith("set minutes_per_run for an estimate of the time, or finish a run")


def test_the_list_tells_a_run_that_failed_from_one_that_was_not_started(tmp_path: Path) -> None:
    study, jobs = jobs_of(tmp_path)
    for job in jobs[:2]:
        job.summary.mkdir(parents=True)
        (job.summary / "failed.txt").write_text("iteration 3: no space left\n")
    jobs[1].state = FINISHED  # since then
    states = [line.split("  ")[1].strip() for line in listed(study, jobs)[1:5]]
    assert states == [FAILED, FINISHED, "waiting", "waiting"]


def test_without_a_terminal_there_is_one_line_per_event(tmp_path: Path) -> None:
    study, jobs = jobs_of(tmp_path)
    jobs[0].state, jobs[0].message = FAILED, "no \x1b[2Jspace [bold]left"
    file = io.StringIO()
    with StudyProgress(study, Console(file=file, soft_wrap=True)) as progress:
        progress.begin(jobs)
        progress.ended(jobs[0])
    log = tmp_path / "demo-grpo-s0.log"
    assert file.getvalue().splitlines() == [
        "mini: 4 runs, 0 of them finished, 1 at a time",
        f"demo-grpo-s0: failed: no ⟦U+001B⟧[2Jspace [bold]left (log: {log})",
    ]
