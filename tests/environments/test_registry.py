"""The registry: every environment by its name, whoever brought it, and one clear line for what is unavailable."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from empg.environments.base import PromptSpec, TextEnvironment
from empg.environments.options import EnvironmentOptions
from empg.environments.registry import Maker, find, known_ids, make, preparation, register
from empg.environments.spec import EnvironmentSpec
from empg.errors import RecipeError, UserError
from empg.recipe import Recipe, parse_recipe
from empg.rollout.env_pool import ProcessEnvPool
from tests.lamps import Lamps
from tests.packages import ECHO, importable, install, install_lamproom

OWN = ["alfworld", "webshop", "deepsearch"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in which packages are installed."""
    with importable(tmp_path):
        yield tmp_path


def refusal(id_: str) -> str:
    with pytest.raises(UserError) as caught:
        find(id_)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestOwn:
    @pytest.mark.parametrize("id_", OWN)
    def test_one_spec_says_all(self, id_: str) -> None:
        spec = find(id_)
        assert spec.id == id_
        assert spec.panels
        assert pickle.loads(pickle.dumps(spec)) == spec
        assert find(str(spec.gymnasium_id)) is spec
        environment = make(id_, spec.panels[0])
        assert isinstance(environment, TextEnvironment)
        assert type(environment) is type(gymnasium.make(str(spec.gymnasium_id)).unwrapped)

    @pytest.mark.parametrize("id_", OWN)
    def test_every_option_is_described_has_a_default_and_comes_back_from_json(self, id_: str) -> None:
        model = find(id_).options
        assert all(field.description and not field.is_required() for field in model.model_fields.values())
        chosen = model()
        assert model.model_validate(chosen.model_dump(mode="json")) == chosen

    @pytest.mark.parametrize("id_", OWN)
    @pytest.mark.parametrize("task", ["2", 2.0, True, np.float64(2), np.True_, [2]])
    def test_a_task_that_is_not_a_whole_number_is_refused(self, id_: str, task: Any) -> None:
        environment = make(id_, "train")
        for use in (environment.task_id, lambda task: environment.reset(options={"task": task})):
            with pytest.raises(UserError, match=r"^task: expected a whole number from 0 to \d+, got ") as caught:
                use(task)
            assert repr(task) in str(caught.value)

    @pytest.mark.parametrize("id_", OWN)
    def test_an_argument_of_its_own_is_no_option(self, id_: str) -> None:
        for name, value in {"split": "train", "max_steps": 5}.items():
            with pytest.raises(UserError, match=f"^{name}: is an argument of its own, not an option"):
                make(id_, "train", {name: value})

    @pytest.mark.parametrize("id_", OWN)
    def test_numpys_whole_numbers_are_tasks(self, id_: str) -> None:
        environment = make(id_, "train")
        assert environment.task_id(np.int64(2)) == environment.task_id(2)  # type: ignore[arg-type]
        assert environment.reset(options={"task": np.uint8(2)})[1]["task_id"] == environment.task_id(2)

    @pytest.mark.parametrize("id_", OWN)
    @pytest.mark.parametrize("task", [-1, 10**9])
    def test_a_task_outside_the_split_is_an_index_error(self, id_: str, task: int) -> None:
        environment = make(id_, "train")
        for use in (environment.task_id, lambda task: environment.reset(options={"task": task})):
            with pytest.raises(IndexError, match=rf"^task {task}: train has tasks 0 to \d+$"):
                use(task)

    @pytest.mark.parametrize("id_", OWN)
    def test_before_the_first_reset_there_is_no_episode(self, id_: str) -> None:
        environment = make(id_, "train")
        of_one: dict[str, list[Callable[[], object]]] = {
            "alfworld": [environment.clone],
            "deepsearch": [environment.solution],
        }
        for use in (lambda: environment.step("look"), environment.expert, *of_one.get(id_, ())):
            with pytest.raises(RuntimeError, match=r"^no episode has begun; call reset$"):
                use()
        environment.reset(options={"task": 0})
        assert environment.step("look")[4]["task_id"] == environment.task_id(0)

    def test_nothing_of_them_is_imported_with_the_package(self) -> None:
        code = (
            "import sys, empg.environments, gymnasium; from empg.recipe import Recipe; Recipe(); print(*("
            "name for name in sys.modules if name.endswith('.env') or name in ('torch', 'bm25s', 'regex')"
            ")); gymnasium.make('empg/ALFWorld-v1')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "\n"


class TestRegister:
    SPEC = EnvironmentSpec(
        id="lamps",
        entry_point="tests.lamps:Lamps",
        options=EnvironmentOptions,
        prompt=PromptSpec("Press.", "<action>press 1</action>"),
        panels=("train",),
        gymnasium_id="empg-test/Lamps-v0",
    )

    def test_by_id_and_by_gymnasium_id(self) -> None:
        register(self.SPEC)
        register(self.SPEC)  # again is no conflict
        assert find("lamps") is find("empg-test/Lamps-v0") is self.SPEC
        assert "lamps" in known_ids()
        assert "empg-test/Lamps-v0" in gymnasium.registry

    def test_a_class_that_gymnasium_knows_already_is_no_other_environment(self) -> None:
        registered: Any = Lamps
        gymnasium.register("empg-test/Lamps-v0", entry_point=registered)
        register(self.SPEC)
        assert find("empg-test/Lamps-v0") is self.SPEC

    def test_an_id_is_taken_once(self) -> None:
        with pytest.raises(UserError, match="id 'alfworld' is taken already"):
            register(replace(self.SPEC, id="alfworld"))

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            (
                {"gymnasium_id": "empg/WebShop-v1"},
                "the gymnasium id 'empg/WebShop-v1' is taken already; choose another",
            ),
            ({"gymnasium_id": "no id!"}, "gymnasium refuses its id 'no id!': Error: Malformed environment ID"),
            ({"gymnasium_id": "empg-test/None-v0", "entry_point": None}, "gymnasium has no empg-test/None-v0; give an"),
        ],
    )
    def test_a_spec_that_gymnasium_cannot_take_is_refused_and_not_kept(
        self, changed: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UserError, match=f"^environment 'fresh': {message}"):
            register(replace(self.SPEC, id="fresh", **changed))
        assert "fresh" not in known_ids()
        register(replace(self.SPEC, id="fresh", gymnasium_id=None))
        assert "fresh" in known_ids()

    def test_what_is_no_text_environment_is_refused(self) -> None:
        spec = replace(self.SPEC, id="odd", entry_point="types:SimpleNamespace")
        with pytest.raises(UserError, match="'odd': expected a TextEnvironment from types:SimpleNamespace, got a Simp"):
            Maker(spec, "train")()

    @pytest.mark.parametrize(
        ("place", "reason"),
        [
            ("no_such_module:Room", "ModuleNotFoundError: No module named 'no_such_module'"),
            ("tests.lamps:Room", "AttributeError: module 'tests.lamps' has no attribute 'Room'"),
        ],
    )
    def test_an_entry_point_that_is_not_there_is_named_with_its_environment(self, place: str, reason: str) -> None:
        spec = replace(self.SPEC, id="lost", entry_point=place, preparation=place)
        for use in (Maker(spec, "train"), lambda: preparation(spec, EnvironmentOptions())):
            with pytest.raises(UserError, match=f"^environment 'lost' cannot be loaded from {place}: {reason}$"):
                use()


