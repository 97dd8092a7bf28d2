"""Playing through a pipe, at a terminal, and watching the expert."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gymnasium
import pytest

from empg.play import open_environment, play
from tests.lamps import Lamps


def lines(*answers: str) -> Callable[[str, Sequence[str]], str]:
    """A user who types these lines and quits."""
    rest = list(answers)

    def ask(prompt: str, commands: Sequence[str]) -> str:
        if not rest:
            raise EOFError
        return rest.pop(0)

    return ask


def played(environment: Lamps, *answers: str, task: int = 0, expert: bool = False) -> tuple[bool, str]:
    out = io.StringIO()
    won = play(environment, task, expert=expert, ask=lines(*answers), out=out)
    return won, out.getvalue()


class TestEpisode:
    def test_won(self) -> None:
        won, text = played(Lamps("press:2"), "press 0", "press 2")
        assert won
        assert text.startswith("train, task 0 (press), 6 steps.")
        assert "Task: press lamps" in text
        assert text.endswith("\nsolved after 2 steps\n")

    def test_lost(self) -> None:
        won, text = played(Lamps("lose:1"), "press 0")
        assert not won
        assert text.endswith("\nfailed after 1 step\n")

    def test_out_of_steps(self) -> None:
        won, text = played(Lamps("endless", max_steps=2), "x", "y")
        assert not won
        assert text.endswith("\nnot solved: step limit reached after 2 steps\n")

    def test_quitting_is_not_an_error(self) -> None:
        assert played(Lamps("endless"), "press 0")[1].endswith("\nquit after 1 step\n")

    def test_a_question_mark_lists_and_an_empty_line_does_nothing(self) -> None:
        _, text = played(Lamps("press:2"), "?", "", "  ", "press 0")
        assert "\n  press 0\n  press 1\n  press 2\n  press 3\n  press 4\n" in text
        assert text.endswith("quit after 1 step\n")

    def test_the_expert_plays_and_says_what_it_thinks(self) -> None:
        won, text = played(Lamps("press:2"), expert=True)
        assert won
        assert "(0 is lit.)\n1> press 0" in text

    def test_a_task_that_does_not_exist(self) -> None:
        with pytest.raises(ValueError, match="task 7 does not exist: expected 0 to 1 in train"):
            played(Lamps("win:1", "win:1"), task=7)

    def test_text_of_an_environment_cannot_move_the_cursor(self) -> None:
        class Rude(Lamps):
            def _observation(self) -> str:
                return "\x1b[2J\x07lamp\u202e"

        assert "⟦U+001B⟧[2J⟦U+0007⟧lamp⟦U+202E⟧\n" in played(Rude("win:1"), "x")[1]


class TestWorld:
    def test_by_recipe_name_and_by_gymnasium_id(self) -> None:
        named = open_environment("alfworld", "valid_seen", ["rooms=small", "max_steps=7"])
        by_id = open_environment("empg/ALFWorld-v1", "valid_seen", ["rooms=small", "max_steps=7"])
        assert (named.split, named.max_steps) == (by_id.split, by_id.max_steps) == ("valid_seen", 7)
        assert named.task_id(0) == by_id.task_id(0)

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("chess", [], "unknown environment 'chess'"),
            ("alfworld", ["rooms"], "expected key=value"),
            ("alfworld", ["split=train"], "wrong option 'split=train': the split is chosen with --split train"),
            ("deepsearch", ["requests.per_second=2"], "or 'requests={per_second: 2}', got"),
            ("alfworld", ["rooms=["], "is not valid YAML"),
            (
                "alfworld",
                ["floor=2"],
                "unknown key 'floor'; did you mean 'rooms'|unknown key 'floor'; valid keys: games, rooms",
            ),
            ("empg/ALFWorld-v1", ["floor=2"], "unknown key 'floor'"),
        ],
    )
    def test_what_is_wrong_is_said(self, name: str, options: list[str], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            open_environment(name, "train", options)

    def test_a_world_of_numbers_is_refused(self) -> None:
        gymnasium.register("empg-test/Numbers-v0", entry_point=lambda **_: gymnasium.Env())
        with pytest.raises(ValueError, match="is not a text environment"):
            open_environment("empg-test/Numbers-v0", "train")


EMPG = str(Path(sys.executable).with_name("empg"))
COMMAND = [EMPG, "play", "alfworld", "rooms=small", "max_steps=4", "--task", "3"]


def test_a_pipe_plays() -> None:
    done = subprocess.run(COMMAND, input="?\nlook\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "  go to " in done.stdout
    assert done.stdout.endswith("quit after 1 step\n")
    assert "\x1b" not in done.stdout


def test_a_terminal_completes_commands_and_ctrl_d_leaves() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
    process = subprocess.Popen(COMMAND, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        _read_until(ours, b"1>")
        os.write(ours, b"go to sa")
        _read_until(ours, b"sa")
        os.write(ours, b"\t")
        _read_until(ours, b"1")
        os.write(ours, b"\r")
        assert b"You arrive at safe 1" in _read_until(ours, b"2>")
        os.write(ours, b"\x04")
        _read_until(ours, b"quit after 1 step")
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read_until(terminal: int, wanted: bytes) -> bytes:
    """Wait for new output to show some text; what moves the cursor is left out of it."""
    seen, shown, until = b"", b"", time.monotonic() + 30
    while wanted not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, until - time.monotonic()))
        assert ready, f"{wanted!r} did not come; the terminal shows {shown!r}"
        seen += os.read(terminal, 65536)
        shown = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen)
    return shown
