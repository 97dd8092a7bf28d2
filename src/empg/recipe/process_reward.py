"""`credit.process_reward` of a recipe: what rewards single steps. A name, or a section of the name and its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, StrictInt

from empg.environments.options import FilePath, OptionSection, read_options
from empg.errors import UserError
from empg.validation import did_you_mean
from empg.web.options import Judging

KEY = "credit.process_reward"
Weight = Annotated[float, Field(ge=0.0)]


class FunctionReward(OptionSection):
    """A function of your own."""

    name: str = Field(description="`package.module:function`, from an Episode to one number per turn")
    weight: Weight = Field(1.0, description="factor of the function's numbers")


class ProgressReward(OptionSection):
    """How much further a turn brought the task, by the environment's own measure."""

    name: str = Field(description="`progress`")
    weight: Weight = Field(0.1, description="factor of gamma * progress after the turn - progress before it")
    gamma: float = Field(1.0, ge=0.0, le=1.0, description="discount factor")


class JudgeReward(Judging, OptionSection):
    """A model behind an OpenAI-compatible endpoint that rates each turn of an episode."""

    name: str = Field(description="`judge`")
    weight: Weight = Field(0.1, description="factor of the ratings, which are -1, 0 or 1")
    max_tokens: StrictInt = Field(1_024, ge=1, description="tokens per reply; more for a model that thinks first")
    parallel: StrictInt = Field(8, ge=1, le=256, description="requests at once, per worker")
    cache: FilePath | None = Field(None, description="folder that keeps ratings; null: in the cache folder of empg")


StepReward = FunctionReward | ProgressReward | JudgeReward
_BUILT_IN: dict[str, type[StepReward]] = {"progress": ProgressReward, "judge": JudgeReward}


def read_process_reward(given: Any) -> StepReward:
    """Return the options that a value of the key stands for: a text is a name.

    Raises:
        UserError: the name or an option is unknown, or an option has a wrong value.
    """
    section: Mapping[Any, Any] = {"name": given} if isinstance(given, str) else given if isinstance(given, dict) else {}
    name = section.get("name")
    if not isinstance(name, str) or not (name in _BUILT_IN or ":" in name):
        wanted = f"expected {', '.join(_BUILT_IN)} or package.module:function, or a section with one as its name"
        shown = name if section.keys() == {"name"} else given  # a plain name has become a section
        raise UserError(f"{wanted}, got {shown!r:.80}{did_you_mean(name, _BUILT_IN)}")
    model: type[StepReward] = _BUILT_IN.get(name, FunctionReward)
    return read_options(model, {str(key): section[key] for key in section}, KEY)
