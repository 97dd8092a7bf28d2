"""The catalogue: products, lookup tables, goals and the search index, in memory or memory-mapped from a folder.

A folder is written once (`write_catalogue`). Any number of processes can then open it in one or two seconds and share
its memory pages. Products are stored as concatenated JSON and parsed on access.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
import numpy.typing as npt

from empg.environments.analysis import TermCollector
from empg.environments.progress_bar import Stage, no_bars
from empg.environments.publishing import build_once, check_folder
from empg.environments.webshop.goals import GoalCollector, GoalKind, GoalTable
from empg.environments.webshop.search import SearchIndex, product_text
from empg.environments.webshop.world import HumanInstruction, Product
from empg.errors import MissingFileError, UserError

FORMAT = 3  # increase it when the content of the folder or the cleaning of products changes
SIGN = "catalogue.json"  # a folder that contains it is a catalogue
PRODUCTS_KEPT = 16_384  # parsed products in the cache; a few kB each


class EmptyCatalogueError(UserError):
    """The catalogue has no usable product."""


class Groups:
    """Rows by label (a category, a query or an attribute). Memory-mapped if the catalogue is."""

    def __init__(self, names: list[str], starts: npt.NDArray[np.int64], rows: npt.NDArray[np.int32]) -> None:
        self.names, self.starts, self.rows = names, starts, rows
        self._number = {name: number for number, name in enumerate(names)}

    def find(self, name: str) -> npt.NDArray[np.int32]:
        """Return the rows of a label in catalogue order; the array is empty for an unknown label."""
        number = self._number.get(name)
        if number is None:
            return self.rows[:0]
        return self.rows[self.starts[number] : self.starts[number + 1]]


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """Products by row, 0 to N-1, with their lookup tables, goals and search index.

    Attributes:
        asins: `(N,)` in lower case, sorted.
        asin_rows: `(N,)` rows of `asins`.
        prices: `(N,)` dollars, used by the reward (a price tag may show a range).
        groups: rows by "category", "query" and "attribute".
        goals: the goal tables, by kind.
        index: the search index over the rows.
        fingerprint: hash of the content; equal catalogues have equal fingerprints.
        generated: whether the products are generated.
        product: returns the product of a row.
    """

    asins: npt.NDArray[np.str_]
    asin_rows: npt.NDArray[np.int32]
    prices: npt.NDArray[np.float64]
    groups: dict[str, Groups]
    goals: dict[GoalKind, GoalTable]
    index: SearchIndex
    fingerprint: str
    generated: bool
    product: Callable[[int], Product]

    def __len__(self) -> int:
        return len(self.prices)

    def row(self, asin: str) -> int | None:
        """Return the row of an asin in upper or lower case, or None if it is unknown."""
        place = int(np.searchsorted(self.asins, asin.lower()))
        if place < len(self.asins) and self.asins[place] == asin.lower():
            return int(self.asin_rows[place])
        return None


def make_catalogue(products: Iterable[Product], *, generated: bool = False) -> Catalogue:
    """Build a catalogue in memory.

    Raises:
        EmptyCatalogueError: there are no products.
    """
    records = io.BytesIO()
    parts = _collect(products, records)
    arrays = parts.arrays()
    index = SearchIndex.build(parts.terms, arrays["asin_rank"])
    return _view(records.getvalue(), arrays, parts.names, index, parts.fingerprint, generated)


def write_catalogue(products: Iterable[Product], folder: Path, *, generated: bool = False) -> None:
    """Index products into a folder for `open_catalogue`. If another process writes it first, that folder is kept.

    Raises:
        EmptyCatalogueError: there are no products.
        UserError: see `build_once`.
    """
    build_once(folder, lambda work: fill_catalogue(products, work, generated=generated))


def fill_catalogue(products: Iterable[Product], work: Path, *, generated: bool = False, stage: Stage = no_bars) -> None:
    """Write the files of a catalogue into a folder that `build_once` publishes.

    Products are streamed. Memory holds four bytes per word and about 100 bytes per product. `stage` receives the stages
    that follow the products.

    Raises:
        EmptyCatalogueError: there are no products.
    """
    with (work / "records.jsonl").open("wb") as records:
        parts = _collect(products, records)
    done = stage("goals", 1)
    arrays = parts.arrays()
    for name, array in arrays.items():
        np.save(work / f"{name}.npy", array)
    done(1)
    done = stage("search index", 1)
    SearchIndex.build(parts.terms, arrays["asin_rank"]).save(work / "search")
    done(1)
    about = {"format": FORMAT, "fingerprint": parts.fingerprint, "generated": generated, "names": parts.names}
    (work / SIGN).write_text(json.dumps(about), encoding="utf-8")


def open_catalogue(folder: Path) -> Catalogue:
    """Memory-map a catalogue that `write_catalogue` wrote.

    Its errors do not say to delete the folder: a folder that the option `data` names may be the only copy. `build_once`
    checks the folders that can be built again.

    Raises:
        MissingFileError: the folder is not a catalogue.
        UserError: it was written by another version of this package, or a file is damaged.
    """
    file = folder / SIGN
    if not file.is_file():
        raise MissingFileError(f"{folder} is not a catalogue: {SIGN} not found")
    remedy = f"Write or copy {folder} again, or set data to the official files"
    check_folder(folder, remedy)
    about = json.loads(file.read_text(encoding="utf-8"))
    if about["format"] != FORMAT:
        problem = f"unsupported format: expected {FORMAT}, got {about['format']}"
        raise UserError(f"{folder}: {problem}. {remedy}")
    names = about["names"]
    loaded = {file.stem: np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))}
    with (folder / "records.jsonl").open("rb") as records:
        mapped = mmap.mmap(records.fileno(), 0, access=mmap.ACCESS_READ)
    index = SearchIndex.open(folder / "search", loaded["asin_rank"])
    return _view(mapped, loaded, names, index, about["fingerprint"], about["generated"])


@dataclass(slots=True)
class _Parts:
    """The data that is collected while a catalogue is built."""

    terms: TermCollector
    starts: list[int]
    asins: list[str]
    prices: list[float]
    labels: dict[str, dict[str, list[int]]]
    goals: dict[GoalKind, GoalCollector]
    fingerprint: str = ""

    @property
    def names(self) -> dict[str, list[str]]:
        return {kind: list(rows) for kind, rows in self.labels.items()}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return all arrays except the records and the search index, by file name."""
        asins = np.asarray(self.asins, dtype=np.str_)
        order = np.argsort(asins, kind="stable")
        rank = np.empty(len(order), dtype=np.int32)
        rank[order] = np.arange(len(order))
        arrays: dict[str, npt.NDArray[Any]] = {
            "starts": np.asarray(self.starts, dtype=np.int64),
            "asins": asins[order],
            "asin_rows": order.astype(np.int32),
            "asin_rank": rank,
            "prices": np.asarray(self.prices, dtype=np.float64),
        }
        for label, by_name in self.labels.items():
            rows = [row for own in by_name.values() for row in own]
            arrays[f"{label}_rows"] = np.asarray(rows, dtype=np.int32)
            arrays[f"{label}_starts"] = np.cumsum([0, *map(len, by_name.values())], dtype=np.int64)
        for kind, collector in self.goals.items():
            table = collector.table()
            arrays[f"{kind}_row"], arrays[f"{kind}_choice"] = table.row, table.choice
            arrays[f"{kind}_weight"] = table.weight
        return arrays


