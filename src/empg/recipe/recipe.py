"""A whole recipe: read from YAML with overrides, validated, and written out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from empg.errors import RecipeError, UserError
from empg.presets import PRESETS, apply_preset
from empg.recipe.credit import CreditSection, LossSection
from empg.recipe.files import apply_overrides, find_recipe, nested, read_recipe_file
from empg.recipe.modulation import drop_options_of_the_other_rule, named_in
from empg.recipe.sections import (
    AgentSection,
    EnvironmentSection,
    EvaluationSection,
    OptimizerSection,
    PolicySection,
    RolloutSection,
    WarmStartSection,
)
from empg.validation import Checked, Distinct, did_you_mean, explained
from empg.yaml_text import write_yaml

AnySection = TypeVar("AnySection", bound=Checked)


class Recipe(Checked):
    """A whole run."""

    name: str = Field("run", min_length=1, max_length=100)
    seed: int = Field(0, ge=0)
    iterations: int = Field(100, ge=0)
    workers: int = Field(
        1, ge=1, le=1024, description="data-parallel processes on this machine, one OpenMP thread each on CPU"
    )
    checkpoint_every: int = Field(10, ge=1, description="iterations")
    keep_checkpoints: int = Field(2, ge=1)
    record_token_entropies: bool | Literal["auto"] = Field(
        "auto", description="write the entropy of each token into the episodes' files; auto: if the policy is `tiny`"
    )
    loggers: Distinct[Literal["tensorboard", "wandb", "trackio"]] = Field(
        ["tensorboard"], description="where the numbers of metrics.jsonl are also written"
    )
    algorithm: str | None = Field(
        None, description="a preset of `presets.py`: values of keys that this recipe does not set itself"
    )
    environment: EnvironmentSection = EnvironmentSection()
    policy: PolicySection = PolicySection()
    agent: AgentSection = AgentSection()
    warm_start: WarmStartSection | None = None
    rollout: RolloutSection = RolloutSection()
    credit: CreditSection = Field(default_factory=CreditSection)
    loss: LossSection = LossSection()
    optimizer: OptimizerSection = OptimizerSection()
    evaluation: EvaluationSection = Field(EvaluationSection(), validate_default=True)
    trl: dict[str, Any] = Field(
        default_factory=dict, description="more arguments of `GRPOConfig` for `--engine trl`, e.g. {use_vllm: true}"
    )
    verl: dict[str, Any] = Field(
        default_factory=dict,
        description="more values of verl's configuration for `--engine verl`, e.g. {trainer: {nnodes: 2}}",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, data: Any) -> Any:
        return apply_preset(data, override=False) if isinstance(data, dict) else data

    @field_validator("algorithm")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in PRESETS:
            raise UserError(f"expected one of {', '.join(PRESETS)}, got {name!r:.80}{did_you_mean(name, PRESETS)}")
        return name

    @field_validator("verl")
    @classmethod
    def _one_spelling(cls, section: dict[str, Any]) -> dict[str, Any]:
        return nested(section)

    @field_validator("evaluation")
    @classmethod
    def _with_panels(cls, evaluation: EvaluationSection, info: ValidationInfo) -> EvaluationSection:
        environment = info.data.get("environment")  # absent if it has an error
        if evaluation.splits is not None or environment is None:
            return evaluation
        return evaluation.model_copy(update={"splits": list(environment.spec.panels)})

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.rollout.groups % self.workers:
            raise UserError(f"rollout.groups ({self.rollout.groups}) must be a multiple of workers ({self.workers})")
        if self.rollout.group_size == 1 and (rule := self.credit.within_group_key):
            raise UserError(f"{rule} compares episodes: set rollout.group_size > 1")
        if self.rollout.group_size == 1 and self.credit.drop_zero_variance:
            raise UserError("credit.drop_zero_variance would drop every group: rollout.group_size must be > 1")
        if self.credit.max_resample and not self.credit.drop_zero_variance:
            raise UserError("credit.max_resample replaces dropped groups: set credit.drop_zero_variance=true")
        if self.loss.ratio == "episode" and self.agent.history == "per_turn":
            raise UserError("loss.ratio=episode needs episodes in one row: set agent.history=merged or loss.ratio=step")
        length, positions = self.rollout.max_episode_tokens, self.policy.tiny.max_positions
        if self.policy.model == "tiny" and length > positions:
            raise UserError(
                f"rollout.max_episode_tokens: expected <= policy.tiny.max_positions ({positions}), got {length}"
            )
        if self.policy.model == "tiny" and self.agent.template_arguments:
            raise UserError("agent.template_arguments: the chat template of policy.model=tiny has none; remove the key")
        self.environment.chosen.check_form(self.agent.form)
        _ = self.imitated_environment  # reads `warm_start.options`
        return self

    @property
    def imitated_environment(self) -> EnvironmentSection:
        """The environment in which the warm start, and the tokenizer of `tiny`, see an expert."""
        options = self.warm_start.options if self.warm_start is not None else {}
        return self.environment.with_options(options, within="warm_start.options")

    def replaced(self, values: Mapping[str, Any]) -> Recipe:
        """Return this recipe with other values by key path, e.g. `{"policy.model": "tiny"}`. They are not validated.

        Raises:
            KeyError: there is no such key.
        """
        recipe = self
        for path, value in values.items():
            recipe = _with_value(recipe, path, value)
        return recipe

    def is_due(self, every: int, done: int) -> bool:
        """Return whether a task that recurs every `every` iterations (0: never) is due after `done` of them.

        It is always due before the first iteration and after the last.
        """
        return done in (0, self.iterations) or (every > 0 and done % every == 0)


def _with_value(section: AnySection, path: str, value: Any) -> AnySection:
    name, _, rest = path.partition(".")
    if name not in type(section).model_fields:
        raise KeyError(path)
    if rest:
        value = _with_value(getattr(section, name), rest, value)
    return section.model_copy(update={name: value})


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe, by its path or the name of a shipped one, and apply `key.path=value` overrides (YAML values).

    Raises:
        RecipeError: the file is missing or not YAML, or a key or value is wrong.
    """
    path = find_recipe(path)
    data = read_recipe_file(path)
    if {"recipes", "variants"} <= data.keys():
        raise RecipeError(f"{path} is a study, not a recipe: run it with empg study {path}")
    return override_recipe(data, overrides, str(path))


def override_recipe(data: dict[str, Any], overrides: Sequence[str], source: str = "recipe") -> Recipe:
    """Apply `key.path=value` overrides (YAML values) to a recipe given as a mapping, which may change, and validate it.

    Raises:
        RecipeError: a key or value is wrong; the message names `source`.
    """
    of_the_file = named_in(data)
    if isinstance(data.get("verl"), dict):
        with suppress(UserError):  # which validation reports
            data["verl"] = nested(data["verl"])
    data = apply_overrides(data, overrides)
    drop_options_of_the_other_rule(data, of_the_file, overrides)
    return parse_recipe(data, source)


def parse_recipe(data: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Validate a recipe given as a mapping; errors name `source`."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{source}: {line}" for line in explained(error, Recipe))) from None


def dump_recipe(recipe: Recipe) -> str:
    """Return the complete, resolved recipe as YAML."""
    return write_yaml(recipe.model_dump(mode="json"))