class TestOtherPackages:
    def test_a_declared_environment_is_found_and_made_with_its_options(self, folder: Path) -> None:
        install_lamproom(folder)
        assert known_ids() == [*OWN, "lamproom"]
        assert "lamproom" not in sys.modules  # its name is known before it is imported
        environment = make("lamproom", "night", {"presses": 3}, 5)
        assert (environment.num_tasks, environment.max_steps, environment.task_id(2)) == (6, 5, "2-press:3")
        assert find("lamproom/LampRoom-v0") is find("lamproom")
        made = gymnasium.make("lamproom/LampRoom-v0", split="night").unwrapped
        assert isinstance(made, TextEnvironment)
        assert made.num_tasks == 6

    def test_a_recipe_takes_it_and_stores_its_options_and_panels(self, folder: Path) -> None:
        install_lamproom(folder)
        recipe = parse_recipe({"environment": {"id": "lamproom", "options": {"presses": 1}}})
        assert recipe.environment.options == {"presses": 1, "log": None}
        assert recipe.evaluation.splits == ["night"]
        assert recipe.environment.make("night").task_id(5) == "5-press:1"
        with pytest.raises(RecipeError, match=r"unknown key 'environment\.options\.press'; did you mean 'presses'\?"):
            parse_recipe({"environment": {"id": "lamproom", "options": {"press": 1}}})
        with pytest.raises(RecipeError, match=r"options\.presses: expected at most 3"):
            parse_recipe({"environment": {"id": "lamproom", "options": {"presses": 4}}})

    @pytest.mark.parametrize(
        ("place", "message"),
        [
            ("absent:SPEC", "cannot be loaded from absent:SPEC: ModuleNotFoundError: No module named 'absent'"),
            ("broken:NOTHING", "AttributeError: module 'broken' has no attribute 'NOTHING'"),
            ("explodes:SPEC", "cannot be loaded from explodes:SPEC: ZeroDivisionError: two lines"),
            ("exits:SPEC", "cannot be loaded from exits:SPEC: SystemExit: no licence"),
            ("broken:SPEC", "expected an EnvironmentSpec of that id, got a str"),
            ("lamproom:SPEC", "expected an EnvironmentSpec of that id, got one of id 'lamproom'"),
        ],
    )
    def test_a_broken_one_is_named_and_leaves_the_rest_alone(self, folder: Path, place: str, message: str) -> None:
        modules = {
            "broken.py": "SPEC = 'x'",
            "explodes.py": "raise ZeroDivisionError('two\\nlines')",
            "exits.py": "import sys; sys.exit('no licence')",
        }
        install(folder, "acme-worlds", modules, {"acme": place})
        install_lamproom(folder)
        said = refusal("acme")
        assert said.startswith("environment 'acme' of acme-worlds 0.1")
        assert message in said
        assert find("lamproom").id == "lamproom"
        assert find("alfworld").id == "alfworld"
        assert Recipe().environment.id == "alfworld"

    def test_two_packages_with_one_id_are_named(self, folder: Path) -> None:
        install_lamproom(folder)
        install(folder, "lamps-too", {}, {"lamproom": "lamproom:SPEC"})
        assert "is declared by" in refusal("lamproom")
        assert "lamproom 0.1" in refusal("lamproom")
        assert "lamps-too 0.1" in refusal("lamproom")

    def test_no_package_takes_the_name_of_an_own_environment(self, folder: Path) -> None:
        install(folder, "acme-worlds", {}, {"alfworld": "absent:SPEC"})
        assert find("alfworld").entry_point == "empg.environments.alfworld.env:ALFWorldEnv"
        assert known_ids() == OWN


