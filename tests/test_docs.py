"""The pages: their links lead somewhere, and what they tell people to type runs."""

from __future__ import annotations

import builtins
import dis
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from empg.credit import MODULATIONS
from empg.environments.registry import find
from empg.recipe import Recipe, load_recipe, parse_recipe
from empg.recipe.process_reward import JudgeReward, ProgressReward
from empg.rollout.demonstrations import demonstrate
from empg.rollout.types import EndReason
from empg.run.logger import resume_record
from empg.run.resume import FREE
from empg.study.plan import Study
from tests import ROOT
from tests.packages import importable, install

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

SMALL_RUN = """
iterations: 2
checkpoint_every: 2
environment: {max_steps: 4, options: {rooms: small}}
policy:
  device: cpu
  tiny: {hidden_size: 32, layers: 2, heads: 2, kv_heads: 1, intermediate_size: 64, vocab_size: 400}
warm_start: {episodes: 16, episodes_per_step: 8}
rollout: {groups: 2, group_size: 3, max_turn_tokens: 24, max_episode_tokens: 512, slots: 4}
evaluation: {splits: [valid_seen], episodes: 4}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which what the pages name can be found: `recipes/`, and a small run that was made in `runs/demo`."""
    from empg.run.build import resolve
    from empg.run.train import train

    place = tmp_path_factory.mktemp("place")
    (place / "recipes").symlink_to(ROOT / "recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        train(resolve(parse_recipe(yaml.safe_load(SMALL_RUN))), place / "runs" / "demo")
    return place


def section(page: str, heading: str) -> str:
    """What stands under a heading of a page in docs/, up to the next heading."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{page} has no heading {heading!r}"
    return found.group(1)


def rows(page: str, heading: str) -> list[list[str]]:
    """The rows of the tables under a heading whose first cell begins in backticks, by cell."""
    lines = re.findall(r"^\| (`.*) \|$", section(page, heading), re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def names(page: str, heading: str) -> list[str]:
    """What the first cells of the tables under a heading name, in backticks."""
    return [name for cells in rows(page, heading) for name in re.findall(r"`([^`]+)`", cells[0])]


def sections(model: type[BaseModel], path: str = "") -> dict[str, type[BaseModel]]:
    """The models that a recipe is made of, by the path of their key; the recipe itself is `The run`."""
    found = {path or "The run": model}
    for key, field in model.model_fields.items():
        if (inner := section_of(field.annotation)) is not None:
            found |= sections(inner, f"{path}.{key}" if path else key)
    return found


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model in `Model` or `Model | None`."""
    for part in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def in_words(schema: dict[str, Any], definitions: dict[str, Any] | None = None) -> str:
    """A JSON schema as the page on recipes says it."""
    if "$ref" in schema:
        meant = (definitions or {}).get(schema["$ref"].rpartition("/")[2], {})
        return in_words(meant) if "enum" in meant else "section"
    if "anyOf" in schema:
        return " or ".join(in_words(part, definitions) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum") or [schema["const"]])
    if schema["type"] == "array":
        parts = schema.get("prefixItems")
        return f"{len(parts)} numbers" if parts else "list of " + in_words(schema["items"], definitions)
    word = {"string": "text", "boolean": "true or false", "object": "mapping"}.get(schema["type"], schema["type"])
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[name]:g}" for name, sign in signs.items() if name in schema]
    return f"{word} {', '.join(bounds)}" if bounds else str(word)


def option_rows(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str, Any, FieldInfo]]:
    """Name, type, default and field of every option; `...` is the default of a section that has its own rows."""
    schema = model.model_json_schema()
    for key, field in model.model_fields.items():
        name, default = f"{path}{key}", field.get_default(call_default_factory=True)
        yield name, in_words(schema["properties"][key], schema.get("$defs")), default_cell(default), field
        if (inner := section_of(field.annotation)) is not None:
            yield from option_rows(inner, f"{name}.")


