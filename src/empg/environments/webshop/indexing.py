"""From files or a seed to an open catalogue: indexed once, then mapped, however many processes ask for it at once."""

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

IN_MEMORY = 20_000  # products of a generated shop that is made anew in every process, in some seconds
_log = logging.getLogger(__name__)


def open_official(
    data: Path, limit: int | None = None, cache: Path | None = None, *, people: bool = False
) -> Catalogue:
    """The catalogue of official files, indexed on first use into a folder beside them (or in `cache`).

    Args:
        data: the folder of the files, the products' file, or a folder that `write_catalogue` wrote.
        limit: only the first records, as the original's `num_products`.
        cache: where the index is kept; a folder that can be written.
        people: what people asked for is needed, too.

    Raises:
        MissingFileError: a file is missing; the message says which.
        UserError: a file is damaged, or has no product that could be used; or `limit` is asked of an indexed folder.
        PermissionError: the index cannot be written.
    """
    if (data / SIGN).is_file():
        if limit is not None:
            raise UserError(f"products={limit}: {data} is indexed already, with all its products; leave products out")
        return open_catalogue(data)
    files = find_files(data, people=people)

    def write(folder: Path, stage: Stage) -> None:
        report = LoadReport()
        try:
            write_catalogue(read_products(files, report, limit, stage), folder, stage=stage)
        except EmptyCatalogueError:
            raise UserError(f"{files.products}: no product could be used: {report.summary()}") from None
        (_log.info if report.is_clean else _log.warning)("%s: %s", files.products.name, report.summary())

    folder = (cache or files.products.parent) / f"empg-index-{_fingerprint(files, limit)}"
    return _indexed(folder, write)


def open_generated(products: int, seed: int = 0, cache: Path | None = None) -> Catalogue:
    """The generated shop of a seed: in memory, or, above `IN_MEMORY` products, indexed once into a folder.

    `cache` is where that is kept; `$XDG_CACHE_HOME/empg` by default.
    """
    if products <= IN_MEMORY:
        return make_catalogue(generate(products, seed), generated=True)

    def write(folder: Path, stage: Stage) -> None:
        write_catalogue(_counted(generate(products, seed), stage("products", products)), folder, generated=True,
                        stage=stage)  # fmt: skip

    return _indexed((cache or cache_folder()) / f"webshop-{products}-{seed}-{_code()}", write)


def _indexed(folder: Path, write: Callable[[Path, Stage], None]) -> Catalogue:
    """The catalogue of a folder, which is written first where it is not there; by one process at a time."""
    if not (folder / SIGN).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder), _Bars(f"Indexing the catalogue (once, into {folder})") as bars:
            if not (folder / SIGN).is_file():
                write(folder, bars.stage)
    return open_catalogue(folder)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process writes the folder, and say so. A process that dies does not hold the others up."""
    path = folder.with_name(f".{folder.name}.lock")
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                Console(stderr=True).print(f"Another process is indexing {folder}: waiting for it", soft_wrap=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_still(file.fileno(), path):  # who had it before has taken it away
                continue
            try:
                yield
            finally:
                path.unlink()
            return


def _is_still(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


class _Bars:
    """Stages of work as progress bars on standard error; the title comes with the first."""

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
        """Begin a stage."""
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
    """Of the files as they are now, so that other files get another index."""
    parts = [f"{FORMAT}/{limit}"]
    for path in (files.products, files.attributes, files.human):
        if path is not None:
            stat = path.stat()
            parts.append(f"{path.name}/{stat.st_size}/{stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@functools.cache
def _code() -> str:
    """Of the code that makes and indexes a shop: another generator makes another one."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for file in (here.parent / "analysis.py", *(here / f"{name}.py" for name in _SHAPING)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


_SHAPING = ("catalogue", "generator", "goals", "records", "search", "tables", "world")
