"""The sections of a recipe, except `credit` and `loss`."""

from __future__ import annotations

import datetime
from contextlib import closing
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from empg.environments import registry
from empg.environments.base import TextEnvironment
from empg.environments.options import EnvironmentOptions, HomePath, read_options
from empg.environments.spec import EnvironmentSpec
from empg.errors import UserError
from empg.validation import Checked, Distinct


class EnvironmentSection(Checked):
    """The environment."""

    id: str = Field("alfworld", description="a registered environment, or a gymnasium id of text")
    options: dict[str, Any] = Field(
        default_factory=dict,
        validate_default=True,
        description="passed to the constructor of the environment; the resolved recipe has all of them",
    )
    train_split: str = Field("train", min_length=1)
    max_steps: int | None = Field(None, ge=1, description="turns per episode; null: the environment's own limit")
    workers: int = Field(0, ge=0, le=1024, description="processes that step slow environments; 0 steps them in place")

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

    def with_options(self, options: dict[str, Any], within: str) -> EnvironmentSection:
        """Return this section with some other options, which an error names as keys of `within`.

        Raises:
            OptionError: an option is unknown or wrong.
        """
        if not options:
            return self
        read = read_options(self.spec.options, {**self.options, **options}, within=within)
        return self.model_copy(update={"options": read.model_dump(mode="json")})

    def maker(self, split: str) -> registry.Maker:
        """Return a factory for environments of a split, which can be sent to another process."""
        return registry.Maker(self.spec, split, self.options, self.max_steps)

    def make(self, split: str) -> TextEnvironment:
        """Make an environment of a split.

        Raises:
            UserError: it cannot be made on this machine, or the split does not exist.
        """
        return self.maker(split)()

    def num_tasks(self, split: str) -> int:
        """Return the number of tasks of a split; raises as `make`."""
        with closing(self.make(split)) as environment:
            return environment.num_tasks


class TinyModel(Checked):
    """The shape of the tiny policy (Llama architecture), used when `policy.model` is `tiny`."""

    hidden_size: int = Field(128, ge=16, le=65536)
    layers: int = Field(4, ge=1, le=1000)
    heads: int = Field(2, ge=1, le=1024)
    kv_heads: int = Field(1, ge=1, le=1024)
    head_dim: int | None = Field(None, ge=2, le=65536, description="None: hidden_size / heads")
    intermediate_size: int = Field(384, ge=16, le=262144)
    vocab_size: int = Field(1024, ge=300, le=262144)
    phrases: int = Field(64, ge=0, le=200, description="maximum number of frequent phrases that are one token each")
    max_positions: int = Field(2048, ge=128, le=262144, description="tokens")
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


class LoraSection(Checked):
    """Low-rank adapters instead of full weights (needs `peft`)."""

    r: int = Field(16, ge=1, le=65536)
    alpha: int = Field(32, ge=1, le=65536)
    target_modules: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = "all-linear"


class PolicySection(Checked):
    """The language model."""

    model: HomePath = Field("tiny", min_length=1, description="`tiny`, a folder, or a Hugging Face name")
    tiny: TinyModel = TinyModel()
    lora: LoraSection | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = Field("auto", min_length=1, description="`auto`, `cpu`, `cuda`, `cuda:1`, ...")


class AgentSection(Checked):
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
        None, description="instructions of an `instruct` prompt; null: the environment's own, empty: none"
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

    @field_validator("date", mode="before")
    @classmethod
    def _written_out(cls, date: Any) -> Any:
        if isinstance(date, int | float):  # to pydantic, seconds since 1970
            raise UserError("expected a date such as 2026-01-31, got a number")
        return date


class WarmStartSection(Checked):
    """Supervised training on expert episodes before reinforcement learning."""

    episodes: int = Field(4000, ge=1)
    noise: float = Field(
        0.1, ge=0.0, lt=1.0, description="probability that a turn is corrupted, and the expert recovers"
    )
    early_stop: float = Field(
        0.0, ge=0.0, lt=1.0, description="probability per turn that the expert stops early; such turns are imitated"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of the environment that differ from `environment.options` here"
    )
    recordings: HomePath | None = Field(
        None,
        min_length=1,
        description="a file of recorded human episodes, or a folder of *.jsonl; imitated in addition to the expert",
    )
    episodes_per_step: int = Field(32, ge=1, description="episodes per optimizer step, over all workers")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="`muon` for models trained from scratch")
    lr: float = Field(2e-3, gt=0.0)
    warmup: float = Field(0.05, ge=0.0, lt=1.0, description="fraction of the steps")
    weight_decay: float = Field(0.05, ge=0.0)


class RolloutSection(Checked):
    """How episodes are sampled."""

    groups: int = Field(16, ge=1, le=1_000_000, description="tasks per iteration")
    group_size: int = Field(8, ge=1, le=100_000, description="episodes per task")
    temperature: float = Field(1.0, ge=1e-3)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    max_turn_tokens: int = Field(64, ge=1, description="maximum tokens written per turn")
    max_episode_tokens: int = Field(
        1536, ge=64, description="maximum tokens of the context: a `merged` episode, or one `per_turn` prompt and turn"
    )
    slots: int = Field(64, ge=1, description="episodes in the KV cache at once, per worker")


class OptimizerSection(Checked):
    """AdamW and the update loop."""

    lr: float = Field(1e-4, gt=0.0)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0.0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_iterations: int = Field(0, ge=0)
    minibatches: int = Field(1, ge=1, le=10_000, description="optimizer steps per epoch")
    epochs: int = Field(1, ge=1, le=10_000, description="passes over an iteration's episodes")
    micro_batch_tokens: int = Field(16384, ge=256, description="tokens per forward/backward, padding included")
    old_logprobs: Literal["sampled", "recomputed"] = "sampled"
    autocast: bool | Literal["auto"] = Field(
        False, description="bfloat16 passes, float32 weights; `auto`: if the processor supports it"
    )
    gradient_checkpointing: bool = Field(False, description="compute activations again instead of keeping them")
    compile: bool = Field(False, description="torch.compile of layers and scores: faster updates on a GPU")

    @field_validator("betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"expected two numbers in [0, 1), got {list(betas)}")
        return betas


class EvaluationSection(Checked):
    """Success on fixed panels."""

    splits: Distinct[str] | None = Field(None, description="a panel each; null: those of the environment; []: none")
    episodes: int = Field(100, ge=1, description="tasks per panel")
    decoding: Distinct[Literal["sampled", "greedy"]] = Field(["sampled"], min_length=1)
    temperature: float = Field(1.0, ge=1e-3, description="sampling temperature")
    every: int = Field(0, ge=0, description="iterations between evaluations; 0: only before and after")

    @property
    def panels(self) -> list[str]:
        """The splits that are evaluated."""
        return self.splits or []
