"""The messages of the OpenEnv protocol (version 0.10): what a client may send, and what is answered."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from empg.environments.base import Info
from empg.errors import UserError

MAX_COMMAND = 10_000  # characters


class ResetData(BaseModel):
    """What `reset` takes; other fields are ignored, as OpenEnv does.

    `index` is a position in the split. Without it, `seed` draws a task, or chance does.
    """

    model_config = ConfigDict(strict=True)

    split: str | None = None
    index: int | None = None
    seed: int | None = Field(None, ge=0)
    episode_id: str | None = Field(None, max_length=255)


class StepData(BaseModel):
    """What `step` takes."""

    model_config = ConfigDict(strict=True)

    command: str = Field(max_length=MAX_COMMAND, description="one command in words")


class ObservationData(BaseModel):
    """The observation of a session. `truncated` says that the episode ended at its step limit."""

    text: str
    task: str
    task_id: str
    task_type: str
    admissible: list[str] | None = Field(description="every command that would do something, if they can be listed")
    valid: bool = Field(description="whether the last command was accepted")
    won: bool
    score: float = Field(description="graded outcome, 0 to 1")
    truncated: bool
    metadata: dict[str, float | None] = Field(
        {}, description="further measures of the outcome, null if unknown, by name"
    )


class StateData(BaseModel):
    """The state of a session; before the first reset all but `step_count` is null."""

    episode_id: str | None = None
    step_count: int = 0
    split: str | None = None
    index: int | None = None
    task_id: str | None = None


class RequestError(Exception):
    """A request that cannot be answered: a message in one line and a code of the protocol."""

    def __init__(self, message: str, code: str = "EXECUTION_ERROR") -> None:
        super().__init__(message)
        self.code = code


SCHEMA = {
    "action": StepData.model_json_schema(),
    "observation": ObservationData.model_json_schema(),
    "state": StateData.model_json_schema(),
}
"""JSON schemas of actions, observations and states."""


def observed(text: str, reward: float | None, info: Info, *, done: bool, truncated: bool) -> dict[str, Any]:
    """Return the data of an observation.

    Raises:
        UserError: the environment gave a reward or a score that is not finite, which JSON cannot say.
    """
    # Null would hide it: a client could take it for a reset, which has no reward.
    for name, value in {"reward": reward, "score": info["score"]}.items():
        if value is not None and not math.isfinite(value):
            raise UserError(f"{name}: expected a finite number from the environment, got {value}")
    observation = ObservationData(
        text=text,
        task=info["task"],
        task_id=info["task_id"],
        task_type=info["task_type"],
        admissible=info["admissible"],
        valid=info["valid"],
        won=info["won"],
        score=info["score"],
        truncated=truncated,
        # NaN is not JSON, and a number of numpy is not either.
        metadata={name: float(v) if math.isfinite(v) else None for name, v in info.get("metrics", {}).items()},
    )
    return {"observation": observation.model_dump(), "reward": reward, "done": done}


def error_message(message: str, code: str, **more: Any) -> dict[str, Any]:
    """Return an error."""
    return {"type": "error", "data": {"message": message, "code": code, **more}}


def read_message(text: str | None) -> tuple[str, Any]:
    """Return the type and the data of a message.

    Raises:
        RequestError: it is not JSON, or has no type.
    """
    try:
        message = json.loads(text or "")
    except (ValueError, RecursionError):
        raise RequestError("the message is not JSON", "INVALID_JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise RequestError("expected an object with a type", "VALIDATION_ERROR")
    return message["type"], message.get("data", {})


def integer(body: Any, name: str) -> int | None:
    """Return a whole number of a request's body, or None if it is missing.

    Raises:
        RequestError: it is something else.
    """
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise RequestError(f"{name}: expected a whole number")
    return value
