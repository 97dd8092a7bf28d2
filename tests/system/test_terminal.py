"""What is drawn, and what is printed as lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from empg.system.terminal import open_console

pty = pytest.importorskip("pty")


@contextmanager
def standard_output(to: int, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[None]:
    """Standard output to a file descriptor, with these variables alone of those that decide how it is used."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    with os.fdopen(to, "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        yield


@pytest.mark.parametrize(("term", "drawn"), [("xterm", True), ("dumb", False)])
def test_a_terminal_is_drawn_on_if_it_has_a_cursor(monkeypatch: pytest.MonkeyPatch, term: str, drawn: bool) -> None:
    main, follower = pty.openpty()
    with standard_output(follower, monkeypatch, TERM=term):
        assert open_console().is_terminal is drawn
    os.close(main)


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_pipe_gets_lines_whatever_a_variable_claims(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    reader, writer = os.pipe()
    with standard_output(writer, monkeypatch, **{variable: "1"}):
        assert not open_console().is_terminal
    assert not open_console().is_terminal  # the file is closed
    os.close(reader)
