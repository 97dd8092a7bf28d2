"""What a result depends on besides the recipe: the processor, and the commit of the code."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path


def processor() -> str:
    """Return the name of the processor as the system gives it, e.g. `AMD EPYC 7763`; else its architecture."""
    info = Path("/proc/cpuinfo")
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()


def commit() -> str:
    """Return the commit of the checkout that this package is in, with `-dirty` if files differ; empty outside one."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
