"""From official files to an open catalogue: indexed once, beside the files, then mapped."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from empg.environments.webshop.catalogue import FORMAT, Catalogue, open_catalogue, write_catalogue
from empg.environments.webshop.records import LoadReport, OfficialFiles, find_files, read_products

_log = logging.getLogger(__name__)


def open_official(data: Path, limit: int | None = None, cache: Path | None = None) -> Catalogue:
    """The catalogue of official files, indexed on first use into a folder beside them (or in `cache`).

    Args:
        data: the folder of the files, the products' file, or a folder that `write_catalogue` wrote.
        limit: only the first records, as the original's `num_products`.
        cache: where the index is kept; a folder that can be written.

    Raises:
        FileNotFoundError: a file is missing; the message says which.
        ValueError: a file is damaged.
        PermissionError: the index cannot be written.
    """
    if (data / "catalogue.json").is_file():
        return open_catalogue(data)
    files = find_files(data)
    folder = (cache or files.products.parent) / f"empg-index-{_fingerprint(files, limit)}"
    if not (folder / "catalogue.json").is_file():
        report = LoadReport()
        columns = (TextColumn("Indexing the catalogue (once)"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task("", total=limit)
            write_catalogue(
                read_products(files, report, limit), folder, lambda done: progress.update(bar, completed=done)
            )
        (_log.warning if report.malformed else _log.info)("%s: %s", files.products.name, report.summary())
    return open_catalogue(folder)


def _fingerprint(files: OfficialFiles, limit: int | None) -> str:
    """Of the files as they are now, so that other files get another index."""
    parts = [f"{FORMAT}/{limit}"]
    for path in (files.products, files.attributes, files.human):
        if path is not None:
            stat = path.stat()
            parts.append(f"{path.name}/{stat.st_size}/{stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
