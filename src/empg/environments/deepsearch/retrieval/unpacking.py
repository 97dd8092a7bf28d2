"""Bodies of responses, unpacked piece by piece: what is small on the wire must not become huge in memory.

httpx unpacks whatever a server names, several times over, and hands out what each step gives at once: two kilobytes
packed twice are gigabytes. Here a body is packed once, by gzip, or not at all; nothing else was asked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

ACCEPTED = "gzip"  # what a request says in Accept-Encoding
_PIECE = 1 << 16  # bytes unpacked at once
_GZIP = 16 + zlib.MAX_WBITS
_MAGIC = b"\x1f\x8b"


class PackedError(Exception):
    """A body is packed in a way that was not asked for, or is damaged."""


def read_body(chunks: Iterable[bytes], encoding: str, most: int) -> tuple[bytes, bool]:
    """A body, cut at `most` bytes, and whether it was cut.

    Args:
        chunks: as they come from the wire; no more than `most` bytes of them are looked at either.
        encoding: the value of the header Content-Encoding.
        most: bytes.

    Raises:
        PackedError: it is packed more than once or by something else than gzip, or cannot be unpacked.
    """
    name = encoding.strip().lower()
    if name not in ("", "identity", "gzip", "x-gzip"):
        raise PackedError(f"packed as {name!r}")
    body, taken = bytearray(), 0
    unzip = _Gzip() if name in ("gzip", "x-gzip") else None
    for chunk in chunks:
        taken += len(chunk)
        for piece in (chunk,) if unzip is None else unzip.unpack(chunk):
            body += piece
            if len(body) > most:
                return bytes(body[:most]), True
        if taken > most:  # members of a gzip file, or blocks of one, may all be empty
            return bytes(body), True
    if unzip is not None and not unzip.complete:
        raise PackedError("it ends early")
    return bytes(body), False


class _Gzip:
    """The members of a gzip file, one after the other; what stands behind them is padding."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._begun = self._padding = False

    @property
    def complete(self) -> bool:
        return self._member.eof or not self._begun

    def unpack(self, packed: bytes) -> Iterator[bytes]:
        """Pieces of at most `_PIECE` bytes."""
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
