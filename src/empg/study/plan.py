"""A study as a YAML file: which recipes, variants of them, and seeds; and the runs that it asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, StrictInt, ValidationError, field_validator, model_validator

from empg.errors import RecipeError, UserError
from empg.recipe import Recipe, load_recipe
from empg.recipe.files import read_recipe_file
from empg.validation import Checked, Distinct, did_you_mean, explained, repeated
from empg.yaml_text import write_yaml

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]{0,59}")  # part of the name of a folder
_SET_BY_THE_STUDY = ("name", "seed", "evaluation.splits", "evaluation.episodes")


@dataclass(frozen=True, slots=True, order=True)
class RunKey:
    """A run of a study: the label of its recipe, its variant, its seed."""

    recipe: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.recipe}-{self.variant}-s{self.seed}"


class Study(Checked):
    """A comparison of variants of one or more recipes over several seeds."""

    name: str = Field(description="name of the folders below runs/studies/ and results/")
    recipes: list[str] = Field(min_length=1, description="shipped recipes or YAML files; the file name is the label")
    variants: dict[str, list[str]] = Field(min_length=1, description="overrides of each variant, by its name")
    base: str = Field(description="the variant that the others are compared with")
    control: str | None = Field(None, description="a second variant that they are compared with")
    seeds: Distinct[StrictInt] = Field(min_length=1)
    overrides: list[str] = Field(
        default_factory=list, description="overrides of every run; those of its variant follow"
    )
    splits: Distinct[str] | None = Field(
        None, min_length=1, description="one panel per split; null: those of the recipe"
    )
    tasks: int | None = Field(None, ge=1, description="tasks per panel; null: those of the recipe")
    target: float = Field(0.5, gt=0.0, le=1.0, description="success for which the iterations are counted")
    parallel: int = Field(1, ge=1, description="runs at once; each has the `workers` of its recipe as processes")
    minutes_per_run: float | None = Field(None, gt=0.0, description="for the estimate before a run has been measured")

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        return _checked(name)

    @field_validator("variants")
    @classmethod
    def _are_names(cls, variants: dict[str, list[str]]) -> dict[str, list[str]]:
        for name in variants:
            _checked(name)
        return variants

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        for key, name in (("base", self.base), ("control", self.control)):
            if name is not None and name not in self.variants:
                meant = did_you_mean(name, self.variants)
                raise UserError(f"{key}: expected one of {', '.join(self.variants)}, got {name!r:.80}{meant}")
        if self.control == self.base:
            raise UserError(f"control: {self.control!r:.80} is the base already; name another variant, or none")
        if twice := repeated(map(_label, self.recipes)):
            raise UserError(f"recipes: {twice[0]!r:.80} occurs twice; remove or rename one")
        for label in map(_label, self.recipes):
            _checked(label)
        for override in (*self.overrides, *(item for items in self.variants.values() for item in items)):
            key = override.partition("=")[0]
            if own := next((name for name in _SET_BY_THE_STUDY if f"{name}.".startswith(f"{key}.")), None):
                raise UserError(f"override {override!r:.80}: {own} is set by the study; remove it")
        return self

    @property
    def references(self) -> list[str]:
        """The variants that the others are compared with: the base, and the control if there is one."""
        return [name for name in (self.base, self.control) if name is not None]

    @property
    def keys(self) -> list[RunKey]:
        """All runs, seed by seed, so that a study that is stopped early has complete comparisons."""
        return [
            RunKey(_label(recipe), variant, seed)
            for seed in self.seeds
            for recipe in self.recipes
            for variant in self.variants
        ]


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run with the arguments of its `empg train` and the recipe that they give."""

    key: RunKey
    arguments: tuple[str, ...]
    recipe: Recipe


def load_study(path: Path) -> Study:
    """Read a study.

    Raises:
        RecipeError: the file is missing or not YAML, or a key or value is wrong.
    """
    data = read_recipe_file(path)
    if not {"recipes", "variants", "seeds"} & data.keys() and Recipe.model_fields.keys() & data.keys():
        raise RecipeError(f"{path} is a recipe, not a study: train it with empg train {path}")
    try:
        return Study.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{path}: {line}" for line in explained(error, Study))) from None


def plan(study: Study, source: Path) -> list[PlannedRun]:
    """Validate every run of a study, and return them in the order of `Study.keys`; errors name `source`.

    Raises:
        RecipeError: a recipe is missing, or an override does not fit.
    """
    files = {_label(name): name for name in study.recipes}
    planned: list[PlannedRun] = []
    first: dict[str, PlannedRun] = {}  # of each recipe
    for key in study.keys:
        overrides = [*study.overrides, *study.variants[key.variant], *_own_overrides(study, key)]
        try:
            recipe = load_recipe(files[key.recipe], overrides)
        except RecipeError as error:
            problem = str(error).splitlines()[0]
            raise RecipeError(f"{source}: recipe {key.recipe}, variant {key.variant}: {problem}") from None
        run = PlannedRun(key, (files[key.recipe], *overrides), recipe)
        _require_comparable(first.setdefault(key.recipe, run), run, source)
        planned.append(run)
    return planned


def _require_comparable(first: PlannedRun, run: PlannedRun, source: Path) -> None:
    """Reject variants whose results could not be compared, before any of them is trained."""
    ours, theirs = measured_by(first.recipe), measured_by(run.recipe)
    if different := next((key for key in ours if ours[key] != theirs[key]), None):
        raise RecipeError(
            f"{source}: recipe {run.key.recipe}: {different} is {ours[different]} in variant {first.key.variant} and "
            f"{theirs[different]} in {run.key.variant}, which cannot be compared: set it in overrides"
        )


def measured_by(recipe: Recipe) -> dict[str, object]:
    """Return the values, by key, that decide when and on what a run is evaluated."""
    evaluation = recipe.evaluation.model_dump(exclude={"every"})
    return {"iterations": recipe.iterations, **{f"evaluation.{key}": value for key, value in evaluation.items()}}


def _own_overrides(study: Study, key: RunKey) -> Sequence[str]:
    found = [f"name={key.name}", f"seed={key.seed}"]
    if study.splits is not None:
        splits = write_yaml(study.splits, in_one_line=True).strip()
        found.append(f"evaluation.splits={splits}")
    if study.tasks is not None:
        found.append(f"evaluation.episodes={study.tasks}")
    return found


def _label(recipe: str) -> str:
    return Path(recipe).stem


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r:.80} is not a valid name: expected a letter or digit, and up to 59 more, dots or underscores"
        )
    return name