def default_cell(default: Any) -> Any:
    return ... if isinstance(default, BaseModel) else default


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_are_alive(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    dead = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_anchors_of_relative_links_exist(page: Path) -> None:
    missing = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        if "://" not in target and file.suffix == ".md" and file.exists() and anchor not in anchors(file):
            missing.append(f"{target}#{anchor}")
    assert missing == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")}
    assert pages - {"index.md"} - set(re.findall(r"\]\(([^)#\s]+)", index)) == set()


def test_the_glossary_is_sorted_and_names_what_the_code_defines() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    entries = re.findall(
        r"^\| ([^|]+) \| [^|]+\. \| `(\w+)` in \[`([\w/.]+)`\]\(\.\./src/empg/\3\) \|$", text, re.MULTILINE
    )
    assert len(entries) == text.count("\n|") - 2 > 40  # every row of the table has this form
    terms = [term.lower() for term, _, _ in entries]
    assert terms == sorted(set(terms))
    undefined = [
        (term, name, path)
        for term, name, path in entries
        if not re.search(rf"\b{name}\b", (ROOT / "src" / "empg" / path).read_text(encoding="utf-8"))
    ]
    assert undefined == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_recipes_and_overrides_in_commands_are_valid(page: Path) -> None:
    for line in re.findall(r"^(?:\$ )?empg train (recipes/.*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        recipe, *arguments = shlex.split(line, comments=True)
        load_recipe(ROOT / recipe, [argument for argument in arguments if re.match(r"[a-z][\w.]*=", argument)])


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "algorithms").glob("*.md")), ids=lambda page: page.stem)
def test_the_recipe_keys_of_an_algorithm_are_valid(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        parse_recipe(yaml.safe_load(block))


def test_the_python_of_the_readme_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [(block, printed)] = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})  # our own page, not a user's
    assert capsys.readouterr().out == printed


def test_the_readme_s_commands_exist() -> None:
    from typer.main import get_command

    from empg.cli import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"^empg ([\w-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= known
    assert len(named) >= 6


TUTORIALS = ["tutorials/1-credit-of-an-episode.md", "tutorials/2-change-the-method.md"]


