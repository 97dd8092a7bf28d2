"""One run of a study as a process of its own: the command `empg train`, with its output in a log file."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from empg.system.processes import end_with_parent


def train_in_process(arguments: Sequence[str], log: Path) -> None:
    """Run `empg train` with these arguments and exit with its code; the process ends when the study ends.

    It has a session of its own, so that Ctrl-C reaches the study alone, which then asks each run to stop once.
    """
    end_with_parent()
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
    sys.argv = ["empg", "train", *arguments]
    sys.modules.pop("empg.__main__", None)  # the command that started the study imported it, of which runpy warns
    runpy.run_module("empg", run_name="__main__", alter_sys=True)


def last_line(log: Path, start: int = 0) -> str:
    """Return the last line that a run wrote after byte `start`, at most 300 characters; empty if it wrote nothing.

    A remedy ("-> ...") follows the line of what is wrong.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    lines = [line.strip() for line in lines if line.strip()]
    first = -2 if lines[-1:] and lines[-1].startswith("->") else -1
    return " ".join(lines[first:])[:300]
