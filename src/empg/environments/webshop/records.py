"""Official WebShop files as products: the cleaning rules of the original, and an account of what did not fit them.

`items_shuffle*.json` holds the products, `items_ins_v2*.json` their attributes and synthetic instructions,
`items_human_ins.json` what people asked for. None of them ships with this package: docs/webshop.md says where they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empg.environments.jsonstream import stream_items
from empg.environments.webshop.catalogue import Done, Stage
from empg.environments.webshop.goals import MAX_GOALS, combinations
from empg.environments.webshop.keyed_store import Members
from empg.environments.webshop.pages import BUTTONS
from empg.environments.webshop.world import HumanInstruction, Product
from empg.errors import MissingFileError, UserError

NO_PRICE = 100.0  # dollars; what a product without a price costs
MAX_ASIN = 10
NO_ATTRIBUTES = ("DUMMY_ATTR",)  # the original's, for a product that has no entry; it can match nothing
_GET = "see 'The official data' in docs/webshop.md"


@dataclass(slots=True)
class LoadReport:
    """What became of the records: `kept`, `duplicates` and `unusable` asins are the original's rules.

    `malformed` counts by complaint the records that the original would have crashed on, or that could not be clicked;
    `examples` has the position of the first of each. `instructions` counts what people asked for that is malformed, and
    is left out without its product; `cut` the products with so many options that only the first `MAX_GOALS` goals stay.
    """

    kept: int = 0
    duplicates: int = 0
    unusable: int = 0
    instructions: int = 0
    cut: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, int] = field(default_factory=dict)

    def complain(self, complaint: str, position: int) -> None:
        """Count a malformed record."""
        self.malformed[complaint] += 1
        self.examples.setdefault(complaint, position)

    @property
    def is_clean(self) -> bool:
        """Whether everything was as the schema says."""
        return not (self.malformed or self.instructions or self.cut)

    def summary(self) -> str:
        """One line for a person."""
        parts = [f"{self.kept:,} products"]
        if self.duplicates:
            parts.append(f"{self.duplicates:,} duplicates left out")
        if self.unusable:
            parts.append(f"{self.unusable:,} without a usable asin left out")
        for complaint, count in sorted(self.malformed.items()):
            parts.append(f"{count:,} malformed ({complaint}; first: record {self.examples[complaint]})")
        if self.instructions:
            parts.append(f"{self.instructions:,} malformed instructions of people left out")
        if self.cut:
            parts.append(f"{self.cut:,} with more than {MAX_GOALS:,} goals, of which the first are kept")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class OfficialFiles:
    """Where the three files are; `human` is None where there is none."""

    products: Path
    attributes: Path
    human: Path | None


def find_files(data: Path, *, people: bool = False) -> OfficialFiles:
    """The official files beside one another: `data` is their folder, or the products' file.

    With `people`, what they asked for must be there, too.

    Raises:
        MissingFileError: one is missing; the message says which, and how to get it.
        UserError: the folder has several products' files.
    """
    if data.is_dir():
        found = sorted(data.glob("items_shuffle*.json"))
        if len(found) > 1:
            raise UserError(f"{data} has {', '.join(path.name for path in found)}: give the path of one of them")
        if not found:
            raise MissingFileError(f"{data} has no items_shuffle*.json; {_GET}")
        data = found[0]
    if not data.is_file():
        raise MissingFileError(f"{data} is not there; {_GET}")
    suffix = data.stem.removeprefix("items_shuffle")  # "_1000" belongs to items_ins_v2_1000.json
    attributes = data.with_name(f"items_ins_v2{suffix}.json")
    if not attributes.is_file():
        raise MissingFileError(f"{attributes} (attributes and synthetic instructions) is not there; {_GET}")
    human = data.with_name("items_human_ins.json")
    if people and not human.is_file():
        raise MissingFileError(f"{human} (what people asked for, for human_goals) is not there; {_GET}")
    return OfficialFiles(data, attributes, human if human.is_file() else None)


def read_products(
    files: OfficialFiles, report: LoadReport, limit: int | None = None, stage: Stage | None = None
) -> Iterator[Product]:
    """Stream the products of official files; `report` is filled on the way.

    `limit` stops after that many records (not products), as the original's `num_products` does. `stage` is told of each
    file and the bytes read of it.

    Raises:
        UserError: a file is not JSON or was cut.
    """

    def begin(path: Path) -> tuple[Done, int]:
        size = path.stat().st_size
        return (stage(path.name, size) if stage is not None else lambda done: None), size

    def members(path: Path) -> Members:
        return Members(path, _is_asin, MAX_ASIN, begin(path)[0])

    with ExitStack() as opened:
        attributes = opened.enter_context(members(files.attributes))
        human: Members | dict[str, Any] = opened.enter_context(members(files.human)) if files.human else {}
        done, size = begin(files.products)
        yield from clean(stream_items(files.products, done), attributes, human, report, limit)
        done(size)


def clean(
    records: Iterable[Any],
    attributes: Mapping[str, Any] | Members,
    human: Mapping[str, Any] | Members,
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
            if not _is_asin(asin):
                raise _Malformed("asin is no number that can be clicked")
            product = _product(record, asin, attributes.get(asin), _human(human.get(asin), report))
        except _Malformed as error:
            report.complain(str(error), position)
            continue
        seen.add(asin.lower())
        report.kept += 1
        report.cut += product.instruction is not None and combinations(product) > MAX_GOALS
        yield product


class _Malformed(Exception):
    """A record that does not fit the schema."""


def _is_asin(text: str) -> bool:
    """Whether a text can be an asin; a click on one that is also a button's name would not be on the product."""
    return 0 < len(text) <= MAX_ASIN and text.isascii() and text.isalnum() and text.lower() not in BUTTONS


def _product(record: Mapping[str, Any], asin: str, extra: Any, human: tuple[HumanInstruction, ...]) -> Product:
    bullets = _nullable(record, "small_description")
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


def _human(entries: Any, report: LoadReport) -> tuple[HumanInstruction, ...]:
    """People's instructions; those without attributes make no goal and are left out, as in the original.

    One that is malformed is left out, too, and counted; the product and its other instructions stay.
    """
    kept: list[HumanInstruction] = []
    for entry in entries if isinstance(entries, list) else () if entries is None else (entries,):
        try:
            text = _text(entry, "instruction")
            attributes, options = (
                _texts(entry.get(key), key) for key in ("instruction_attributes", "instruction_options")
            )
        except _Malformed:
            report.instructions += 1
        else:
            if attributes:
                kept.append(HumanInstruction(text, attributes, options))
    return tuple(kept)


def _nullable(record: Mapping[str, Any], key: str) -> Any:
    """A value that may be null; the original's pages show that as "None"."""
    value = record.get(key, _Malformed)
    if value is _Malformed:
        raise _Malformed(f"{key} is not there")
    return "None" if value is None else value


def _text(record: Any, key: str) -> str:
    if not isinstance(record, dict):
        raise _Malformed("a record is no object")
    return _checked(record.get(key), key)


def _checked(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise _Malformed(f"{key} is no text")
    return value


def _texts(values: Any, key: str) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise _Malformed(f"{key} is no list of texts")
    return tuple(values)
