"""Recipes as files: where they are found, how they are read, and how the command line overrides single keys."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from empg.errors import RecipeError, UserError
from empg.presets import apply_preset
from empg.recipe.modulation import named_in
from empg.yaml_text import MAX_DEPTH, read_yaml


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: `name` itself if it is a path, else the shipped recipe of that name.

    Raises:
        RecipeError: `name` is not a file and not the name of a shipped recipe.
    """
    path = Path(name)
    if path.suffix or len(path.parts) > 1 or os.path.isfile(path):
        return path
    installed = Path(__file__).parents[1] / "recipes"  # in the wheel; a checkout has them at its top
    folder = installed if installed.is_dir() else Path(__file__).parents[3] / "recipes"
    shipped = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    if path.name not in shipped:
        if os.path.isfile(path / "recipe.yaml"):  # a run folder, whose error gives the command that resumes it
            return path
        known = ", ".join(shipped)
        raise RecipeError(f"recipe {str(name)!r:.80} not found: expected a YAML file or one of {known}")
    return shipped[path.name]


def read_recipe_file(path: Path) -> dict[str, Any]:
    """Read the mapping of a recipe's file; raises `RecipeError`."""
    own = path / "recipe.yaml"
    if os.path.isfile(own):  # unlike Path.is_file, False for a name that no file can have
        again = shlex.join(["empg", "train", str(own), "--run", str(path), "--resume"])
        raise RecipeError(f"{path} is a run folder, and its recipe is {own}; to resume the run: {again}")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not a UTF-8 text file") from None
    except ValueError as error:  # a null character in the path
        raise RecipeError(f"cannot read {str(path)!r:.80}: {error}") from None
    data = read_recipe_yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: expected a mapping of keys to values, got a {type(data).__name__}")
    return data


def read_recipe_yaml(text: str, source: str) -> Any:
    """Read the YAML text of a recipe; raises `RecipeError`."""
    try:
        return read_yaml(text, source)
    except UserError as error:
        raise RecipeError(str(error)) from None


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a recipe's mapping with the values of `key.path=value` overrides; raises `RecipeError`.

    The preset of an `algorithm` in the file is below the keys of the file. That of an override `algorithm=...` is above
    them. All other overrides are above both, wherever they stand.
    """
    chosen = [override for override in overrides if override.startswith("algorithm=")]
    for override in chosen:
        apply_override(data, override)
    data = apply_preset(data, override=bool(chosen))
    named_in(data)
    for override in overrides:
        if override not in chosen:
            apply_override(data, override)
            named_in(data)  # so that the next override reaches into the section of a name
    return data


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one key of a recipe's mapping from `key.path=value`, in place; raises `RecipeError`."""
    key, separator, raw = override.partition("=")
    if not separator or not key:
        raise RecipeError(
            f"wrong override: expected key.path=value, e.g. credit.modulation.zeta=0.05, got {override!r}"
        )
    value = read_recipe_yaml(raw, f"override {override!r:.80}")
    *parents, leaf = key.split(".")
    node = data
    for parent in parents:
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise RecipeError(f"wrong override {override!r}: {parent!r} is a value and has no key {leaf!r}")
        node = child
    node[leaf] = value


def nested(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section whose keys are nested or dotted (`a: {b: 1}` or `a.b: 1`) with nested keys only.

    A `+` before a key stays, and `++` is the same. An override then replaces the value of the file in either spelling.

    Raises:
        UserError: a key is given twice, is a value and a mapping, or begins with `~`.
    """
    values: dict[str, str] = {}  # how each key that has a value is written
    inner: dict[str, str] = {}  # and one of the keys below each other key
    result: dict[str, Any] = {}
    for written, value in _leaves(section):
        path = written.lstrip("+")
        if path.startswith("~"):
            raise UserError(f"{written:.200}: a key cannot be removed. Remove the line, or set the key to null")
        names = path.split(".")
        if len(names) > MAX_DEPTH:
            raise UserError(f"{written:.200}: expected at most {MAX_DEPTH} levels of nesting")
        above = [".".join(names[:depth]) for depth in range(1, len(names))]
        same = [values.get(key) for key in (*above, path)] + [inner.get(path)]
        if other := next((key for key in same if key is not None), None):
            also = "" if other == written else f"also by {other:.200}, "
            raise UserError(f"{written:.200}: is given twice, {also}nested and dotted. Keep one of them")
        values[path] = written
        inner.update(dict.fromkeys(above, written))
        node = result
        *parents, leaf = names if written == path else ["+" + names[0], *names[1:]]
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value
    return result


def _leaves(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    if above.count(".") > MAX_DEPTH:
        raise UserError(f"{above:.200}: expected at most {MAX_DEPTH} levels of nesting")
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
