"""Recipes: read YAML into validated, immutable models.

Every value that affects a run is defined here once, with its unit and its default. The resolved recipe is written into
the run folder, so a run can be repeated. Unknown keys are errors that name the key and the nearest valid one.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from empg.environments import registry
from empg.environments.base import TextEnvironment
from empg.environments.options import EnvironmentOptions, read_options
from empg.environments.spec import EnvironmentSpec
from empg.errors import RecipeError, UserError
from empg.recipe_files import apply_override, find_recipe, read_recipe_yaml
from empg.recipe_modulation import drop_options_of_the_other_rule, named, named_in, read_modulation, replaced_key
from empg.validation import OptionError, explained, nearest

if TYPE_CHECKING:
    from empg.credit import AdvantageEstimator


class Section(BaseModel):
    """A section of a recipe: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class EnvironmentSection(Section):
    """The environment."""

    id: str = Field("alfworld", description="a registered environment, or a gymnasium id of text")
    options: dict[str, Any] = Field(
        default_factory=dict,
        validate_default=True,
        description="passed to the constructor of the environment; the resolved recipe has all of them",
    )
    train_split: str = "train"
    max_steps: int | None = Field(None, ge=1, description="turns per episode; null: the environment's own limit")
    workers: int = Field(0, ge=0, description="processes that step slow environments; 0 steps them in place")

    @field_validator("id")
    @classmethod
    def _known(cls, id_: str) -> str:
        registry.find(id_)
        return id_

    @field_validator("options")
    @classmethod
    def _complete(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "id" not in info.data:  # the id is unknown, which is reported separately
            return options
        model = registry.find(info.data["id"]).options
        return read_options(model, options, within="environment.options").model_dump(mode="json")

    @property
    def spec(self) -> EnvironmentSpec:
        """The registry entry of the environment."""
        return registry.find(self.id)

    @property
    def chosen(self) -> EnvironmentOptions:
        """The options as the environment's own model."""
        return read_options(self.spec.options, self.options, within="environment.options")

    def maker(self, split: str) -> registry.Maker:
        """Return a factory for environments of a split, which can be sent to another process."""
        return registry.Maker(self.spec, split, self.options, self.max_steps)

    def make(self, split: str) -> TextEnvironment:
        """Make an environment of a split.

        Raises:
            UserError: it cannot be made on this machine, or the split does not exist.
        """
        return self.maker(split)()


class TinyModel(Section):
    """The shape of the tiny policy (Llama architecture), used when `policy.model` is `tiny`."""

    hidden_size: int = Field(128, ge=16)
    layers: int = Field(4, ge=1)
    heads: int = Field(2, ge=1)
    kv_heads: int = Field(1, ge=1)
    head_dim: int | None = Field(None, ge=2, description="None: hidden_size / heads")
    intermediate_size: int = Field(384, ge=16)
    vocab_size: int = Field(1024, ge=300)
    phrases: int = Field(64, ge=0, le=200, description="maximum number of frequent phrases that are one token each")
    max_positions: int = Field(2048, ge=128, description="tokens")
    embedding_std: float = Field(0.02, gt=0.0, description="standard deviation of the initial embeddings")

    @model_validator(mode="after")
    def _consistent(self) -> TinyModel:
        if self.head_dim is not None and self.head_dim % 2:
            raise UserError(f"head_dim: expected an even number, got {self.head_dim}")
        if self.hidden_size % (2 * self.heads):
            raise UserError(f"hidden_size ({self.hidden_size}) must be a multiple of 2 * heads ({2 * self.heads})")
        if self.heads % self.kv_heads:
            raise UserError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        return self


class LoraSection(Section):
    """Low-rank adapters instead of full weights (needs `peft`)."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


class PolicySection(Section):
    """The language model."""

    model: str = Field("tiny", description="`tiny`, a folder, or a Hugging Face name")
    tiny: TinyModel = TinyModel()
    lora: LoraSection | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = Field("auto", description="`auto`, `cpu`, `cuda`, `cuda:1`, ...")


class AgentSection(Section):
    """The text that the model reads and writes."""

    prompt: Literal["terse", "instruct"] = Field(
        "terse", description="`terse` for models trained here, `instruct` for instruction-tuned models"
    )
    history: Literal["merged", "per_turn"] = Field("merged", description="history format, see docs/history.md")
    window: int = Field(2, ge=0, description="earlier turns shown in a `per_turn` prompt")
    form: Literal["react", "search_r1"] = Field(
        "react", description="how a turn is written: <think> <action>, or Search-R1's <think> <search> <answer>"
    )
    instructions: str | None = Field(
        None, description="instructions of an `instruct` prompt; null: the environment's own"
    )
    show_admissible: bool | Literal["auto"] = Field(
        "auto", description="list the admissible commands; `auto`: in `instruct` prompts of the form react"
    )
    template_arguments: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the chat template, e.g. {enable_thinking: false}"
    )
    date: datetime.date | None = Field(
        None, description="date that the chat template prints; null: the day on which the run starts"
    )
    max_observation_tokens: int | None = Field(
        None, ge=8, description="longer observations are cut and marked; the first, which has the task, is not cut"
    )
    max_malformed_turns: int = Field(10, ge=1, description="consecutive malformed turns before the episode ends")


class WarmStartSection(Section):
    """Supervised training on expert episodes before reinforcement learning."""

    episodes: int = Field(4000, ge=1)
    noise: float = Field(
        0.1, ge=0.0, lt=1.0, description="probability that a turn is corrupted, and the expert recovers"
    )
    early_stop: float = Field(
        0.0, ge=0.0, lt=1.0, description="probability per turn that the expert stops early; such turns are imitated"
    )
    recordings: str | None = Field(
        None,
        description="a file of recorded human episodes, or a folder of *.jsonl; imitated in addition to the expert",
    )
    episodes_per_step: int = Field(32, ge=1, description="episodes per optimizer step, over all workers")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="`muon` for models trained from scratch")
    lr: float = Field(2e-3, gt=0.0)
    warmup: float = Field(0.05, ge=0.0, lt=1.0, description="fraction of the steps")
    weight_decay: float = Field(0.05, ge=0.0)


class ModulationSection(Section):
    """The rule that re-weights steps, and its constants, which are keys beside the name."""

    model_config = ConfigDict(extra="allow")

    name: str = Field("empg", description="a rule of `empg.credit.MODULATIONS`")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        return (
            {"name": given.get("name", "empg"), **asdict(read_modulation(given))} if isinstance(given, dict) else given
        )

    @property
    def options(self) -> Any:
        """The constants as the dataclass of the rule."""
        return read_modulation(self.model_dump())


class RolloutSection(Section):
    """How episodes are sampled."""

    groups: int = Field(16, ge=1, description="tasks per iteration")
    group_size: int = Field(8, ge=1, description="episodes per task")
    temperature: float = Field(1.0, gt=0.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    max_turn_tokens: int = Field(64, ge=1, description="maximum tokens written per turn")
    max_episode_tokens: int = Field(
        1536, ge=64, description="maximum tokens of the context: a `merged` episode, or one `per_turn` prompt and turn"
    )
    slots: int = Field(64, ge=1, description="episodes in the KV cache at once, per worker")


class CreditSection(Section):
    """Base advantage and modulation. `modulation: null` trains the plain base algorithm."""

    advantage: str = Field("grpo", description="an estimator of `empg.credit.ADVANTAGES`")
    weighting: Literal["episode", "step"] = "episode"
    modulation: ModulationSection | None = Field(default_factory=ModulationSection)
    drop_zero_variance: bool = Field(False, description="dynamic sampling of DAPO: zero-variance groups are dropped")
    max_resample: int = Field(0, ge=0, description="extra rollout rounds that replace dropped groups")
    overlong_penalty: float = Field(0.0, ge=0.0, description="subtracted from the reward at the token limit")
    invalid_penalty: float = Field(
        0.0, ge=0.0, description="subtracted from the process reward of a malformed turn or a rejected command"
    )
    process_reward: str | None = Field(
        None, description="`package.module:function`, from an Episode to the process reward of each of its turns"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_old_key(cls, given: Any) -> Any:
        if isinstance(given, dict) and "empg" in given:
            raise OptionError([replaced_key(given["empg"])])
        return given

    @field_validator("modulation", mode="before")
    @classmethod
    def _section(cls, given: Any) -> Any:
        return named(given)

    @field_validator("advantage")
    @classmethod
    def _known(cls, name: str) -> str:
        known = _advantages()
        if name not in known:
            meant = nearest(name, known)
            hint = f". Did you mean {meant!r}?" if meant is not None else ""
            raise UserError(f"expected one of {', '.join(known)}, got {name!r}{hint}")
        return name


class LossSection(Section):
    """The clipped surrogate and the terms added to it."""

    clip_low: float = Field(0.2, gt=0.0, lt=1.0)
    clip_high: float = Field(0.2, gt=0.0)
    dual_clip: float | None = Field(None, gt=1.0)
    aggregation: Literal["token_mean", "episode_mean", "constant"] = "episode_mean"
    kl_coef: float = Field(0.0, ge=0.0, description="weight of the KL to the initial policy of the run")
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    entropy_coef: float = 0.0


class OptimizerSection(Section):
    """AdamW and the update loop."""

    lr: float = Field(1e-4, gt=0.0)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0.0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_iterations: int = Field(0, ge=0)
    minibatches: int = Field(1, ge=1, description="optimizer steps per epoch")
    epochs: int = Field(1, ge=1, description="passes over an iteration's episodes")
    micro_batch_tokens: int = Field(16384, ge=256, description="tokens per forward/backward, padding included")
    old_logprobs: Literal["sampled", "recomputed"] = "sampled"
    autocast: bool | Literal["auto"] = Field(
        False, description="bfloat16 forward and backward, float32 weights; `auto`: if the processor supports it"
    )

    @field_validator("betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"expected two numbers in [0, 1), got {list(betas)}")
        return betas


class EvaluationSection(Section):
    """Success on fixed panels."""

    splits: list[str] | None = Field(None, description="one panel per split; null: those of the environment")
    episodes: int = Field(100, ge=1, description="tasks per panel")
    decoding: list[Literal["sampled", "greedy"]] = ["sampled"]
    temperature: float = Field(1.0, gt=0.0, description="sampling temperature")
    every: int = Field(0, ge=0, description="iterations between evaluations; 0: only before and after")

    @property
    def panels(self) -> list[str]:
        """The splits that are evaluated."""
        return self.splits or []


class Recipe(Section):
    """A whole run."""

    name: str = "run"
    seed: int = Field(0, ge=0)
    iterations: int = Field(100, ge=0)
    workers: int = Field(1, ge=1, description="data-parallel processes on this machine, one OpenMP thread each on CPU")
    checkpoint_every: int = Field(10, ge=1, description="iterations")
    keep_checkpoints: int = Field(2, ge=1)
    environment: EnvironmentSection = EnvironmentSection()
    policy: PolicySection = PolicySection()
    agent: AgentSection = AgentSection()
    warm_start: WarmStartSection | None = None
    rollout: RolloutSection = RolloutSection()
    credit: CreditSection = Field(default_factory=CreditSection)
    loss: LossSection = LossSection()
    optimizer: OptimizerSection = OptimizerSection()
    evaluation: EvaluationSection = Field(EvaluationSection(), validate_default=True)

    @field_validator("evaluation")
    @classmethod
    def _with_panels(cls, evaluation: EvaluationSection, info: ValidationInfo) -> EvaluationSection:
        environment = info.data.get("environment")  # absent if it has an error
        if evaluation.splits is not None or environment is None:
            return evaluation
        return evaluation.model_copy(update={"splits": list(environment.spec.panels)})

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.seed >= 1 << 63:
            raise UserError("seed: expected a number below 2^63")
        if self.rollout.groups % self.workers:
            raise UserError(f"rollout.groups ({self.rollout.groups}) must be a multiple of workers ({self.workers})")
        if self.rollout.group_size == 1 and _advantages()[self.credit.advantage].compares_within_group:
            raise UserError(f"credit.advantage={self.credit.advantage} compares episodes: set rollout.group_size > 1")
        if self.rollout.group_size == 1 and self.credit.drop_zero_variance:
            raise UserError("credit.drop_zero_variance would drop every group: rollout.group_size must be > 1")
        if self.credit.max_resample and not self.credit.drop_zero_variance:
            raise UserError("credit.max_resample replaces dropped groups: set credit.drop_zero_variance=true")
        length, positions = self.rollout.max_episode_tokens, self.policy.tiny.max_positions
        if self.policy.model == "tiny" and length > positions:
            raise UserError(
                f"rollout.max_episode_tokens: expected <= policy.tiny.max_positions ({positions}), got {length}"
            )
        self.environment.chosen.check_form(self.agent.form)
        return self


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe, by its path or the name of a shipped one, and apply `key.path=value` overrides (YAML values).

    Raises:
        RecipeError: the file is missing or not YAML, or a key or value is wrong.
    """
    path = find_recipe(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not a UTF-8 text file") from None
    data = read_recipe_yaml(text, str(path)) or {}
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: expected a mapping of keys to values, got a {type(data).__name__}")
    section_of_the_file = named_in(data)
    for override in overrides:
        apply_override(data, override)
        named_in(data)
    drop_options_of_the_other_rule(data, section_of_the_file, overrides)
    return parse_recipe(data, str(path))


def parse_recipe(data: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Validate a recipe given as a mapping; errors name `source`."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{source}: {line}" for line in explained(error, Recipe))) from None


def dump_recipe(recipe: Recipe) -> str:
    """Return the complete, resolved recipe as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _advantages() -> Mapping[str, AdvantageEstimator]:
    """Load the table of estimators, and torch with it, only for a recipe that needs it: `empg --help` stays fast."""
    from empg.credit.advantages import ADVANTAGES

    return ADVANTAGES
