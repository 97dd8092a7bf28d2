"""The space of texts, and how several environments share theirs between processes (`gymnasium.make_vec`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory

SHARED_BYTES = 1 << 20  # of an observation in UTF-8, between the processes of an AsyncVectorEnv
_LENGTH = 8  # bytes before each text, which hold its length


class AnyText(gymnasium.spaces.Text):
    """Every text up to a length. gymnasium's own space holds texts over a listed alphabet; pages are in no alphabet."""

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length, min_length=0)

    def contains(self, x: Any) -> bool:
        """Return whether it is a text, and not too long."""
        return isinstance(x, str) and len(x) <= self.max_length


class SharedTexts(Sequence[str]):
    """The texts of several environments in shared memory, read when they are asked for. A deep copy is a tuple.

    gymnasium reads shared memory once and expects arrays that change in place, which a text does not.
    """

    def __init__(self, memory: Any) -> None:
        self._rows = _rows(memory)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._rows[index]
        length = int.from_bytes(row[:_LENGTH].tobytes(), "little")
        return row[_LENGTH : _LENGTH + length].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)


@create_shared_memory.register(AnyText)
def _create(space: AnyText, n: int = 1, ctx: Any = None) -> Any:
    return ctx.RawArray("B", n * (_LENGTH + SHARED_BYTES))


@read_from_shared_memory.register(AnyText)
def _read(space: AnyText, shared_memory: Any, n: int = 1) -> SharedTexts:
    return SharedTexts(shared_memory)


@write_to_shared_memory.register(AnyText)
def _write(space: AnyText, index: int, value: str, shared_memory: Any) -> None:
    text = value.encode("utf-8", "surrogatepass")
    if len(text) > SHARED_BYTES:
        raise ValueError(
            f"the observation is too long for shared memory: expected at most {SHARED_BYTES:,} bytes, "
            f"got {len(text):,}. Pass vector_kwargs={{'shared_memory': False}}"
        )
    row = _rows(shared_memory)[index]
    row[:_LENGTH] = np.frombuffer(len(text).to_bytes(_LENGTH, "little"), dtype=np.uint8)
    row[_LENGTH : _LENGTH + len(text)] = np.frombuffer(text, dtype=np.uint8)


def _rows(memory: Any) -> Any:
    """Return the memory as one row of bytes per environment."""
    return np.frombuffer(memory, dtype=np.uint8).reshape(-1, _LENGTH + SHARED_BYTES)
