"""Official WebShop files as products: the cleaning rules of the original, and an account of what did not fit them.

`items_shuffle*.json` holds the products, `items_ins_v2*.json` their attributes and synthetic instructions,
`items_human_ins.json` what people asked for. None of them ships with this package: docs/webshop.md says where they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empg.environments.jsonstream import stream_items, stream_members
from empg.environments.webshop.world import HumanInstruction, Product

NO_PRICE = 100.0  # dollars; what a product without a price costs
MAX_ASIN = 10
NO_ATTRIBUTES = ("DUMMY_ATTR",)  # the original's, for a product that has no entry; it can match nothing
_GET = "see 'The official data' in docs/webshop.md"


@dataclass(slots=True)
class LoadReport:
    """What became of the records: `kept`, `duplicates` and `unusable` asins are the original's rules.

    `malformed` counts by complaint the records that the original would have crashed on; `examples` has the position
    of the first of each.
    """

    kept: int = 0
    duplicates: int = 0
    unusable: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, int] = field(default_factory=dict)

    def complain(self, complaint: str, position: int) -> None:
        """Count a malformed record."""
        self.malformed[complaint] += 1
        self.examples.setdefault(complaint, position)

    def summary(self) -> str:
        """One line for a person."""
        parts = [f"{self.kept:,} products"]
        if self.duplicates:
            parts.append(f"{self.duplicates:,} duplicates left out")
        if self.unusable:
            parts.append(f"{self.unusable:,} without a usable asin left out")
        for complaint, count in sorted(self.malformed.items()):
            parts.append(f"{count:,} malformed ({complaint}; first: record {self.examples[complaint]})")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class OfficialFiles:
    """Where the three files are; `human` is None where there is none."""

    products: Path
    attributes: Path
    human: Path | None


def find_files(data: Path) -> OfficialFiles:
    """The official files beside one another: `data` is their folder, or the products' file.

    Raises:
        FileNotFoundError: one is missing; the message says which, and how to get it.
        ValueError: the folder has several products' files.
    """
    if data.is_dir():
        found = sorted(data.glob("items_shuffle*.json"))
        if len(found) > 1:
            raise ValueError(f"{data} has {', '.join(path.name for path in found)}: give the path of one of them")
        if not found:
            raise FileNotFoundError(f"{data} has no items_shuffle*.json; {_GET}")
        data = found[0]
    if not data.is_file():
        raise FileNotFoundError(f"{data} is not there; {_GET}")
    suffix = data.stem.removeprefix("items_shuffle")  # "_1000" belongs to items_ins_v2_1000.json
    attributes = data.with_name(f"items_ins_v2{suffix}.json")
    if not attributes.is_file():
        raise FileNotFoundError(f"{attributes} (attributes and synthetic instructions) is not there; {_GET}")
    human = data.with_name("items_human_ins.json")
    return OfficialFiles(data, attributes, human if human.is_file() else None)


def read_products(files: OfficialFiles, report: LoadReport, limit: int | None = None) -> Iterator[Product]:
    """Stream the products of official files; `report` is filled on the way.

    `limit` stops after that many records (not products), as the original's `num_products` does.

    Raises:
        ValueError: a file is not JSON or was cut.
    """
    attributes = dict(stream_members(files.attributes))
    human = dict(stream_members(files.human)) if files.human else {}
    yield from clean(stream_items(files.products), attributes, human, report, limit)


def clean(
    records: Iterable[Any],
    attributes: Mapping[str, Any],
    human: Mapping[str, Any],
    report: LoadReport,
    limit: int | None = None,
) -> Iterator[Product]:
    """Turn records of the official schema into products, leaving out what cannot be used and counting it."""
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
            product = _product(record, asin, attributes.get(asin), human.get(asin))
        except _Malformed as error:
            report.complain(str(error), position)
            continue
        seen.add(asin.lower())
        report.kept += 1
        yield product


class _Malformed(Exception):
    """A record that does not fit the schema."""


def _product(record: Mapping[str, Any], asin: str, extra: Any, human: Any) -> Product:
    bullets = record.get("small_description")
    attributes: tuple[str, ...] = NO_ATTRIBUTES
    instruction, instruction_attributes = None, _texts((), "instruction_attributes")
    if extra is not None:
        if not isinstance(extra, dict):
            raise _Malformed("attributes entry is no object")
        attributes = _texts(extra.get("attributes", NO_ATTRIBUTES), "attributes")
        instruction = extra.get("instruction")
        instruction_attributes = _texts(extra.get("instruction_attributes") or (), "instruction_attributes")
        if instruction is not None and not (isinstance(instruction, str) and instruction_attributes):
            raise _Malformed("instruction without text or attributes")
    return Product(
        asin=asin,
        title=_text(record, "name"),
        description=_text(record, "full_description"),
        bullets=_texts(bullets if isinstance(bullets, list) else [bullets], "small_description"),
        pricing=_pricing(record.get("pricing")),
        options=_options(record.get("customization_options")),
        category=_text(record, "category"),
        query=_text(record, "query").lower().strip(),
        product_category=_text(record, "product_category"),
        attributes=attributes,
        instruction=instruction,
        instruction_attributes=instruction_attributes,
        human=_human(human),
    )


def _pricing(tag: Any) -> tuple[float, ...]:
    """A price ("$65.99"), a range ("$20.00$35.50"), or nothing."""
    if not tag:
        return (NO_PRICE,)
    if not isinstance(tag, str):
        raise _Malformed("pricing is no text")
    digits = [re.sub(r"[^\d.]", "", part) for part in tag.split("$")[1:3]]
    try:
        prices = tuple(float(part) for part in digits)
    except ValueError:
        raise _Malformed("pricing is not readable") from None
    if not prices:
        raise _Malformed("pricing is not readable")
    return prices


def _options(customization: Any) -> dict[str, tuple[str, ...]]:
    if not customization:
        return {}
    if not isinstance(customization, dict):
        raise _Malformed("customization_options is no object")
    options = {}
    for name, contents in customization.items():
        if contents is None:
            continue
        if not isinstance(contents, list):
            raise _Malformed("customization_options has an option that is no list")
        values = [_text(content, "value") for content in contents]
        options[name.lower()] = tuple(value.strip().replace("/", " | ").lower() for value in values)
    return options


def _human(entries: Any) -> tuple[HumanInstruction, ...]:
    """People's instructions; those without attributes make no goal and are left out, as in the original."""
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise _Malformed("human instructions are no list")
    return tuple(
        HumanInstruction(
            _text(entry, "instruction"),
            _texts(entry.get("instruction_attributes"), "instruction_attributes"),
            _texts(entry.get("instruction_options"), "instruction_options"),
        )
        for entry in entries
        if not isinstance(entry, dict) or entry.get("instruction_attributes") != []
    )


def _text(record: Any, key: str) -> str:
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, str):
        raise _Malformed(f"{key} is no text" if isinstance(record, dict) else "a record is no object")
    return value


def _texts(values: Any, key: str) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise _Malformed(f"{key} is no list of texts")
    return tuple(values)
