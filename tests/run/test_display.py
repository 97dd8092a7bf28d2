"""The display of a run, as a terminal and as a pipe get it."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from empg.record.records import TrainRecord, WarmStartRecord
from empg.run import display
from empg.run.display import Progress
from tests import ROOT


def evaluation(iteration: int, successes: int, split: str = "valid_seen", sha: str = "a" * 64) -> dict[str, Any]:
    return {
        "kind": "eval",
        "iteration": iteration,
        "split": split,
        "decoding": "sampled",
        "temperature": 1.0,
        "panel": f"alfworld-{split}",
        "panel_sha256": sha,
        "n": 100,
        "successes": successes,
        "success": successes / 100,
        "low": 0.25,
        "high": 0.5,
        "by_type": {},
        "time": 20.0,
    }


def training(iteration: int, success: float = 0.5, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "train",
        "iteration": iteration,
        "rollout/success": success,
        "rollout/reward": success,
        "entropy/step_mean": 0.5,
        "policy/kl_old": 0.001,
        "time/rollout": 6.0,
        "time/credit": 1.0,
        "time/update": 3.0,
        "time/total": 10.0,
        "alarms": [],
        **changes,
    }


def warm_start(step: int, steps: int, accuracy: float = 0.5) -> dict[str, Any]:
    return {
        "kind": "warm_start",
        "step": step,
        "steps": steps,
        "loss": 1.0,
        "token_accuracy": accuracy,
        "lr": 1e-3,
        "time": step * 0.1,
    }


def drawn(progress: Progress) -> str:
    """The text of the live panel."""
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as text:
        console.print(progress._panel())
    return text.get()


def shown(*moves: tuple[str, Any]) -> list[str]:
    """The lines that a pipe gets."""
    file = io.StringIO()
    with Progress(4, Console(file=file, force_terminal=False)) as progress:
        for name, arguments in moves:
            getattr(progress, name)(*arguments)
    return file.getvalue().splitlines()


class TestPlain:
    def test_there_is_life_before_anything_happened(self) -> None:
        assert shown() == ["preparing the policy"]

    def test_one_line_an_iteration_says_how_it_went_and_what_is_left(self) -> None:
        moves = [("record", [evaluation(0, 30)]), ("stage", ["rollout", 64]), ("done", [3]), ("record", [training(1)])]
        lines = shown(*moves)
        assert lines[1] == "valid_seen (sampled) at iteration 0: success 30.0% [25.0, 50.0] of 100"
        assert lines[2] == (  # three more iterations of 10 s, and the evaluation of 20 s once more
            "iteration 1/4  success  50.0%  reward 0.500  entropy 0.500  KL 0.0010  "
            "10.0 s (rollout 6.0, credit 1.0, update 3.0)  left 0:50"
        )
        assert len(lines) == 3

    def test_each_evaluation_that_is_due_is_in_the_remaining_time(self) -> None:
        file = io.StringIO()
        with Progress(30, Console(file=file, force_terminal=False), every=5) as progress:
            for record in (evaluation(0, 30), evaluation(0, 30, "valid_unseen"), training(1), training(5)):
                progress.record(cast(Any, record))
            before = file.getvalue()
            progress.record(cast(Any, evaluation(5, 30)))
            progress.record(cast(Any, training(6)))
        # 29 iterations of 10 s and 6 evaluations of two panels of 20 s; 25 and 6; 24, and 5 of 30 s on average.
        assert re.findall(r"left (\S+)", before) == ["8:50", "8:10"]
        assert re.findall(r"left (\S+)", file.getvalue())[-1] == "6:30"

    def test_a_warm_start_takes_one_line_a_percent(self) -> None:
        lines = shown(*(("record", [warm_start(number, 1000)]) for number in range(1, 1001)))[1:]
        assert len(lines) == 101  # the first step, and each new percent
        assert lines[50] == "warm start  50%  loss 1.000  token accuracy 50.0%  left 0:50"

    def test_alarms_are_lines_of_their_own(self) -> None:
        lines = shown(("record", [training(1, alarms=["turns grow: 60 tokens, 20 at the start, cut at 64"])]))
        assert lines[-1] == "alarm: turns grow: 60 tokens, 20 at the start, cut at 64"

    def test_an_iteration_without_signal_has_no_entropy(self) -> None:
        record = training(1)
        del record["entropy/step_mean"]
        assert "entropy -  KL" in shown(("record", [record]))[-1]

    def test_a_record_waits_until_the_panel_is_drawn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        progress = Progress(4, Console(file=io.StringIO(), force_terminal=True))
        progress.record(cast(WarmStartRecord, warm_start(1, 4)))
        late = threading.Thread(target=lambda: progress.record(cast(TrainRecord, training(1))))

        def record_meanwhile(record: Any) -> str:
            late.start()
            late.join(timeout=0.2)
            assert late.is_alive()
            return f"step {record['step']}"

        monkeypatch.setattr(display, "_warm_numbers", record_meanwhile)
        assert "step 1" in drawn(progress)
        late.join()
        monkeypatch.undo()
        assert "iteration 1/4" in drawn(progress)

    def test_hostile_text_cannot_move_the_cursor(self) -> None:
        assert shown(("say", ["a\x1b[2Jb\rc\nd [bold]e[/]"]))[-1] == "a⟦U+001B⟧[2Jb⟦U+000D⟧c d [bold]e[/]"


class TestOutcome:
    def test_before_after_and_the_difference_in_points(self) -> None:
        records = [
            evaluation(0, 31),
            evaluation(0, 28, "valid_unseen"),
            training(1),
            evaluation(4, 76),
            evaluation(4, 70, "valid_unseen"),
        ]
        lines = shown(("finish", [records, Path("runs/demo/report.html")]))[1:]
        assert [re.split(r"\s{2,}", line) for line in lines] == [
            ["success (95% Wilson)", "episodes", "before", "after", "difference"],
            ["valid_seen (sampled)", "100", "31.0% [25.0, 50.0]", "76.0% [25.0, 50.0]", "+45.0 points"],
            ["valid_unseen (sampled)", "100", "28.0% [25.0, 50.0]", "70.0% [25.0, 50.0]", "+42.0 points"],
            ["report: runs/demo/report.html"],
        ]

    def test_a_run_without_iterations_has_no_after(self) -> None:
        lines = shown(("finish", [[evaluation(0, 31)], Path("report.html")]))
        assert re.split(r"\s{2,}", lines[2]) == ["valid_seen (sampled)", "100", "31.0% [25.0, 50.0]"]

    def test_a_later_look_at_the_start_is_not_taken_for_the_end(self) -> None:
        records = [evaluation(0, 31), evaluation(4, 76), evaluation(0, 12, sha="b" * 64)]
        assert "+45.0 points" in shown(("finish", [records, Path("report.html")]))[2]

    def test_evaluations_with_other_settings_than_those_of_the_recipe_do_not_count(self) -> None:
        records = [evaluation(0, 31), evaluation(4, 76), *(evaluation(i, 12) | {"temperature": 0.6} for i in (0, 4))]
        recipe = {"evaluation": {"temperature": 1.0, "episodes": 100}}
        assert "+45.0 points" in shown(("finish", [records, Path("report.html"), recipe]))[2]

    def test_other_panels_are_not_compared(self) -> None:
        records = [evaluation(0, 10, sha="b" * 64), evaluation(0, 31), evaluation(4, 76)]
        assert "+45.0 points" in shown(("finish", [records, Path("report.html")]))[2]


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from tests.run.test_display import evaluation, training, warm_start
from pathlib import Path
from empg.run.display import Progress
with Progress(4) as progress:
    for step in range(1, 601):
        progress.record(warm_start(step, 600, accuracy=step / 601))
    time.sleep(0.4)
    progress.record(evaluation(0, 30))
    progress.stage("rollout", 64)
    progress.done(16)
    progress.record(training(1, alarms=["turn length grew"]))
    progress.stage("rollout", 64)
    time.sleep(0.4)
    progress.say("going back [bold]one[/]")
    progress.finish([evaluation(0, 30), evaluation(4, 80)], Path("report.html"))
"""


