"""The sections `credit` and `loss` of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_serializer, model_validator

from empg.errors import UserError
from empg.recipe.modulation import modulations, named, read_modulation
from empg.recipe.process_reward import StepReward, read_process_reward
from empg.validation import Checked, did_you_mean, read_settings

if TYPE_CHECKING:
    from empg.credit import AdvantageEstimator


class ModulationSection(Checked):
    """The rule that re-weights steps, and its constants, which are keys beside the name."""

    model_config = ConfigDict(extra="allow")

    name: str = Field("empg", description="a rule of `empg.credit.MODULATIONS`")

    @model_validator(mode="before")
    @classmethod
    def _checked(cls, given: Any) -> Any:
        if isinstance(given, dict) and given:  # the defaults need no check, so a default recipe does not load torch
            return {"name": given.get("name", "empg"), **asdict(read_modulation(given))}
        return given

    @property
    def options(self) -> Any:
        """The constants as the dataclass of the rule."""
        return read_modulation({"name": self.name, **(self.__pydantic_extra__ or {})})

    @model_serializer
    def _complete(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self.options)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModulationSection) and self.model_dump() == other.model_dump()


class CriticSection(Checked):
    """The critic of the estimators that need one: a linear head on the hidden states of the policy."""

    lr: float = Field(1e-3, gt=0.0)
    epochs: int = Field(10, ge=1, le=10_000, description="optimizer steps per iteration, each over all its steps")
    clip: float = Field(
        0.2,
        gt=0.0,
        description="how far a value moves towards its target in one iteration before its loss has no gradient",
    )


class CreditSection(Checked):
    """Base advantage and modulation. `modulation: null` trains the plain base algorithm."""

    advantage: str | dict[str, Any] = Field(
        "grpo",
        description="an estimator of `empg.credit.ADVANTAGES`: its name, or a section of `name` and options",
    )
    weighting: Literal["episode", "step"] = "episode"
    modulation: ModulationSection | None = Field(default_factory=ModulationSection)
    critic: CriticSection = CriticSection()
    drop_zero_variance: bool = Field(False, description="dynamic sampling of DAPO: zero-variance groups are dropped")
    max_resample: int = Field(0, ge=0, le=1000, description="extra rollout rounds that replace dropped groups")
    overlong_penalty: float = Field(0.0, ge=0.0, description="subtracted from the reward at the token limit")
    overlong_ramp: float = Field(
        0.0, ge=0.0, le=1.0, description="last part of the token limit in which that penalty rises from 0"
    )
    invalid_penalty: float = Field(0.0, ge=0.0, description="subtracted from the process reward of an invalid turn")
    process_reward: str | dict[str, Any] | None = Field(
        None,
        description="`progress`, `judge` or `package.module:function`: a name, or a section of `name` and options",
    )

    @field_validator("modulation", mode="before")
    @classmethod
    def _section(cls, given: Any) -> Any:
        return named(given)

    @field_validator("process_reward", mode="before")
    @classmethod
    def _with_options(cls, given: Any) -> dict[str, Any] | None:
        if given is None:
            return None
        resolved = read_process_reward(given)
        return {"name": resolved.name, **resolved.model_dump(mode="json")}

    @property
    def step_reward(self) -> StepReward | None:
        """What rewards single steps, with its options."""
        return None if self.process_reward is None else read_process_reward(self.process_reward)

    @field_validator("advantage", mode="before")
    @classmethod
    def _complete(cls, given: Any) -> str | dict[str, Any]:
        options = {"name": given} if isinstance(given, str) else dict(given) if isinstance(given, dict) else {}
        name, known = options.pop("name", None), _advantages()
        if not isinstance(name, str):
            raise UserError(f"expected a name, or a section such as {{name: gigpo, gamma: 0.95}}, got {given!r:.80}")
        if name not in known:
            raise UserError(f"expected one of {', '.join(known)}, got {name!r:.80}{did_you_mean(name, known)}")
        default = known[name].options
        if default is None and options:
            raise UserError(f"{name} has no options, got {next(iter(options))!r:.80}")
        if default is None:
            return name
        return {"name": name, **asdict(read_settings(type(default), options, "credit.advantage"))}

    @property
    def estimator(self) -> AdvantageEstimator:
        """The estimator of the base advantage, with its options."""
        chosen = {"name": self.advantage} if isinstance(self.advantage, str) else dict(self.advantage)
        return _advantages()[chosen.pop("name")].configured(**chosen)

    @property
    def within_group_key(self) -> str:
        """The key and value of a rule that needs at least two episodes of a group; empty if none does."""
        if self.estimator.compares_within_group:
            return f"credit.advantage={self.estimator.name}"
        if self.modulation is not None and modulations()[self.modulation.name].compares_within_group:
            return f"credit.modulation={self.modulation.name}"
        return ""


class LossSection(Checked):
    """The clipped surrogate and the terms added to it."""

    ratio: Literal["token", "step", "episode"] = Field(
        "token", description="what has one probability ratio; `episode` is the sequence ratio of GSPO"
    )
    clip_low: float = Field(0.2, gt=0.0, lt=1.0)
    clip_high: float = Field(0.2, gt=0.0)
    dual_clip: float | None = Field(None, gt=1.0)
    aggregation: Literal["token_mean", "episode_mean", "constant"] = "episode_mean"
    kl_coef: float = Field(0.0, ge=0.0, description="weight of the KL to the initial policy of the run")
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    entropy_coef: float = 0.0


def _advantages() -> Mapping[str, AdvantageEstimator]:
    """Load the table of estimators, and torch with it, only for a recipe that needs it: `empg --help` stays fast."""
    from empg.credit.advantages import ADVANTAGES

    return ADVANTAGES
