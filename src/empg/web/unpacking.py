"""Decompress response bodies in pieces, so that a small response cannot become huge in memory.

httpx applies every encoding that a server names, even repeatedly, and returns the output of each step at once. Two
kilobytes that are compressed twice can become gigabytes. Here a body must be compressed once with gzip or not at all,
because requests accept nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

ACCEPTED = "gzip"  # value of Accept-Encoding in requests
_PIECE = 1 << 16  # bytes per decompressed piece
_GZIP = 16 + zlib.MAX_WBITS
_MAGIC = b"\x1f\x8b"


class PackedError(Exception):
    """A body has an encoding that was not requested, or is damaged."""


def unpack_body(chunks: Iterable[bytes], encoding: str, most: int) -> tuple[bytes, bool]:
    """Return a decompressed body, cut to `most` bytes, and whether it was cut.

    Args:
        chunks: the raw body; reading also stops after `most` raw bytes.
        encoding: value of the header Content-Encoding.
        most: maximal number of bytes.

    Raises:
        PackedError: the body is compressed more than once, not with gzip, or damaged.
    """
    name = encoding.strip().lower()
    if name not in ("", "identity", "gzip", "x-gzip"):
        raise PackedError(f"unsupported content encoding {name!r}")
    body, taken = bytearray(), 0
    unzip = _Gzip() if name in ("gzip", "x-gzip") else None
    for chunk in chunks:
        taken += len(chunk)
        for piece in (chunk,) if unzip is None else unzip.unpack(chunk):
            body += piece
            if len(body) > most:
                return bytes(body[:most]), True
        if taken > most:  # gzip members and blocks can be empty, so the output alone is not a bound
            return bytes(body), True
    if unzip is not None and not unzip.complete:
        raise PackedError("the body is truncated")
    return bytes(body), False


class _Gzip:
    """Decompresses the members of a gzip file in order. Data after the last member is padding."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._begun = self._padding = False

    @property
    def complete(self) -> bool:
        return self._member.eof or not self._begun

    def unpack(self, packed: bytes) -> Iterator[bytes]:
        """Yield decompressed pieces of at most `_PIECE` bytes."""
        while packed and not self._padding:
            if self._member.eof:
                if not _MAGIC.startswith(packed[:2]):
                    self._padding = True
                    return
                self._member = zlib.decompressobj(_GZIP)
            self._begun = True
            try:
                piece = self._member.decompress(packed, _PIECE)
            except zlib.error as error:
                raise PackedError(str(error)) from error
            packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            yield piece
