"""Checks of what callers hand in, shared by this package's functions."""

from __future__ import annotations

import torch
from torch import Tensor


def first_true(bad: Tensor) -> int | None:
    """Index of the first True in a `(n,)` mask, None where there is none."""
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def require_ids(name: str, ids: Tensor) -> None:
    """Raise a ValueError unless `ids` holds integers."""
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"{name}: integer ids are needed, got {ids.dtype}")


def require_shape(name: str, values: Tensor, shape: torch.Size, of: str) -> None:
    """Raise a ValueError unless `values` has the shape of the argument named `of`."""
    if values.shape != shape:
        raise ValueError(f"{name}: shape {tuple(values.shape)} differs from {tuple(shape)}, the shape of {of}")