@pytest.mark.parametrize(
    ("id_", "message"),
    [
        (
            "alfwrld",
            "unknown environment 'alfwrld'; did you mean 'alfworld'? Known: alfworld, webshop, deepsearch",
        ),
        ("empg/WebShop-v2", "did you mean 'empg/WebShop-v1'?"),
        ("", "unknown environment ''. Known: alfworld"),
        ("a\nb", "unknown environment 'a\\nb'"),
        ("no.such.module:Thing-v0", "the module no.such.module cannot be imported: ModuleNotFoundError: No module"),
        ("json:Thing-v0", "unknown environment 'json:Thing-v0'"),
        ("../x:y", "unknown environment '../x:y'"),
        (":", "unknown environment ':'"),
        ("x" * 10_000, "unknown environment 'xxxx"),
    ],
)
def test_an_unknown_one_is_refused_in_a_line_that_names_the_nearest(id_: str, message: str) -> None:
    said = refusal(id_)
    assert message in said
    assert len(said) < 300
    with pytest.raises(RecipeError, match=r"^recipe: environment\.id: "):
        parse_recipe({"environment": {"id": id_}})


def test_the_nearest_gymnasium_id_has_the_module_that_registers_it(folder: Path) -> None:
    (folder / "echoing.py").write_text(ECHO)
    said = refusal("echoing:Echo-v9")
    assert "did you mean 'echoing:Echo-v0'?" in said
    assert find("echoing:Echo-v0").gymnasium_id == "echoing:Echo-v0"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"options": {"rooms": "big"}}, "environment.options.rooms: expected 'small' or 'full', got 'big'"),
        ({"options": {"romms": "small"}}, "unknown key 'environment.options.romms'; did you mean 'rooms'?"),
        ({"options": {"max_steps": 3}}, "unknown key 'environment.options.max_steps'; valid keys: games, rooms,"),
        ({"options": {"task_types": ["bake"]}}, "environment.options.task_types.0: expected 'pick_and_place"),
        ({"options": []}, "environment.options: expected a mapping, got []"),
        ({"id": "webshop", "options": {"seed": True}}, "environment.options.seed: expected an integer"),
        (
            {"id": "deepsearch", "options": {"requests": {"timeout": 0}}},
            "environment.options.requests.timeout: expected a number above 0, got 0",
        ),
        ({"id": "deepsearch", "options": {"metric": "judge"}}, "environment.options: metric='judge' needs judge"),
        ({"id": 5}, "environment.id: expected a text, got 5"),
    ],
)
def test_wrong_options_are_named_as_keys_of_the_recipe(environment: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"environment": environment})
    assert str(caught.value).startswith("recipe: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("id_", "key", "meant"), [("alfworld", "max_step", "max_steps"), ("webshop", "splitt", "split")]
)
def test_the_nearest_key_may_be_an_argument_of_the_constructor_itself(id_: str, key: str, meant: str) -> None:
    message = f"^unknown key '{key}'; did you mean '{meant}'\\?$"
    options: dict[str, Any] = {key: 3}
    with pytest.raises(UserError, match=message):
        make(id_, "train", options)
    with pytest.raises(UserError, match=message):
        gymnasium.make(str(find(id_).gymnasium_id), **options)