def run_script(stdout: int) -> subprocess.Popen[bytes]:
    script = SCRIPT.format(tests=str(ROOT))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    return subprocess.Popen([sys.executable, "-c", script], stdout=stdout, env=environment)


def test_a_terminal_gets_a_live_panel() -> None:
    ours, theirs = pty.openpty()
    process = run_script(theirs)
    os.close(theirs)
    output = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not chunk:
            break
        output += chunk
    os.close(ours)
    assert process.wait(timeout=30) == 0
    text = output.decode()
    for wanted in (
        "preparing",
        "▁" * 7 + "▂" * 8 + "▃" * 7,  # the curve of the warm start: one point for each sixtieth of its steps
        "iteration 1/4",
        "50.0%",
        "rollout",
        "turn length grew",
        "[bold]one[/]",
        "+50.0 points",
    ):
        assert wanted in text
    assert "\x1b[" in text


def test_a_long_line_of_the_panel_wraps() -> None:
    file = io.StringIO()
    with Progress(4, Console(file=file, width=40, force_terminal=True, soft_wrap=True)) as progress:
        progress.record(cast(Any, evaluation(0, 30, split="valid_with_a_long_name")))
        progress.record(cast(Any, training(1, alarms=["turn length grew from 12.3 to 45.6; the limit is 64"])))
    panel = file.getvalue()
    assert "the limit is 64" in panel
    assert "30.0% [25.0, 50.0]" in panel


def test_a_pipe_gets_no_control_characters() -> None:
    process = run_script(subprocess.PIPE)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert all(line.isprintable() for line in output.decode().splitlines())
    assert output.count(b"\n") == 8 + 101
