"""Open a catalogue from files or from a seed. It is indexed once, by one process, and then memory-mapped."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from empg.environments.webshop.catalogue import (
    FORMAT,
    SIGN,
    Catalogue,
    Done,
    EmptyCatalogueError,
    Stage,
    make_catalogue,
    open_catalogue,
    write_catalogue,
)
from empg.environments.webshop.generator import generate
from empg.environments.webshop.records import LoadReport, OfficialFiles, find_files, read_products
from empg.environments.webshop.world import Product
from empg.errors import UserError
from empg.system.cache import cache_folder

IN_MEMORY = 20_000  # products; up to this size every process generates the shop itself, which takes a few seconds
_log = logging.getLogger(__name__)


def open_official(
    data: Path, limit: int | None = None, cache: Path | None = None, *, people: bool = False
) -> Catalogue:
    """Open the catalogue of official files. On first use it is indexed into their folder, or into `cache`.

    Args:
        data: the folder of the files, the path of the products file, or a folder written by `write_catalogue`.
        limit: use only the first records, like the original's `num_products`.
        cache: a writable folder for the index.
        people: require the file of human instructions as well.

    Raises:
        MissingFileError: a file is missing; the message names it.
        UserError: a file is damaged or has no usable product, or `limit` is set for an indexed folder.
        PermissionError: the index cannot be written.
    """
    if (data / SIGN).is_file():
        if limit is not None:
            raise UserError(f"products={limit}: {data} is already indexed with all its products. Remove products")
        return open_catalogue(data)
    files = find_files(data, people=people)

    def write(folder: Path, stage: Stage) -> None:
        report = LoadReport()
        try:
            write_catalogue(read_products(files, report, limit, stage), folder, stage=stage)
        except EmptyCatalogueError:
            raise UserError(f"{files.products}: no usable product found: {report.summary()}") from None
        (_log.info if report.is_clean else _log.warning)("%s: %s", files.products.name, report.summary())

    folder = (cache or files.products.parent) / f"empg-index-{_fingerprint(files, limit)}"
    return _indexed(folder, write)


def open_generated(products: int, seed: int = 0, cache: Path | None = None) -> Catalogue:
    """Open the generated shop of a seed: in memory, or indexed once into a folder above `IN_MEMORY` products.

    `cache` is the parent of that folder; `$XDG_CACHE_HOME/empg` by default.
    """
    if products <= IN_MEMORY:
        return make_catalogue(generate(products, seed), generated=True)

    def write(folder: Path, stage: Stage) -> None:
        write_catalogue(_counted(generate(products, seed), stage("products", products)), folder, generated=True,
                        stage=stage)  # fmt: skip

    return _indexed((cache or cache_folder()) / f"webshop-{products}-{seed}-{_code()}", write)


def _indexed(folder: Path, write: Callable[[Path, Stage], None]) -> Catalogue:
    """Open the catalogue of a folder. If it does not exist, one process writes it first."""
    if not (folder / SIGN).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder), _Bars(f"Indexing the catalogue (once, into {folder})") as bars:
            if not (folder / SIGN).is_file():
                write(folder, bars.stage)
    return open_catalogue(folder)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait, with a message, until no other process writes the folder. A process that dies releases the lock."""
    path = folder.with_name(f".{folder.name}.lock")
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                Console(stderr=True).print(f"Another process is indexing {folder}: waiting for it", soft_wrap=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_same_file(file.fileno(), path):  # the previous owner has deleted the lock file
                continue
            try:
                yield
            finally:
                path.unlink()
            return


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


class _Bars:
    """Shows the stages of work as progress bars on standard error. The first stage prints the title."""

    def __init__(self, title: str) -> None:
        columns = (TextColumn("  {task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._title = title

    def __enter__(self) -> _Bars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, total: int) -> Done:
        """Start a stage."""
        if not self._progress.tasks:
            self._progress.console.print(self._title, soft_wrap=True)
            self._progress.start()
        task = self._progress.add_task(name, total=total)
        return lambda done: self._progress.update(task, completed=done)


def _counted(products: Iterator[Product], done: Done) -> Iterator[Product]:
    for number, product in enumerate(products, start=1):
        yield product
        if number % 1_000 == 0:
            done(number)
    done(number)


def _fingerprint(files: OfficialFiles, limit: int | None) -> str:
    """Return a fingerprint of the names, sizes and times of the files, so that changed files get another index."""
    parts = [f"{FORMAT}/{limit}"]
    for path in (files.products, files.attributes, files.human):
        if path is not None:
            stat = path.stat()
            parts.append(f"{path.name}/{stat.st_size}/{stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@functools.cache
def _code() -> str:
    """Return a fingerprint of the code that generates and indexes a shop, so that changed code gets another index."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for file in (here.parent / "analysis.py", *(here / f"{name}.py" for name in _CONTENT_MODULES)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


_CONTENT_MODULES = ("catalogue", "generator", "goals", "records", "search", "tables", "world")