def test_a_resolved_recipe_has_every_option_and_is_read_back_the_same() -> None:
    given = {"id": "deepsearch", "options": {"kinds": ["1-hop"], "encoder": "e5", "cache": "x/y", "retriever": "dense"}}
    recipe = parse_recipe({"environment": given})
    options = recipe.environment.options
    assert set(options) == set(find("deepsearch").options.model_fields)
    assert (options["kinds"], options["cache"], options["encoder"]["folder"]) == (["1-hop"], "x/y", "e5")
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("id_", "given", "key"),
    [
        ("alfworld", {"games": "~/x"}, "games"),
        ("webshop", {"data": "~/x"}, "data"),
        ("webshop", {"cache": Path("~/x")}, "cache"),
        ("deepsearch", {"cache": "~/x"}, "cache"),
        ("deepsearch", {"retriever": "dense", "encoder": "~/x"}, "encoder.folder"),
        ("deepsearch", {"retriever": "dense", "encoder": "e5", "index": "~/x"}, "index"),
        ("deepsearch", {"data": {"questions": "~/x"}}, "data.questions"),
        ("deepsearch", {"data": {"questions": {"train": ["~/x", "y"]}}}, "data.questions.train.0"),
        ("deepsearch", {"data": {"questions": "q", "corpus": "~/x"}}, "data.corpus"),
    ],
)
def test_a_path_that_begins_with_a_tilde_is_in_the_home_folder(
    id_: str, given: dict[str, Any], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    found: Any = find(id_).options(**given).model_dump(mode="json")
    for part in key.split("."):
        found = found[int(part) if part.isdigit() else part]
    assert found == "/home/ann/x"


def test_search_r1_needs_passages() -> None:
    form = {"agent": {"form": "search_r1"}}
    with pytest.raises(RecipeError, match=r"it needs environment\.options\.observation=passages$"):
        parse_recipe({**form, "environment": {"id": "deepsearch"}})
    parse_recipe({**form, "environment": {"id": "deepsearch", "options": {"observation": "passages"}}})


@pytest.mark.parametrize(
    ("id_", "options", "slow"),
    [
        ("alfworld", {}, False),
        ("alfworld", {"backend": "textworld"}, True),
        ("deepsearch", {}, False),
        ("deepsearch", {"retriever": "http://127.0.0.1:9"}, True),
        ("deepsearch", {"metric": "judge", "judge": {"url": "http://127.0.0.1:9", "model": "m"}}, True),
    ],
)
def test_options_say_whether_steps_are_slow(id_: str, options: dict[str, Any], slow: bool) -> None:
    assert bool(find(id_).options(**options).slow_steps) == slow


def test_a_process_that_steps_environments_imports_neither_torch_nor_the_recipe(folder: Path) -> None:
    install_lamproom(folder)
    log = folder / "made"
    recipe = parse_recipe({"environment": {"id": "lamproom", "options": {"log": str(log)}}})
    pool = ProcessEnvPool(recipe.environment.maker("night"), 1)
    try:
        assert pool.reset([0], [1])[0].observation == "Lamp 3 is lit."
    finally:
        pool.close()
    process, *heavy = log.read_text().split()
    assert int(process) == pool._processes[0].process.pid
    assert heavy == []
