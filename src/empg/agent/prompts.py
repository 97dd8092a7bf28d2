"""What the model is told, world by world: the words around an observation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from empg.environments.base import Info

_FORM = "Think first, inside <think> </think>. Then write exactly one command inside <action> </action>, like this: "


@dataclass(frozen=True, slots=True)
class World:
    """An environment as its agent sees it.

    `role` opens an instruct prompt, and `example` is a turn in it. `banner` is cut off the first observation.
    `told_by_observation` says that every observation already contains the task.
    """

    role: str
    example: str
    banner: str = ""
    told_by_observation: bool = False


WORLDS = {
    "alfworld": World(
        role="You control a household robot by text commands. "
        "Finish the task you are given in as few steps as you can.",
        example="<think>I need the mug; it may be in the cabinet.</think><action>go to cabinet 1</action>",
        banner="-= Welcome to TextWorld, ALFRED! =-",
    ),
    "webshop": World(
        role="You shop in an online store by text commands. Search, compare, choose the options that are asked for, "
        "and buy what fits best, in as few steps as you can.",
        example="<think>I need red lip gloss.</think><action>search[red lip gloss]</action>",
        told_by_observation=True,
    ),
}


def observation_text(world: World, observation: str, info: Info, *, first: bool) -> str:
    """The observation as the agent reads it: without the banner, on one line, with the task repeated.

    The task is repeated at every turn because a small model copies well over short distances and forgets over long
    ones; it costs about ten tokens.
    """
    text = " ".join(observation.replace(world.banner, "").split()) if world.banner else observation.strip()
    if world.told_by_observation or first:
        return text
    return f"{text} Task: {info['task']}."


def instructions(world: World) -> str:
    """The standing instructions of an instruct prompt."""
    return f"{world.role}\n{_FORM}{world.example}"


def admissible_text(info: Info) -> str:
    """The admissible commands, one a line; empty where the world cannot list them."""
    commands = info.get("admissible")
    return "" if not commands else "\nCommands you can give now:\n" + "\n".join(c for c in commands if c != "help")


def history_text(turns: Sequence[tuple[str, str]], steps_before: int) -> str:
    """Earlier (observation, action) pairs of a `per_turn` prompt; `steps_before` were left out of the window."""
    if not turns:
        return ""
    lines = [f"Steps taken so far: {steps_before + len(turns)}. The last {len(turns)}:"]
    for number, (observation, action) in enumerate(turns, start=steps_before + 1):
        lines.append(f"[{number}] saw: {observation} did: {action or '(nothing readable)'}")
    return "\n".join(lines) + "\n"
