"""Signals, in real processes: the first one asks, the second one ends."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Works until it is asked to stop, or for ever; then ends with 7, a status that no signal gives.
WORK = """
import os, sys, time
from empg.system.signals import StopSignals
with StopSignals(lambda name: os.write(1, f"{name}\\n".encode())) as signals:
    print("ready", flush=True)
    while sys.argv[1] == "deaf" or not signals.number:
        time.sleep(0.01)
with open(sys.argv[2], "w") as file:
    file.write(f"stopped by {signals.number}")
sys.exit(7)
"""


@contextmanager
def working(how: str, file: Path, **more: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WORK, how, str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload]
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_lets_the_work_end_by_itself(tmp_path: Path, name: str) -> None:
    number = signal.Signals[name]
    with working("polite", tmp_path / "file") as process:
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == f"{name}\n"
        assert process.returncode == 7
        assert (tmp_path / "file").read_text() == f"stopped by {number.value}"


def test_the_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    with working("deaf", tmp_path / "file") as process:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # a shell and a wrapper pass on the same request
        assert process.stdout is not None
        assert process.stdout.readline() == "SIGTERM\n"  # if both are pending, Python handles SIGHUP first
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        process.send_signal(signal.SIGHUP)  # a terminal that is closed sends several
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 128 + signal.SIGINT


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """As under nohup."""
    with working(
        "polite", tmp_path / "file", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ) as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[0] == "SIGTERM\n"


def test_a_closed_terminal_does_not_turn_the_last_prints_into_errors(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", WORK, "polite", str(tmp_path / "file")])
    printed = b""
    while b"ready\r\n" not in printed:  # closed within the line, the print itself fails, before any signal
        printed += os.read(terminal, 1000)
    os.close(terminal)  # the kernel sends SIGHUP
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert (tmp_path / "file").read_text() == f"stopped by {signal.SIGHUP.value}"
