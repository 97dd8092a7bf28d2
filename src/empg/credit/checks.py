"""Checks of arguments, shared by the functions of this package."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from empg.credit.segments import run_starts, segments_of

LARGEST, SMALLEST_EPS = 1e15, 1e-30
"""Bounds of constants, and of data in size. Beyond them, float32 has infinite squares, or 0 / 0 where eps should
prevent it."""


def require_tensor(name: str, values: object) -> None:
    """Raise a TypeError unless `values` is a tensor."""
    if not isinstance(values, Tensor):
        kind = type(values).__name__
        raise TypeError(f"{name}: expected a tensor, got {kind}; torch.as_tensor makes one of a list or an array")


def require_between(name: str, value: float, low: float, high: float) -> None:
    """Raise a ValueError unless `low <= value <= high`; NaN and what is not a number are refused as well."""
    try:
        inside = bool(low <= value <= high)
    except TypeError:
        inside = False
    if not inside:
        raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, got {value!r:.80}")


def require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise a ValueError unless `value` is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def first_true(bad: Tensor) -> int | None:
    """Return the index of the first True in a `(n,)` mask, or None if there is none."""
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def require_ids(name: str, ids: Tensor) -> None:
    """Raise a ValueError unless `ids` holds integers."""
    require_tensor(name, ids)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"{name}: expected integer ids, got {ids.dtype}")


def require_index(name: str, ids: Tensor, size: int, of: str) -> Tensor:
    """Return `ids (n,)` as int64, or raise a ValueError unless they are indices into `of`, which has `size` values."""
    require_ids(name, ids)
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        bounds = f"{int(ids.min())} to {int(ids.max())}"
        raise ValueError(f"{name}: expected indices from 0 to below {size}, the length of {of}, got {bounds}")
    return ids.long()


def require_contiguous(name: str, ids: Tensor) -> None:
    """Raise a ValueError unless equal `ids (n,)` stand together; the message takes them for those of episodes."""
    runs = segments_of(ids[run_starts(ids)])
    if (torn := first_true(runs.sizes > 1)) is not None:
        raise ValueError(f"{name}: rows of episode {int(runs.ids[torn])} must be contiguous and in time order")


def in_bounds(values: Tensor) -> Tensor:
    """Return a bool per value: it is a number of at most `LARGEST` in size. NaN and infinity are not."""
    return values.abs() <= LARGEST


def out_of_bounds(name: str, place: str, value: Tensor, what: str = "it") -> ValueError:
    """Return the error on a value that is not `in_bounds`; `what` is what its caller may leave out."""
    expected = f"expected a number from {-LARGEST:g} to {LARGEST:g}, got {float(value):g}"
    return ValueError(f"{name}: {place}: {expected}; drop {what} or fix its source")


def require_bounded(name: str, values: Tensor, per: str) -> Tensor:
    """Return `values (n,)` as float32, or raise a ValueError that names the first `per` that is not `in_bounds`."""
    converted = values.float()
    if (index := first_true(~in_bounds(converted))) is not None:
        raise out_of_bounds(name, f"{per} {index}", values[index])
    return converted


def require_vector(name: str, values: Tensor, per: str, letter: str) -> None:
    """Raise a ValueError unless `values` has one dimension, with one value per `per`."""
    require_tensor(name, values)
    if values.ndim != 1:
        raise ValueError(f"{name}: expected one value per {per}, shape ({letter},), got {tuple(values.shape)}")


def require_shape(name: str, values: Tensor, shape: torch.Size, of: str) -> None:
    """Raise a ValueError unless `values` has the shape of the argument named `of`."""
    require_tensor(name, values)
    if values.shape != shape:
        raise ValueError(f"{name}: expected shape {tuple(shape)}, the shape of {of}, got {tuple(values.shape)}")


def checked_rewards(rewards: Tensor, groups: Tensor) -> Tensor:
    """Return `rewards (E,)` as float32, or raise a ValueError unless they are in bounds and have one group each."""
    require_vector("rewards", rewards, "episode", "E")
    require_ids("groups", groups)
    require_shape("groups", groups, rewards.shape, of="rewards")
    return require_bounded("rewards", rewards, "episode")
