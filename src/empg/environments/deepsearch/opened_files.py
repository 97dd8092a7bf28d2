"""Open data files of unknown format: decompress gzip and zstd, skip a byte order mark, name what is not read."""

from __future__ import annotations

import io
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from empg.environments.publishing import fingerprint_files
from empg.errors import MissingFileError, UserError

PARQUET = b"PAR1"
READ = "JSON lines, a JSON array, CSV, TSV or Parquet; text may be compressed with gzip or zstd"
_SUFFIXES = (".gz", ".zst")
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BUFFER = 1 << 20  # bytes
_HEAD = 1_024  # bytes that are searched for signs of a format that is not read
_TAR = slice(257, 262)
# First bytes, the format, and what to do.
_UNREAD = (
    (b"BZh", "a bzip2 file", "Decompress it with bunzip2"),
    (b"\xfd7zXZ\0", "an xz file", "Decompress it with unxz"),
    (b"\x04\x22\x4d\x18", "an LZ4 file", "Decompress it with unlz4"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it and name a file of it"),
    (b"PK\x03\x04", "a ZIP archive", "Unpack it and name a file of it"),
    (b"SQLite format 3\0", "an SQLite database", "Export its table as CSV"),
    (b"ARROW1", "an Arrow file", "Write it as Parquet"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "Write it as Parquet"),
    (b"\x89HDF", "an HDF5 file", "Write it as Parquet"),
    (b"%PDF", "a PDF file", "Extract its text"),
    (BOM_UTF16_LE, "a UTF-16 file", "Convert it with iconv -f UTF-16 -t UTF-8"),
    (BOM_UTF16_BE, "a UTF-16 file", "Convert it with iconv -f UTF-16 -t UTF-8"),
    (b"version https://git-lfs", "a Git LFS pointer", "Download the file itself with git lfs pull"),
    (b"<", "an HTML or XML file", "Download the data itself"),
)


def plain_name(path: Path) -> Path:
    """Return the path without the suffix of a compression: `dev.jsonl` for `dev.jsonl.gz`."""
    return path.with_suffix("") if path.suffix.lower() in _SUFFIXES else path


def content_key(*files: Path) -> str:
    """Return the key of a cache of what is read from files: it changes with their absolute paths, sizes and times.

    The paths themselves stay as they are given, because a question may be named after the folder of its file.

    Raises:
        FileNotFoundError: a file is missing.
    """
    return fingerprint_files("\n".join(str(file.absolute()) for file in files), *files)


def require_file(path: Path, missing: str) -> None:
    """Make sure that a path is a file.

    Args:
        path: the path.
        missing: the message if nothing has this path.

    Raises:
        UserError: it is a folder.
        MissingFileError: it does not exist.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: expected a file. Name a file in it")
    if not path.is_file():
        raise MissingFileError(missing)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read its bytes, decompressed and without a byte order mark.

    Raises:
        UserError: the file has a format that is not read, or it cannot be decompressed.
    """
    packed = None
    try:
        with path.open("rb") as raw:
            packed = next((name for magic, name in COMPRESSED.items() if raw.peek(4).startswith(magic)), None)
            file = raw if packed is None else _decompressed(raw, packed)
            head = file.peek(_HEAD)[:_HEAD]
            _check(path, head, packed)
            if head.startswith(BOM_UTF8):
                file.read(len(BOM_UTF8))
            yield file
    except OSError as error:
        advice = "" if packed is None else "; download it again"
        raise UserError(f"{path}: the file cannot be read ({error}){advice}") from None


def _decompressed(raw: BinaryIO, name: str) -> io.BufferedReader:
    import pyarrow

    # A stream of pyarrow has all that a buffer asks of it, without being a RawIOBase.
    return io.BufferedReader(cast("Any", pyarrow.CompressedInputStream(raw, name)), _BUFFER)


def _check(path: Path, head: bytes, packed: str | None) -> None:
    found = next(((name, advice) for magic, name, advice in _UNREAD if head.lstrip().startswith(magic)), None)
    if head[_TAR] == b"ustar":
        found = "a tar archive", "Unpack it and name a file of it"
    elif packed is not None and head.startswith((PARQUET, *COMPRESSED)):
        found = "Parquet" if head.startswith(PARQUET) else "a compressed file", "Decompress it"
    elif found is None and b"\0" in head and not head.startswith(PARQUET):
        found = "binary data", "Convert it"
    if found is not None:
        name, advice = found
        inside = f" inside {packed}" if packed is not None else ""
        raise UserError(f"{path}: unsupported format: expected {READ}, got {name}{inside}. {advice}")
