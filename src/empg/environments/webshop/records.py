"""Read official WebShop files: the cleaning rules of the original, and a report of skipped records.

`items_shuffle*.json` contains the products, `items_ins_v2*.json` their attributes and synthetic instructions,
`items_human_ins.json` the human instructions. They are not distributed with this package; see docs/webshop.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empg.environments.jsonstream import stream_items
from empg.environments.progress_bar import Done, Stage, no_bars
from empg.environments.skipped import Skipped
from empg.environments.webshop.goals import MAX_GOALS, combinations
from empg.environments.webshop.keyed_store import KeyedStore
from empg.environments.webshop.pages import BUTTONS
from empg.environments.webshop.world import HumanInstruction, Product
from empg.errors import MissingFileError, UserError

NO_PRICE = 100.0  # dollars; the price of a product without a price
MAX_ASIN = 10
NO_ATTRIBUTES = ("DUMMY_ATTR",)  # the original's value for a product without an entry; it matches nothing
_DOWNLOAD = "it is not distributed with empg. Download: see 'The official data' in docs/webshop.md"


@dataclass(slots=True)
class LoadReport:
    """Counts of read records. `kept`, `duplicates` and `unusable` asins follow the original's rules.

    `skipped` are the records that would crash the original or that could not be clicked. `instructions` counts
    malformed human instructions, which are skipped without their product. `cut` counts products with so many options
    that only the first `MAX_GOALS` goals are kept.
    """

    kept: int = 0
    duplicates: int = 0
    unusable: int = 0
    instructions: int = 0
    cut: int = 0
    skipped: Skipped = field(default_factory=Skipped)

    @property
    def is_clean(self) -> bool:
        """Whether all records match the schema."""
        return not (self.skipped.counts or self.instructions or self.cut)

    def summary(self) -> str:
        """Return a one-line summary."""
        parts = [f"{self.kept:,} products"]
        if self.duplicates:
            parts.append(f"{self.duplicates:,} duplicates skipped")
        if self.unusable:
            parts.append(f"{self.unusable:,} without a usable asin skipped")
        parts += self.skipped.parts()
        if self.instructions:
            parts.append(f"{self.instructions:,} malformed human instructions skipped")
        if self.cut:
            parts.append(f"{self.cut:,} with more than {MAX_GOALS:,} goals, of which the first {MAX_GOALS:,} are kept")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class OfficialFiles:
    """Paths of the three files; `human` is None if that file does not exist."""

    products: Path
    attributes: Path
    human: Path | None


def find_files(data: Path, *, people: bool = False) -> OfficialFiles:
    """Find the official files. `data` is their common folder, or the path of the products file.

    With `people`, the file of human instructions is required as well.

    Raises:
        MissingFileError: a file is missing; the message names it and explains how to get it.
        UserError: the folder has several products files.
    """
    if data.is_dir():
        found = sorted(data.glob("items_shuffle*.json"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UserError(f"{data}: expected one products file, got {names}. Pass the path of one of them")
        if not found:
            raise MissingFileError(f"{data}/items_shuffle*.json not found; {_DOWNLOAD}")
        data = found[0]
    if not data.is_file():
        raise MissingFileError(f"{data} not found; {_DOWNLOAD}")
    suffix = data.stem.removeprefix("items_shuffle")  # "_1000" belongs to items_ins_v2_1000.json
    attributes = data.with_name(f"items_ins_v2{suffix}.json")
    if not attributes.is_file():
        raise MissingFileError(f"{attributes} (attributes and synthetic instructions) not found; {_DOWNLOAD}")
    human = data.with_name("items_human_ins.json")
    if people and not human.is_file():
        raise MissingFileError(f"{human} (human instructions, required by human_goals) not found; {_DOWNLOAD}")
    return OfficialFiles(data, attributes, human if human.is_file() else None)


def read_products(
    files: OfficialFiles, report: LoadReport, limit: int | None = None, stage: Stage = no_bars
) -> Iterator[Product]:
    """Stream the products of official files and update `report`.

    `limit` stops after that many records (not products), like the original's `num_products`. `stage` receives the name
    of each file and the number of bytes read from it.

    Raises:
        UserError: a file is not JSON or is truncated.
    """

    def begin(path: Path) -> tuple[Done, int]:
        size = path.stat().st_size
        return stage(path.name, size), size

    def store(path: Path) -> KeyedStore:
        return KeyedStore(path, _is_asin, MAX_ASIN, begin(path)[0])

    with ExitStack() as opened:
        attributes = opened.enter_context(store(files.attributes))
        human: KeyedStore | dict[str, Any] = opened.enter_context(store(files.human)) if files.human else {}
        done, size = begin(files.products)
        yield from clean(stream_items(files.products, done), attributes, human, report, limit)
        done(size)


def clean(
    records: Iterable[Any],
    attributes: Mapping[str, Any] | KeyedStore,
    human: Mapping[str, Any] | KeyedStore,
    report: LoadReport,
    limit: int | None = None,
) -> Iterator[Product]:
    """Convert records of the official schema to products. Records that cannot be used are skipped and counted."""
    seen: set[str] = set()
    for position, record in enumerate(records):
        if position == limit:
            return
        try:
            asin = _text(record, "asin")
            if asin == "nan" or not 0 < len(asin) <= MAX_ASIN:
                report.unusable += 1
                continue
            if asin.lower() in seen:
                report.duplicates += 1
                continue
            if not _is_asin(asin):
                raise _MalformedError("asin must consist of ASCII letters and digits and differ from all button names")
            product = _product(record, asin, attributes.get(asin), _human(human.get(asin), report))
        except _MalformedError as error:
            report.skipped.add(str(error), f"record {position}")
            continue
        seen.add(asin.lower())
        report.kept += 1
        report.cut += product.instruction is not None and combinations(product) > MAX_GOALS
        yield product


class _MalformedError(Exception):
    """A record does not match the schema."""


def _is_asin(text: str) -> bool:
    """Return whether a text is a usable asin. A click on an asin that equals a button name would press the button."""
    return 0 < len(text) <= MAX_ASIN and text.isascii() and text.isalnum() and text.lower() not in BUTTONS


def _product(record: Mapping[str, Any], asin: str, extra: Any, human: tuple[HumanInstruction, ...]) -> Product:
    bullets = _nullable(record, "small_description")
    attributes: tuple[str, ...] = NO_ATTRIBUTES
    instruction, instruction_attributes = None, _texts((), "instruction_attributes")
    if extra is not None:
        if not isinstance(extra, dict):
            raise _MalformedError("attributes entry must be an object")
        attributes = _texts(extra.get("attributes", NO_ATTRIBUTES), "attributes")
        instruction = extra.get("instruction")
        instruction_attributes = _texts(extra.get("instruction_attributes") or (), "instruction_attributes")
        if instruction is not None and not (isinstance(instruction, str) and instruction_attributes):
            raise _MalformedError("instruction must have text and attributes")
    return Product(
        asin=asin,
        title=_text(record, "name"),
        description=_checked(_nullable(record, "full_description"), "full_description"),
        bullets=_texts(
            ["None" if text is None else text for text in bullets] if isinstance(bullets, list) else [bullets],
            "small_description",
        ),
        pricing=_pricing(record.get("pricing")),
        options=_options(record.get("customization_options")),
        category=_text(record, "category"),
        query=_text(record, "query").lower().strip(),
        product_category=_text(record, "product_category"),
        attributes=attributes,
        instruction=instruction,
        instruction_attributes=instruction_attributes,
        human=human,
    )


def _pricing(tag: Any) -> tuple[float, ...]:
    """Parse a price ("$65.99"), a range ("$20.00$35.50"), or an empty value."""
    if not tag:
        return (NO_PRICE,)
    if not isinstance(tag, str):
        raise _MalformedError("pricing must be a string")
    digits = [re.sub(r"[^\d.]", "", part) for part in tag.split("$")[1:3]]
    try:
        prices = tuple(float(part) for part in digits)
    except ValueError:
        raise _MalformedError("pricing must contain a price") from None
    if not prices:
        raise _MalformedError("pricing must contain a price")
    return prices


def _options(customization: Any) -> dict[str, tuple[str, ...]]:
    if not customization:
        return {}
    if not isinstance(customization, dict):
        raise _MalformedError("customization_options must be an object")
    options = {}
    for name, contents in customization.items():
        if contents is None:
            continue
        if not isinstance(contents, list):
            raise _MalformedError("each option in customization_options must be a list")
        values = [_text(content, "value") for content in contents]
        options[name.lower()] = tuple(value.strip().replace("/", " | ").lower() for value in values)
    return options


def _human(entries: Any, report: LoadReport) -> tuple[HumanInstruction, ...]:
    """Parse human instructions. Those without attributes do not define a goal and are skipped, as in the original.

    Malformed instructions are skipped and counted. The product and its other instructions are kept.
    """
    kept: list[HumanInstruction] = []
    for entry in entries if isinstance(entries, list) else () if entries is None else (entries,):
        try:
            text = _text(entry, "instruction")
            attributes, options = (
                _texts(entry.get(key), key) for key in ("instruction_attributes", "instruction_options")
            )
        except _MalformedError:
            report.instructions += 1
        else:
            if attributes:
                kept.append(HumanInstruction(text, attributes, options))
    return tuple(kept)


def _nullable(record: Mapping[str, Any], key: str) -> Any:
    """Return a value that may be null. The original's pages show null as "None"."""
    if key not in record:
        raise _MalformedError(f"{key} is missing")
    value = record[key]
    return "None" if value is None else value


def _text(record: Any, key: str) -> str:
    if not isinstance(record, dict):
        raise _MalformedError("record must be an object")
    return _checked(record.get(key), key)


def _checked(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise _MalformedError(f"{key} must be a string")
    return value


def _texts(values: Any, key: str) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise _MalformedError(f"{key} must be a list of strings")
    return tuple(values)
