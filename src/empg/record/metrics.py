"""`metrics.jsonl`: records are appended one line at a time, and are read back with their lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from empg.record.errors import RunFolderError, os_errors_as
from empg.record.fields import fault_of
from empg.record.lines import json_line
from empg.record.lock import locked
from empg.record.records import Record
from empg.system.appending import append_lines

METRICS_LOCK = ".metrics.lock"  # beside the file; held by a process that changes it
_LOCK_WAIT = 60.0  # seconds


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record as one line and wait until it is on the disk; see `RunFolder.append_metrics`."""
    with os_errors_as(f"cannot write {path}"), metrics_lock(path):
        append_lines(path, json_line(record))


@contextmanager
def metrics_lock(path: Path) -> Iterator[None]:
    """Hold the file during the block, so that no other process changes it."""
    with locked(path.with_name(METRICS_LOCK), wait=_LOCK_WAIT, busy=f"{path} is locked by another process"):
        yield


def read_records(path: Path) -> tuple[list[tuple[bytes, Record]], list[str]]:
    """Return the complete lines with their records, and what was left out, in words: an incomplete last line.

    Raises:
        RunFolderError: see `RunFolder.read_metrics`.
    """
    problems: list[str] = []
    try:
        # Not splitlines: text may contain line separators that JSON does not escape.
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], problems
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from None
    if lines.pop().strip():  # even if it parses: its last number may be incomplete
        problems.append(f"{path.name} line {len(lines) + 1} is incomplete because the run was killed; skipped")
    return [(line + b"\n", _record(path, n, line)) for n, line in enumerate(lines, 1) if line.strip()], problems


def _record(path: Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise RunFolderError(f"{path} line {number} is not a JSON object; fix or delete the line")
    if fault := fault_of(record):
        raise RunFolderError(f"{path} line {number}: {fault}. Fix or delete the line")
    return record