def _collect(products: Iterable[Product], records: BinaryIO) -> _Parts:
    labels: dict[str, dict[str, list[int]]] = {"category": {}, "query": {}, "attribute": {}}
    collectors = {kind: GoalCollector(kind) for kind in get_args(GoalKind)}
    parts = _Parts(TermCollector(), [0], [], [], labels, collectors)
    digest = hashlib.sha256()
    for row, product in enumerate(products):
        text = json.dumps(asdict(product), ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"
        records.write(text)
        digest.update(text)
        parts.starts.append(parts.starts[-1] + len(text))
        parts.asins.append(product.asin.lower())
        parts.prices.append(_actual_price(product))
        parts.terms.add(product_text(product))
        labels["category"].setdefault(product.category, []).append(row)
        labels["query"].setdefault(product.query, []).append(row)
        for attribute in dict.fromkeys(product.attributes):
            labels["attribute"].setdefault(attribute, []).append(row)
        for collector in collectors.values():
            collector.add(row, product)
    if not parts.asins:
        raise EmptyCatalogueError("the catalogue is empty: no usable product found")
    parts.fingerprint = digest.hexdigest()
    return parts


def _view(
    records: bytes | mmap.mmap,
    arrays: dict[str, npt.NDArray[Any]],
    names: dict[str, list[str]],
    index: SearchIndex,
    fingerprint: str,
    generated: bool,
) -> Catalogue:
    starts = arrays["starts"]

    @lru_cache(PRODUCTS_KEPT)
    def product(row: int) -> Product:
        return _read(records[starts[row] : starts[row + 1]])

    groups = {
        label: Groups(listed, arrays[f"{label}_starts"], arrays[f"{label}_rows"]) for label, listed in names.items()
    }
    goals = {
        kind: GoalTable(arrays[f"{kind}_row"], arrays[f"{kind}_choice"], arrays[f"{kind}_weight"])
        for kind in get_args(GoalKind)
    }
    asins, asin_rows, prices = arrays["asins"], arrays["asin_rows"], arrays["prices"]
    return Catalogue(asins, asin_rows, prices, groups, goals, index, fingerprint, generated, product)


def _read(text: bytes) -> Product:
    fields = json.loads(text)
    human = tuple(
        HumanInstruction(asked["text"], tuple(asked["attributes"]), tuple(asked["options"]))
        for asked in fields["human"]
    )
    options = {name: tuple(values) for name, values in fields["options"].items()}
    lists = {name: tuple(fields[name]) for name in ("bullets", "pricing", "attributes", "instruction_attributes")}
    return Product(**{**fields, **lists, "options": options, "human": human})


def _actual_price(product: Product) -> float:
    """Draw one price of a range from a seed of the product; the original draws it unseeded."""
    low, high = product.pricing[0], product.pricing[-1]
    return low if low == high else random.Random(f"webshop price/{product.asin}").uniform(low, high)
