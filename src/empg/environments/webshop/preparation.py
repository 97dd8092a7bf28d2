"""Estimate what indexing a catalogue takes, from its size and the rates in docs/webshop.md."""

from __future__ import annotations

from pathlib import Path

from empg.environments.jsonstream import stream_items
from empg.environments.preparation import Preparation
from empg.environments.webshop.catalogue import SIGN
from empg.environments.webshop.indexing import IN_MEMORY, generated_folder, official_folder
from empg.environments.webshop.records import find_files
from empg.environments.webshop.spec import WebShopOptions

_SECONDS, _MEMORY, _DISK = 290e-6, 1_270, 880  # per product, of a million generated ones on one core
_SAMPLE = 8 << 20  # bytes of the products file that are read to estimate the number of its records


def estimate(options: WebShopOptions) -> Preparation | None:
    """Estimate the time, memory and disk space of the index; None if it is built already or is small.

    Raises:
        MissingFileError: an official file is missing.
        UserError: the file of products is damaged at its start.
    """
    if options.data is None:
        products = options.products or 0
        if products <= IN_MEMORY:
            return None
        folder = generated_folder(products, options.seed, options.cache)
    elif (options.data / SIGN).is_file():
        return None
    else:
        files = find_files(options.data, people=options.human_goals)
        products = _records(files.products)
        if options.products is not None:
            products = min(products, options.products)
        folder = official_folder(files, options.products, options.cache)
    if products <= IN_MEMORY or folder.is_dir():
        return None
    what = f"index of about {products:,} products ({1 / _SECONDS:,.0f} per second, as in docs/webshop.md)"
    return Preparation(what, folder, _SECONDS * products, _MEMORY * products, _DISK * products)


def _records(file: Path) -> int:
    """Estimate the number of records from the first ones; exact for a small file."""
    read = [0]
    count = 0
    for count, _ in enumerate(stream_items(file, lambda done: read.__setitem__(0, done)), 1):
        if read[0] >= _SAMPLE:
            return count * file.stat().st_size // read[0]
    return count
