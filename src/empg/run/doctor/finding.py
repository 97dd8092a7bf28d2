"""What a check found, and how it is put into words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from empg.errors import described, message_of

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `fail` stops the run, `warn` may stop it; the remedy says what to do."""

    level: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


def size(count: int) -> str:
    """Write a number of bytes."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / (1 << 20):.0f} MiB"


def duration(seconds: float) -> str:
    """Write seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5_400 else f"{seconds / 3_600:.1f} hours"


def said(error: Exception) -> str:
    """Return the message of an error, with its class where the message alone may say little."""
    return one_line(error) if isinstance(error, ValueError | OSError | ImportError) else described(error)


def one_line(error: BaseException) -> str:
    """Return the message of an error, without line breaks and at most 500 characters of it."""
    return message_of(error, 500)
