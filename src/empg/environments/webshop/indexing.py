"""Open a catalogue from files or from a seed. It is indexed once, by one process, and then memory-mapped."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from empg.environments.progress_bar import Done, IndexingBars, Stage
from empg.environments.publishing import build_once, fingerprint_files
from empg.environments.webshop.catalogue import (
    FORMAT,
    SIGN,
    Catalogue,
    EmptyCatalogueError,
    fill_catalogue,
    make_catalogue,
    open_catalogue,
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
        UserError: a file is damaged or has no usable product, the index cannot be written, or `limit` is set for an
            indexed folder.
    """
    if (data / SIGN).is_file():
        if limit is not None:
            raise UserError(f"products={limit}: {data} is already indexed with all its products. Remove products")
        return open_catalogue(data)
    files = find_files(data, people=people)

    def write(work: Path, stage: Stage) -> None:
        report = LoadReport()
        try:
            fill_catalogue(read_products(files, report, limit, stage), work, stage=stage)
        except EmptyCatalogueError:
            raise UserError(f"{files.products}: no usable product found: {report.summary()}") from None
        (_log.info if report.is_clean else _log.warning)("%s: %s", files.products.name, report.summary())

    return _indexed(official_folder(files, limit, cache), write)


def open_generated(products: int, seed: int = 0, cache: Path | None = None) -> Catalogue:
    """Open the generated shop of a seed: in memory, or indexed once into a folder above `IN_MEMORY` products.

    `cache` is the parent of that folder; `$XDG_CACHE_HOME/empg` by default.
    """
    if products <= IN_MEMORY:
        return make_catalogue(generate(products, seed), generated=True)

    def write(work: Path, stage: Stage) -> None:
        made = _counted(generate(products, seed), stage("products", products))
        fill_catalogue(made, work, generated=True, stage=stage)

    return _indexed(generated_folder(products, seed, cache), write)


def official_fingerprint(data: Path, limit: int | None = None, *, people: bool = False) -> str:
    """Return a fingerprint of what `open_official` opens, which takes no time, whatever the size of the files.

    Raises:
        MissingFileError: see `open_official`.
        UserError: the folder has several products files.
    """
    if (data / SIGN).is_file():
        return fingerprint_files(FORMAT, data / SIGN)
    return _fingerprint(find_files(data, people=people), limit)


def official_folder(files: OfficialFiles, limit: int | None, cache: Path | None) -> Path:
    """Return the folder of the index of official files."""
    return (cache or files.products.parent) / f"empg-index-{_fingerprint(files, limit)}"


def generated_folder(products: int, seed: int, cache: Path | None) -> Path:
    """Return the folder of the index of a generated shop."""
    return (cache or cache_folder()) / f"webshop-{products}-{seed}-{_code()}"


def _indexed(folder: Path, write: Callable[[Path, Stage], None]) -> Catalogue:
    """Open the catalogue of a folder. If it does not exist, one process writes it first."""
    with IndexingBars(f"Indexing the catalogue (once) into {folder}") as bars:
        build_once(folder, lambda work: write(work, bars.stage))
    return open_catalogue(folder)


def _counted(products: Iterator[Product], done: Done) -> Iterator[Product]:
    for number, product in enumerate(products, start=1):
        yield product
        if number % 1_000 == 0:
            done(number)
    done(number)


def _fingerprint(files: OfficialFiles, limit: int | None) -> str:
    """Return a fingerprint of the files, so that changed files get another index."""
    paths = (files.products, files.attributes, files.human)
    return fingerprint_files(f"{FORMAT}/{limit}", *(path for path in paths if path is not None))


@functools.cache
def _code() -> str:
    """Return a fingerprint of the code that generates and indexes a shop, so that changed code gets another index."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for folder, modules in ((here.parent, _SHARED_MODULES), (here, _CONTENT_MODULES)):
        for module in modules:
            digest.update((folder / f"{module}.py").read_bytes())
    return digest.hexdigest()[:12]


_SHARED_MODULES = ("analysis", "bm25", "porter")
_CONTENT_MODULES = (
    "catalogue", "generator", "goals", "keyed_store", "nouns", "pages", "records", "search", "spec", "tables", "world",
)  # fmt: skip
