"""Folders that are built once and read by many processes, such as an index.

One process builds a folder under another name and renames it when it is complete; the others wait. A manifest in the
folder has the size and a digest of every file. So a damaged folder is found when it is opened, not while it is read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console

from empg.errors import UserError, failures_as

MANIFEST = "manifest.json"
_FORMAT = 1
_EDGE = 1 << 16  # bytes at the start and at the end of a file that its digest covers; hashing 60 GB takes minutes
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Libraries in C++ and Rust pass the reason on as text, and numpy drops it.
_FULL_TEXTS = re.compile(f"{os.strerror(errno.ENOSPC)}|{os.strerror(errno.EFBIG)}|requested and \\d+ written")


def build_once(folder: Path, write: Callable[[Path], None], *, resume: bool = False) -> None:
    """Build a folder if it does not exist, and check it.

    The folder appears when it is complete. A process that dies leaves nothing that is taken for complete, and the next
    one builds the folder.

    Args:
        folder: final path of the folder.
        write: fills the folder whose path it receives.
        resume: keep what an interrupted `write` has left, so that the next one can continue with it. By default each
            `write` starts with an empty folder.

    Raises:
        UserError: the folder cannot be written, the disk is full, or a file of the folder is damaged; the message says
            what to do.
    """
    if not _has_files(folder):
        with failures_as(lambda error: _failure(error, folder, resume)):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(folder):
                if not _has_files(folder):
                    _build(folder, write, resume)
    check_folder(folder)


def check_folder(folder: Path, remedy: str = "") -> None:
    """Check that every file of a folder is as it was written: its size, its first and its last 64 KiB.

    Args:
        folder: the folder.
        remedy: what the message says to do; by default, to delete the folder, which `build_once` then builds again.

    Raises:
        UserError: a file is missing or damaged; the message names it.
    """
    again = remedy or f"Delete the folder {folder} to build it again"
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(f"{file} is missing, so {folder} is not a complete index. {again}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["format"]
        listed = [(folder / name, int(size), str(digest)) for name, (size, digest) in manifest["files"].items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file} is damaged. {again}") from None
    if version != _FORMAT:
        raise UserError(f"{file}: unsupported format: expected {_FORMAT}, got {version!r:.20}. {again}")
    for file, size, digest in listed:
        if not file.is_file():
            raise UserError(f"{file} is missing. {again}")
        if file.stat().st_size != size:
            raise UserError(f"{file} is damaged: expected {size:,} bytes, got {file.stat().st_size:,}. {again}")
        if _digest(file) != digest:
            raise UserError(f"{file} is damaged: its content has changed. {again}")


def fingerprint_files(version: object, *files: Path) -> str:
    """Return a fingerprint of the names, sizes and times of files, for files that are too large to read twice.

    Args:
        version: whatever else the name of an index must depend on.
        files: the files.

    Returns:
        16 hexadecimal digits.

    Raises:
        FileNotFoundError: a file is missing.
    """
    parts = [f"{version}"]
    for file in files:
        stat = file.stat()
        parts.append(f"{file.name}/{stat.st_size}/{stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _build(folder: Path, write: Callable[[Path], None], resume: bool) -> None:
    work = _work(folder)
    if not resume:
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    work.mkdir(exist_ok=True)  # the user's umask applies, because the folder may be shared with other users
    try:
        write(work)
        _write_manifest(work)
        os.replace(work, folder)
    finally:
        if not resume:
            shutil.rmtree(work, ignore_errors=True)


def _write_manifest(work: Path) -> None:
    files = sorted(file for file in work.rglob("*") if file.is_file() and file.suffix != ".lock")  # tantivy has locks
    for file in files:
        if file.suffix == ".npy":
            _must_be_whole(file)
    listed = {file.relative_to(work).as_posix(): [file.stat().st_size, _digest(file)] for file in files}
    (work / MANIFEST).write_text(json.dumps({"format": _FORMAT, "files": listed}, indent=1), encoding="utf-8")


def _must_be_whole(file: Path) -> None:
    """Check the size of an array, because `np.save` does not notice that the disk is full at its last 4 kB."""
    try:
        np.load(file, mmap_mode="r")
    except ValueError:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        digest = hashlib.sha256(opened.read(_EDGE))
        opened.seek(max(_EDGE, file.stat().st_size - _EDGE))
        digest.update(opened.read(_EDGE))
    return digest.hexdigest()[:16]


def _failure(error: Exception, folder: Path, resume: bool) -> str | None:
    """Return what to say of an error: the folder cannot be written, or the disk is full; None for any other."""
    if isinstance(error, OSError) and error.errno is not None and _is_of_folder(error, folder):
        return f"{folder} cannot be written: {os.strerror(error.errno).lower()}. Set cache to a writable folder"
    code = error.errno if isinstance(error, OSError) and error.errno in _FULL else None
    if code is None and not _FULL_TEXTS.search(str(error)):
        return None
    place = next(parent for parent in folder.parents if parent.exists())
    return (
        f"{folder} cannot be written: {os.strerror(code or errno.ENOSPC).lower()}, "
        f"{shutil.disk_usage(place).free / 1e9:.1f} GB are free. Free disk space or set another cache folder, and "
        f"run the command again: indexing {'continues where it stopped' if resume else 'starts again'}"
    )


def _is_of_folder(error: OSError, folder: Path) -> bool:
    """Return whether an error comes from the folder or its place, and not from a file that `write` reads."""
    if error.errno in _FULL:
        return False
    if error.filename is None:  # only a write to an open file fails like this
        return error.errno == errno.EROFS
    path, work = Path(os.fsdecode(error.filename)), _work(folder)
    return path in (folder, work, _lock_file(folder), *folder.parents) or work in path.parents


def _work(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.part")


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait, with a message, until no other process builds the folder. A process that dies releases the lock."""
    path = _lock_file(folder)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        Console(stderr=True).print(f"Another process is indexing {folder}: waiting for it", soft_wrap=True)
        lock.acquire(poll_interval=0.2)
    try:
        yield
        path.unlink(missing_ok=True)  # whoever still waits for this file finds the folder complete and writes nothing
    finally:
        lock.release()
