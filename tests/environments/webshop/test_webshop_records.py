"""Official files: the cleaning rules, malformed records, damaged and missing files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shops import EXTRAS, HUMAN, RECORDS, record, values, write_official

from empg.environments import jsonstream
from empg.environments.jsonstream import stream_items, stream_members
from empg.environments.webshop.indexing import open_official
from empg.environments.webshop.records import LoadReport, clean, find_files, read_products
from empg.environments.webshop.world import Product


def cleaned(record: Any, extras: dict[str, Any] | None = None) -> tuple[list[Product], LoadReport]:
    report = LoadReport()
    return list(clean([record], extras or {}, {}, report)), report


@pytest.mark.parametrize(
    ("pricing", "prices", "tag"),
    [
        ("$65.99", (65.99,), "$65.99"),
        ("$20.00", (20.0,), "$20.0"),
        ("$20.00$35.50", (20.0, 35.5), "$20.0 to $35.5"),
        ("$1,299.00", (1299.0,), "$1299.0"),
        ("$1.00$2.00$3.00", (1.0, 2.0), "$1.0 to $2.0"),
        ("", (100.0,), "$100.0"),
        (None, (100.0,), "$100.0"),
    ],
)
def test_prices(pricing: str | None, prices: tuple[float, ...], tag: str) -> None:
    (product,), _ = cleaned(record("B1", "Mug", pricing=pricing))
    assert (product.pricing, product.price_tag) == (prices, tag)


def test_options_query_and_texts() -> None:
    (product,), _ = cleaned(
        record(
            "B1",
            "Red Mug",
            query="  Coffee Mugs ",
            small_description="one text",
            customization_options={"Color Name": values(" White/Grey ", "RED"), "Gone": None, "Void": []},
        )
    )
    assert product.options == {"color name": ("white | grey", "red"), "void": ()}
    assert (product.query, product.title, product.bullets) == ("coffee mugs", "Red Mug", ("one text",))
    assert product.attributes == ("DUMMY_ATTR",)


def test_unusable_and_repeated_asins_are_left_out_as_in_the_original() -> None:
    report = LoadReport()
    asins = ("nan", "B0123456789", "B1", "B1", "B2")
    kept = list(clean([record(asin, "Mug") for asin in asins], {}, {}, report))
    assert [product.asin for product in kept] == ["B1", "B2"]
    assert (report.kept, report.unusable, report.duplicates) == (2, 2, 1)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ("not an object", "a record is no object"),
        ({"asin": "B1"}, "name is no text"),
        ({**record("B1", "Mug"), "asin": None}, "asin is no text"),
        (record("B1", "Mug", full_description=None), "full_description is no text"),
        (record("B1", "Mug", small_description=None), "small_description is no list of texts"),
        (record("B1", "Mug", pricing="free"), "pricing is not readable"),
        (record("B1", "Mug", pricing="$1.2.3"), "pricing is not readable"),
        (record("B1", "Mug", pricing=5), "pricing is no text"),
        (record("B1", "Mug", customization_options={"Color": "red"}), "an option that is no list"),
        (record("B1", "Mug", customization_options={"Color": [{"price": 1}]}), "value is no text"),
        (record("B1", "Mug", customization_options=["red"]), "customization_options is no object"),
    ],
)
def test_a_malformed_record_is_counted_and_named(broken: Any, complaint: str) -> None:
    report = LoadReport()
    kept = list(clean([record("B0", "Mug"), broken, record("B9", "Pot")], {}, {}, report))
    assert [product.asin for product in kept] == ["B0", "B9"]
    ((said, count),) = report.malformed.items()
    assert complaint in said
    assert count == 1
    assert report.summary() == f"2 products; 1 malformed ({said}; first: record 1)"


def test_malformed_extras_are_complaints_too() -> None:
    _, report = cleaned(record("B1", "Mug"), {"B1": {"attributes": [1]}})
    assert report.malformed == {"attributes is no list of texts": 1}
    _, report = cleaned(record("B1", "Mug"), {"B1": {"attributes": [], "instruction": "x"}})
    assert report.malformed == {"instruction without text or attributes": 1}


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(RECORDS[0])), json_values), json_values, json_values)
def test_no_record_whatever_it_holds_stops_the_loading(fields: dict[str, Any], extra: Any, human: Any) -> None:
    report = LoadReport()
    hostile = {**record("B1", "Mug"), **fields}
    asin = hostile["asin"] if isinstance(hostile["asin"], str) else "B1"
    kept = list(clean([hostile, record("B2", "Pot")], {asin: extra}, {asin: human}, report))
    assert kept[-1].asin == "B2" or hostile["asin"] == "B2"
    assert report.kept + report.unusable + report.duplicates + sum(report.malformed.values()) == 2


def test_files_are_found_by_folder_or_by_name(tmp_path: Path) -> None:
    products = write_official(tmp_path / "one")
    assert find_files(tmp_path / "one") == find_files(products)
    assert find_files(products).attributes.name == "items_ins_v2_1000.json"
    write_official(tmp_path / "one", suffix="")
    with pytest.raises(ValueError, match=r"items_shuffle\.json, items_shuffle_1000\.json: give the path of one"):
        find_files(tmp_path / "one")
    assert find_files(tmp_path / "one" / "items_shuffle.json").attributes.name == "items_ins_v2.json"


def test_a_missing_file_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"items_shuffle\*\.json; see .* docs/webshop\.md"):
        find_files(tmp_path)
    products = write_official(tmp_path)
    (tmp_path / "items_human_ins.json").unlink()
    assert find_files(products).human is None
    (tmp_path / "items_ins_v2_1000.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"items_ins_v2_1000\.json"):
        find_files(products)


def test_a_whole_file_is_read_and_a_limit_counts_records(tmp_path: Path) -> None:
    files = find_files(write_official(tmp_path, ["junk", *RECORDS]))
    report = LoadReport()
    assert [p.asin for p in read_products(files, report)] == [r["asin"] for r in RECORDS]
    assert sum(report.malformed.values()) == 1
    assert [p.asin for p in read_products(files, LoadReport(), limit=3)] == [r["asin"] for r in RECORDS[:2]]
    assert len(EXTRAS) == 7
    assert set(HUMAN) <= set(EXTRAS)


def test_what_was_malformed_is_told_once_when_indexing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    products = write_official(tmp_path, ["junk", *RECORDS])
    open_official(products)
    assert "7 products; 1 malformed (a record is no object; first: record 0)" in caplog.text
    caplog.clear()
    assert len(open_official(products)) == 7
    assert not caplog.text


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_streams_give_what_json_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(jsonstream, "_CHUNK", chunk)
    items = [{"a": [1, ']}\\"', {"é": None}]}, "x", [], {"b": 2.5}]
    path = tmp_path / "file.json"
    for text in (json.dumps(items), json.dumps(items, indent=2), "\n".join(map(json.dumps, items)) + "\n"):
        path.write_text(text, encoding="utf-8")
        assert list(stream_items(path)) == items
    members = {"one": 1, "two": {"x": [1, 2]}, "three": "}"}
    path.write_text(json.dumps(members, indent=1), encoding="utf-8")
    assert dict(stream_members(path)) == members


def test_a_cut_or_damaged_file_says_where(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    for text, where in (
        ('[{"a": 1}, {"b": 2}', "ends after item 2"),
        ('[{"a": 1}, {"b": ', "after value 1"),
        ('[{"a": 1}, oops, {"b": 2}]', "after value 1"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"file.json.*{where}"):
            list(stream_items(path))
    for text, where in (
        ('{"a": 1, "b"', "after value 3"),
        ('{"a": 1', "ends after value 2"),
        ("[1]", "object was expected"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=where):
            list(stream_members(path))
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="cannot be read"):
        list(stream_items(path))
