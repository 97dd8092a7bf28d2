"""Freed memory is returned to the system, caches are bounded, and a full GPU says which keys decide."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from empg.errors import UserError
from empg.policy.device import computes_bfloat16
from empg.system.memory import explain_out_of_memory

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

# Matrix products of ever new shapes, in bfloat16, as the batches of a run have them.
SHAPES = """
import resource
import torch
from empg.system.memory import bound_kernel_caches, release_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

bound_kernel_caches()
torch.set_num_threads(1)
layer = torch.nn.Linear(64, 64)
def work(first):
    with torch.autocast("cpu", torch.bfloat16):
        for length in range(first, first + 200):
            layer(torch.randn(length, 64)).sum().backward()
    release_memory()
work(16)
before = resident()
work(216)
print(resident() - before)
"""


def run(program: str, **variables: str) -> int:
    environment = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" not in name} | variables
    command = [sys.executable, "-c", program]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps such pieces and can return them")
def test_heap_fragments_are_returned_to_the_system() -> None:
    assert run(PIECES) > 100 << 20


@pytest.mark.skipif(
    not computes_bfloat16(torch.device("cpu")) or platform.libc_ver()[0] != "glibc",
    reason="only kernels for bfloat16 in hardware are compiled and kept",
)
def test_kernels_of_past_shapes_are_not_kept() -> None:
    assert run(SHAPES) < 10 << 20
    by_hand = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024", "LRU_CACHE_CAPACITY": "1024"}
    assert run(SHAPES, **by_hand) > 40 << 20


def test_a_full_gpu_is_one_line_with_the_keys_to_change() -> None:
    said = (
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.19 GiB of which 3.12 GiB is "
        "free. Including non-PyTorch memory, this process has 76.06 GiB memory in use. Of the allocated memory 70 GiB"
    )
    with pytest.raises(UserError) as caught, explain_out_of_memory("rollout.slots", "optimizer.micro_batch_tokens"):
        raise torch.OutOfMemoryError(said)
    assert str(caught.value) == (
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.19 GiB of which 3.12 GiB is "
        "free. Change rollout.slots or optimizer.micro_batch_tokens; `empg doctor RECIPE` counts the memory"
    )


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="another"), explain_out_of_memory("rollout.slots"):
        raise RuntimeError("another")
