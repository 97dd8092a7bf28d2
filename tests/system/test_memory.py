"""Freed memory is returned to the system; otherwise long runs grow without bound."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# A heap in pieces: every hundredth block of 4 KiB stays, and pins what lies below it.
PIECES = """
import resource
from empg.system.memory import release_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

blocks = [bytearray(4096) for _ in range(50_000)]
kept = blocks[::100]
blocks.clear()
before = resident()
release_memory()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps such pieces and can return them")
def test_heap_fragments_are_returned_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", PIECES], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) > 100 << 20
