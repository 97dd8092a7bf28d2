"""Every key of a recipe rejects hostile values in lines that name it, or keeps them so that it can be read back."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from empg.environments import registry
from empg.errors import RecipeError, UserError
from empg.recipe import Recipe, dump_recipe, parse_recipe
from empg.recipe.files import apply_override
from tests import ROOT

Path = tuple[str, ...]

HOSTILE = [
    None, True, False, 0, 1, -1, 0.5, math.nan, math.inf, -math.inf, 1e308, -1e308, 1e39, 1e-320, 10**9, 2**63, 10**400,
    16**5_000, "", " ", "..", "/", "~", "tiny", "nan", "1e39",
    "a\x1b[2J", "a\0b", "\u202eab", "\ud800", "x" * 20_000, [], {},
    ["a", "b"], ["a"] * 1_000, [[[]]], {"a": {"b": [1]}}, {1: 2}, {"": ""}, {"a": {1: 2}}, {"a": math.inf},
    {"a": datetime.date(2026, 1, 31)}, {"a": b"b"}, {"a": {"b", "c"}},
    json.loads("[" * 200 + "]" * 200),
]  # fmt: skip


def leaves(model: type[BaseModel], path: Path = ()) -> Iterator[Path]:
    for name, field in model.model_fields.items():
        yield (*path, name)
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from leaves(part, (*path, name))


def changed(data: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """The data with a value at the path; sections that are absent, or are not mappings, are made."""
    name, *rest = path
    inner = data.get(name)
    deeper = inner if isinstance(inner, dict) else {}
    return {**data, name: changed(deeper, tuple(rest), value) if rest else value}


RECIPES = {
    name: yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
    for name in ("demo", "webshop", "deepsearch")
}
KEYS = [("demo", path) for path in leaves(Recipe)] + [
    (name, ("environment", "options", *path))
    for name, data in RECIPES.items()
    for path in leaves(registry.find(data["environment"]["id"]).options)
]


def check(name: str, path: Path, value: Any) -> None:
    try:
        recipe = parse_recipe(changed(RECIPES[name], path, value))
    except RecipeError as error:
        lengths = [len(line) for line in str(error).splitlines()]
        assert 0 < max(lengths) < 600
        return
    text = dump_recipe(recipe)
    assert parse_recipe(yaml.safe_load(text.encode("utf-8"))) == recipe


@pytest.mark.parametrize(("name", "path"), KEYS, ids=lambda part: part if isinstance(part, str) else ".".join(part))
def test_a_key_and_every_hostile_value(name: str, path: Path) -> None:
    for value in HOSTILE:
        check(name, path, value)


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20)
nested = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@settings(max_examples=150)
@given(st.sampled_from(KEYS), nested)
def test_a_key_and_any_value(key: tuple[str, Path], value: Any) -> None:
    check(*key, value)


@settings(max_examples=100)
@given(st.sampled_from(KEYS), st.text(st.characters(), max_size=30))
def test_any_override_on_the_command_line(key: tuple[str, Path], text: str) -> None:
    data = json.loads(json.dumps(RECIPES[key[0]]))
    with contextlib.suppress(UserError):
        apply_override(data, f"{'.'.join(key[1])}={text}")
        parse_recipe(data)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seed", True, "seed: expected an integer, got True"),
        ("optimizer.lr", True, "optimizer.lr: expected a number, got True"),
        ("seed", 16**5_000, "seed: expected an integer below 2^63, got one of 20001 bits"),
        ("optimizer.weight_decay", 1e39, "optimizer.weight_decay: expected a number of at most 1e+15, got 1e+39"),
        ("optimizer.weight_decay", "1e39", "optimizer.weight_decay: expected a number of at most 1e+15, got 1e+39"),
        (
            "credit.modulation.eps",
            1e-320,
            "credit.modulation.eps",
        ),
        ("policy.model", "a\0b", "policy.model: the control character U+0000 is not allowed here; remove it"),
        ("agent.instructions", "\ud800", "agent.instructions: the control character U+D800 is not allowed here"),
        ("agent.instructions", "x" * 10_001, "agent.instructions: expected at most 10,000 characters, got 10,001"),
        ("agent.template_arguments", {"a": json.loads("[" * 60 + "]" * 60)}, "expected at most 50 levels of nesting"),
        ("agent.date", 0, "agent.date: expected a date such as 2026-01-31, got a number"),
        ("policy.lora.target_modules", [], "expected 1 or more values"),
        ("trl", {"a": {"b": [1, math.inf]}}, "recipe: trl.a.b.1: expected a finite number, got inf"),
        ("verl.a.b", math.nan, "recipe: verl.a.b: expected a finite number, got nan"),
        (
            "trl.a",
            datetime.date(2026, 1, 31),
            "recipe: trl.a: expected a text, a number, a list or a mapping, got a date; put a text in quotes",
        ),
        ("verl", {"a": {1: 2}}, "recipe: verl.a: expected text keys, got 1"),
        ("trl.a", "\0", "recipe: trl.a: the control character U+0000 is not allowed here; remove it"),
        ("evaluation.splits", ["a", "b", "a"], "recipe: evaluation.splits: 'a' occurs twice; remove one"),
        ("evaluation.decoding", ["greedy"] * 2, "recipe: evaluation.decoding: 'greedy' occurs twice; remove one"),
        ("loggers", ["trackio", "trackio"], "recipe: loggers: 'trackio' occurs twice; remove one"),
        (
            "agent.template_arguments",
            {"message": 1},
            "recipe: agent.template_arguments: the chat template of policy.model=tiny has none; remove the key",
        ),
    ],
    ids=lambda part: part if isinstance(part, str) and len(part) < 100 and part.isprintable() else "value",
)
def test_what_is_wrong_is_said(path: str, value: Any, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(changed({}, tuple(path.split(".")), value))
    assert message in str(caught.value)
