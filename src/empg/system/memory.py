"""Keep the memory of a process flat, and say in one line what to change where that of a GPU is used up."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from empg.errors import UserError

# Under bfloat16 autocast, torch keeps a compiled kernel for each shape of a matrix product, 1024 of them in each of two
# caches. The shapes of batches never repeat, but the layers of a model have the same ones: 16 kernels are enough. With
# 1024, a worker of the demo grew by 850 MiB and was not faster. See docs/log.md.
_KERNELS_KEPT = "16"
_KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # not in musl


def bound_kernel_caches() -> None:
    """Bound torch's caches of compiled CPU kernels, unless the environment variables of their sizes are set.

    Call it before the first matrix product of the process, when torch reads these variables.
    """
    for name in _KERNEL_CACHES:
        os.environ.setdefault(name, _KERNELS_KEPT)


def release_memory() -> None:
    """Return free memory to the system if the C library supports it. Takes a few milliseconds.

    Varying batch shapes fragment glibc's heap, which keeps the free fragments. A worker of the demo had 4 GiB after 58
    iterations, of which three quarters were free.
    """
    if _TRIM is not None:
        _TRIM(0)


@contextmanager
def explain_out_of_memory(*keys: str) -> Iterator[None]:
    """Turn torch's error when the memory of a GPU is used up into one that names the recipe keys which decide.

    Raises:
        UserError: the memory of a GPU is used up.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        # "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of ... of which ... is free. ..."
        said = ". ".join(str(error).split(". ")[:3]).strip()
        raise UserError(f"{said}. Change {' or '.join(keys)}; `empg doctor RECIPE` counts the memory") from None
