"""ALFWorld in the registry: its options and how it is introduced to an agent."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from empg.environments.alfworld.world import TaskType
from empg.environments.base import PromptSpec
from empg.environments.options import EnvironmentOptions, FilePath, Several
from empg.environments.spec import EnvironmentSpec

RoomSize = Literal["small", "full"]
Backend = Literal["python", "textworld"]


class ALFWorldOptions(EnvironmentOptions):
    """Options of ALFWorld."""

    games: FilePath | None = Field(
        None, description="a folder of official games (`json_2.1.1` or its parent); null generates games"
    )
    rooms: RoomSize = Field("full", description="size of generated rooms")
    task_types: Several[TaskType] | None = Field(None, description="the kinds of tasks to play; null plays all six")
    train_task_types: Several[TaskType] | None = Field(
        None,
        description="the kinds of tasks of the split `train`, if they differ from those of the evaluation; null: those "
        "of `task_types`",
    )
    backend: Backend = Field(
        "python", description="`python` is this package's engine; `textworld` the real one (`empg[textworld]`)"
    )

    @property
    def slow_steps(self) -> str:
        """The real engine takes milliseconds per step."""
        return "the textworld backend steps one game after the other" if self.backend == "textworld" else ""


SPEC = EnvironmentSpec(
    id="alfworld",
    entry_point="empg.environments.alfworld.env:ALFWorldEnv",
    options=ALFWorldOptions,
    prompt=PromptSpec(
        role="You control a household robot by text commands. "
        "Finish the task you are given in as few steps as you can.",
        example="<think>I need the mug; it may be in the cabinet.</think><action>go to cabinet 1</action>",
        commands=(
            "go to [place]",
            "open [place]",
            "close [place]",
            "take [object] from [place]",
            "move [object] to [place]",
            "clean [object] with [place]",
            "heat [object] with [place]",
            "cool [object] with [place]",
            "use [lamp]",
            "examine [place or object]",
            "inventory",
            "look",
        ),
        banner="-= Welcome to TextWorld, ALFRED! =-",
    ),
    panels=("valid_seen", "valid_unseen"),
    gymnasium_id="empg/ALFWorld-v1",
)