@pytest.mark.parametrize("page", ["method.md", "history.md", "runs.md", "environments.md", "inspector.md", *TUTORIALS])
def test_a_page_s_python_runs_and_prints_what_it_says(
    page: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```(?:\n\nprints\n\n```\n(.*?)```)?", text, re.DOTALL)
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["page.py"])
    assert blocks
    names: dict[str, Any] = {}
    for block, printed in blocks:
        exec(compile(block, page, "exec"), names if page in TUTORIALS else {})  # a tutorial is one program
        out = capsys.readouterr().out
        assert out or page in TUTORIALS
        assert printed in ("", out)


def test_a_file_of_a_tutorial_is_complete() -> None:
    """What a reader saves as a file has its own imports, although the page is executed as one program."""
    text = (ROOT / "docs" / "tutorials" / "2-change-the-method.md").read_text(encoding="utf-8")
    files = re.findall(r"[Ss]aved? (?:it|in a\sclone) as\s`[\w/]+\.py`[^\n]*:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert len(files) == 3
    for block in files:
        names: dict[str, Any] = {"__name__": "saved"}
        exec(compile(block, "saved.py", "exec", dont_inherit=True), names)
        for function in [value for value in names.values() if getattr(value, "__module__", "") == "saved"]:
            code = getattr(function, "__code__", None)
            read = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"} if code else set()
            assert read <= names.keys() | vars(builtins).keys()


def test_the_page_on_runs_names_the_files_of_a_run(place: Path) -> None:
    def folded(path: str) -> str:
        return re.sub(r"-[0-9a-f]{8}-t", "-panel-t", re.sub(r"iter-\d{6}", "iter-N", path))

    run = place / "runs" / "demo"
    left = {folded(str(file.relative_to(run))) for file in run.rglob("*") if file.is_file()}
    named = {folded(name) for name in names("runs.md", "The folder")}
    named.remove("entropy.json")  # `empg entropy` writes it, not a run
    alone = ("recipe.yaml", "metrics.jsonl", "report.html", ".lock", ".metrics.lock")
    top = {name for name in named if "/" in name or name in alone}
    folders = {name for name in top if name.endswith("/")}
    inside = {path.rpartition("/")[2] for path in left if path.startswith("checkpoints/")}
    assert {path for path in left if not path.startswith(tuple(folders))} == top - folders
    assert folders == {"checkpoints/start/", "checkpoints/iter-N/", "tensorboard/"}
    assert all((run / folder.replace("iter-N", "iter-000002")).is_dir() for folder in folders)
    assert inside == {name for name in named - top if not name.startswith((".", "<"))} - {"start"}


@pytest.mark.parametrize("kind", ["run", "warm_start", "train", "eval"])
def test_the_page_on_runs_names_the_fields_of_a_record(kind: str, place: Path) -> None:
    lines = (place / "runs" / "demo" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == kind]
    assert records
    assert all(list(record) == names("runs.md", f"`{kind}`") for record in records)


def test_the_page_on_runs_names_what_a_resumed_run_records_and_may_change() -> None:
    assert list(resume_record("", Recipe(), 0, {}, None)) == names("runs.md", "`resume`")
    assert set(names("runs.md", "What a resumed run may change")) == {*FREE, "evaluation.*"}
    from empg.cli import app

    shown = CliRunner().invoke(app, ["train", "--help"]).stdout
    assert [key for key in FREE if key not in shown] == []


@pytest.mark.parametrize("folder", ["episodes", "evaluations"])
def test_the_page_on_runs_names_the_columns_of_a_table(folder: str, place: Path) -> None:
    files = sorted((place / "runs" / "demo" / folder).glob("*.parquet"))
    described = [[cell.strip("`") for cell in cells[:3]] for cells in rows("runs.md", f"{folder}/*.parquet")]
    assert len(files) == 2
    for file in files:
        schema = pq.read_schema(file)
        units = [(field.metadata or {}).get(b"unit", b"").decode() for field in schema]
        assert described == [[f.name, str(f.type), unit] for f, unit in zip(schema, units, strict=True)]


def test_the_page_on_runs_names_every_end_of_an_episode() -> None:
    assert names("runs.md", "How episodes end") == [reason.value for reason in EndReason]


@pytest.mark.parametrize("path", sections(Recipe))
def test_the_page_on_recipes_names_every_key_with_its_type_and_default(path: str) -> None:
    model = sections(Recipe)[path]
    properties = model.model_json_schema()["properties"]
    table = rows("recipes.md", path)
    assert [cells[0] for cells in table] == [f"`{key}`" for key in model.model_fields]
    for cells, (key, field) in zip(table, model.model_fields.items(), strict=True):
        assert len(cells) == 5, key
        assert re.sub(r" \(\w[\w ]*\)$", "", cells[1]) == in_words(properties[key]), key
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            assert cells[2] == "", key
            continue
        said = yaml.safe_load(cells[2].strip("`"))
        assert said == (list(default) if isinstance(default, tuple) else default), key
        assert type(said) is type(default) or isinstance(default, tuple), key


def test_the_page_on_recipes_names_every_option_of_every_modulation() -> None:
    said = {
        (rule, re.findall(r"`(\w+)`", option)[0], yaml.safe_load(default.strip("`")))
        for option, rules, default, *_ in rows("recipes.md", "Options of the modulations")
        for rule in re.findall(r"`(\w+)`", rules)
    }
    options = {(name, f.name, f.default) for name, rule in MODULATIONS.items() for f in fields(rule.options)}
    assert said == options
    assert re.findall(r"`(\w+)`", rows("recipes.md", "credit.modulation")[0][3]) == list(MODULATIONS)


def test_the_page_on_recipes_names_every_option_of_every_process_reward() -> None:
    said = {
        (option, reward)
        for options, rewards, *_ in rows("recipes.md", "Process rewards")
        for option in re.findall(r"`(\w+)`", options)
        for reward in re.findall(r"`(\w+)`", rewards)
    }
    models: dict[str, type[BaseModel]] = {"progress": ProgressReward, "judge": JudgeReward}
    assert said == {(option, name) for name, model in models.items() for option in model.model_fields} - {
        ("name", name) for name in models
    }


def test_the_page_on_recipes_names_no_other_section() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(sections(Recipe))


def test_the_page_on_studies_names_every_key_with_its_type_and_default() -> None:
    table = rows("studies.md", "The file")
    assert [cells[0] for cells in table] == [f"`{key}`" for key in Study.model_fields]
    properties = Study.model_json_schema()["properties"]
    for cells, (key, field) in zip(table, Study.model_fields.items(), strict=True):
        assert cells[1] == in_words(properties[key]), key
        default = field.get_default(call_default_factory=True)
        assert cells[2] == "required" if field.is_required() else yaml.safe_load(cells[2].strip("`")) == default, key


@pytest.mark.parametrize("id_", ["alfworld", "webshop", "deepsearch"])
def test_an_environment_s_page_names_every_option_with_its_type_default_and_description(id_: str) -> None:
    text = (ROOT / "docs" / f"{id_}.md").read_text(encoding="utf-8")
    [table] = re.findall(r"^\| option \| type \| default \| meaning \|\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    said = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert all(len(cells) == 4 for cells in said)
    assert [cells[0] for cells in said] == [f"`{name}`" for name, *_ in option_rows(find(id_).options)]
    for cells, (name, kind, default, field) in zip(said, option_rows(find(id_).options), strict=True):
        assert cells[1] == kind, name
        if field.is_required() or default is ...:
            assert cells[2] == ("required" if field.is_required() else ""), name
        else:
            assert yaml.safe_load(cells[2].strip("`")) == default, name
        assert cells[3] == field.description, name


def test_the_recipe_with_files_of_questions_evaluates_the_splits_that_it_names() -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", section("deepsearch.md", "Your own questions and corpus"), re.DOTALL)
    recipe = parse_recipe(yaml.safe_load(text))
    splits = recipe.environment.options["data"]["questions"]
    assert [recipe.environment.train_split, *recipe.evaluation.panels] == list(splits)


def test_the_package_of_the_page_on_environments_is_one(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "tutorials" / "3-add-an-environment.md").read_text(encoding="utf-8")
    [code, project, recipe] = [
        re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)[0] for language in ("python", "toml", "yaml")
    ]
    [[id_, place]] = re.findall(r'^(\w+) = "(\w+:\w+)"$', project.partition("entry-points")[2], re.MULTILINE)
    with importable(tmp_path):
        install(tmp_path, "hotcold", {"hotcold/__init__.py": code}, {id_: place})
        parsed = parse_recipe(yaml.safe_load(recipe))
        assert parsed.evaluation.splits == ["valid"]
        environment: Any = parsed.environment.make("valid")  # its class is in the page
        for task in range(environment.num_tasks):
            observation, info = environment.reset(options={"task": task})
            expert, over = environment.expert(), False
            while not over:
                twin = environment.clone()
                action = expert.act(observation, info)["action"]
                outcome = environment.step(action)
                assert twin.step(action) == outcome
                observation, _, terminated, truncated, info = outcome
                over = terminated or truncated
            assert info["won"]
        for task in range(20):
            demonstrate(environment, task, 0.3, (task,))  # 30% of the turns go wrong on purpose
            assert environment.won
        assert not environment.step("try the door")[4]["valid"]
        train: Any = parsed.environment.make("train")
        assert {hidden(train, task) for task in range(train.num_tasks)}.isdisjoint(
            hidden(environment, task) for task in range(environment.num_tasks)
        )


def hidden(environment: Any, task: int) -> int:
    environment.reset(options={"task": task})
    return int(environment.hidden)


def test_the_page_of_results_has_every_study_and_all_of_its_runs() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    shown = re.findall(r"^## (\w+)$.*?^- runs: (\d+) of", page, re.MULTILINE | re.DOTALL)
    kept = {
        file.parent.name: len(list(file.parent.glob("*/metrics.jsonl"))) for file in ROOT.glob("results/*/study.yaml")
    }
    assert {name: int(runs) for name, runs in shown} == kept
