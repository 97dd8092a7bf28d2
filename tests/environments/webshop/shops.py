"""The two shops in which golden.json was recorded.

The first has seven hand-written products, one per difficulty. The second has shelves that are nearly identical, more
of them than a search returns.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from empg.environments.webshop import WebShopEnv
from empg.environments.webshop.catalogue import Catalogue, make_catalogue
from empg.environments.webshop.nouns import lexicon_nouns
from empg.environments.webshop.records import LoadReport, clean
from empg.environments.webshop.shop import Shop, ShopRules
from empg.environments.webshop.world import Product


def record(asin: str, name: str, **fields: Any) -> dict[str, Any]:
    """Return a product in the official schema; `fields` override its values."""
    return {
        "asin": asin,
        "name": name,
        "full_description": f"About the {name}.",
        "pricing": "$20.00",
        "small_description": ["First point", "Second point"],
        "customization_options": "",
        "product_category": "Home & Kitchen › Furniture › Tables",
        "category": "garden",
        "query": "Console tables",
        "images": ["https://example.com/a.jpg"],
        **fields,
    }


def values(*texts: str) -> list[dict[str, Any]]:
    return [{"value": text, "image": None} for text in texts]


RECORDS = [
    record(
        "B000TABLE1",
        "Harrow Console Table with Drawers",
        pricing="$65.99",
        customization_options={"Color": values("Antique Wood", "White/Grey"), "Size": values("54 Inch", "36 Inch")},
    ),
    record("B000TABLE2", "Moss Console Table", pricing="$20.00$35.50", customization_options={"Color": None}),
    # Values with brackets, values shared by two options, values that are words of the pages.
    record(
        "B000RUGRUG",
        "Soft Area Rug",
        pricing="",
        query="Area rugs",
        product_category="Home & Kitchen › Rugs",
        customization_options={
            "Style": values("plain [2 pack]", "features", "color"),
            "Color": values("red", "café", "plain"),
            "Trim": values("plain", "red"),
        },
    ),
    record(
        "B000SCRIPT",
        '<script>alert(1)</script> & "Sons" Lip Gloss',
        full_description="<b>Shiny</b> & 'long lasting' lip gloss\nfor lips",
        small_description=["cruelty free <img src=x>", "", "last one"],
        category="beauty",
        query="Lip gloss",
        product_category="Beauty › Makeup › Lip Gloss",
        customization_options={"Color": values("rose gold", "dark red", "nude <i>")},
    ),
    record("B000EMPTY1", "Bare Stool", full_description="", small_description=[], query="bar stools"),
    record(
        "B000BLANKS", "Blank Stool", full_description="  ", small_description=[" \n ", "\t", "ok "], query="bar stools"
    ),
    record(
        "B000DEAR01",
        "Marble Console Table",
        pricing="$1,299.00",
        customization_options={"Color": values("gold")},
    ),
]
EXTRAS = {
    "B000TABLE1": {
        "attributes": ["easy assemble", "living room"],
        "instruction": "Find me easy assemble console tables",
        "instruction_attributes": ["easy assemble"],
    },
    "B000TABLE2": {"attributes": ["space saving"]},
    "B000BLANKS": {"attributes": []},
    "B000SCRIPT": {
        "attributes": ["cruelty free", "long lasting"],
        "instruction": "I want <b>long lasting</b> lip gloss",
        "instruction_attributes": ["long lasting", "cruelty free"],
    },
    "B000RUGRUG": {
        "attributes": ["non slip"],
        "instruction": "Find me non slip area rugs",
        "instruction_attributes": ["non slip"],
    },
    "B000EMPTY1": {
        "attributes": ["solid wood"],
        "instruction": "Find me a solid wood stool",
        "instruction_attributes": ["solid wood"],
    },
    "B000DEAR01": {
        "attributes": ["heavy duty"],
        "instruction": "Find me heavy duty console tables",
        "instruction_attributes": ["heavy duty"],
    },
}


def human(asin: str, text: str, attributes: list[str], options: list[str]) -> dict[str, Any]:
    return {
        "asin": asin,
        "instruction": text,
        "attributes": attributes,
        "options": [f"option: {option}" for option in options],
        "instruction_attributes": attributes,
        "instruction_options": options,
        "assignment_id": "x",
        "worker_id": "y",
    }


HUMAN = {
    "B000TABLE1": [
        human("B000TABLE1", "i need a table that is easy assemble and white.", ["easy assemble"], ["white"]),
        human("B000TABLE1", "no attributes here", [], ["white"]),
    ],
    "B000SCRIPT": [human("B000SCRIPT", "long lasting gloss, please", ["long lasting"], ["rose gold", "5 ounce"])],
}


# 54 similar products, of which a search returns 50. The highest number comes first, so that the catalogue is not in the
# order of the asins.
SHELVES = [
    *(record(f"B000SHLF{n:02}", f"Shelf {n}", full_description="A shelf.", query="shelves") for n in range(54, 0, -1)),
    record(
        "B000RANGED",
        "Ranged Ladder",
        pricing="$20.00$35.50",
        query="ladders",
        customization_options={"Material": values("Wood / Steel", "Wood/Brass"), "Size": values("search", "tall")},
    ),
    record("B000NULLED", "Nulled Ladder", full_description=None, small_description=[None, "dry"], query="ladders"),
]
SHELF_EXTRAS = {made["asin"]: {"attributes": ["solid wood"]} for made in SHELVES} | {
    "B000RANGED": {
        "attributes": ["heavy duty", "solid wood"],
        "instruction": "Find me heavy duty ladders",
        "instruction_attributes": ["heavy duty"],
    }
}


def products_of(records: list[Any], extras: dict[str, Any], humans: dict[str, Any]) -> list[Product]:
    report = LoadReport()
    products = list(clean(records, extras, humans, report))
    assert report.kept == len(records), report.summary()
    return products


def small_products() -> list[Product]:
    return products_of(RECORDS, EXTRAS, HUMAN)


def small_catalogue() -> Catalogue:
    return make_catalogue(small_products())


def small_shop(rules: ShopRules | None = None) -> Shop:
    return Shop(small_catalogue(), lexicon_nouns, rules or ShopRules())


def shelves_shop(rules: ShopRules | None = None) -> Shop:
    return Shop(make_catalogue(products_of(SHELVES, SHELF_EXTRAS, {})), lexicon_nouns, rules or ShopRules())


def write_shelves(folder: Path) -> Path:
    """Write the shelves as official files and return the path of the products file."""
    products = write_official(folder, SHELVES)
    products.with_name("items_ins_v2_1000.json").write_text(json.dumps(SHELF_EXTRAS), encoding="utf-8")
    return products


def write_official(folder: Path, records: list[Any] | None = None, suffix: str = "_1000") -> Path:
    """Write the hand-written shop as official files and return the path of the products file."""
    folder.mkdir(parents=True, exist_ok=True)
    products = folder / f"items_shuffle{suffix}.json"
    products.write_text(json.dumps(RECORDS if records is None else records), encoding="utf-8")
    (folder / f"items_ins_v2{suffix}.json").write_text(json.dumps(EXTRAS), encoding="utf-8")
    (folder / "items_human_ins.json").write_text(json.dumps(HUMAN), encoding="utf-8")
    return products


def expert_actions(environment: WebShopEnv, task: int) -> list[str]:
    """The commands with which the expert solves a task."""
    observation, info = environment.reset(options={"task": task})
    expert, actions, over = environment.expert(), [], False
    while not over:
        actions.append(expert.act(observation, info)["action"])
        observation, _, terminated, truncated, info = environment.step(actions[-1])
        over = terminated or truncated
    assert info["won"]
    return actions
