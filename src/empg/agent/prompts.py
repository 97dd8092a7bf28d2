"""The text of prompts: observations, instructions, commands and history."""

from __future__ import annotations

import re
from collections.abc import Sequence

from empg.environments.base import Info, PromptSpec

_FORM = "Think first, inside <think> </think>. Then write exactly one command inside <action> </action>, like this: "
_REMINDER = "Think inside <think> </think>, then write exactly one command inside <action> </action>."
_MALFORMED = "Your last reply had no command inside <action> </action>, so nothing was done. "
_SEARCH_R1 = (
    "Answer the question. Whenever you learn something, reason about it inside <think> </think>. If you lack "
    "knowledge, ask a search engine with <search> query </search>; what it finds stands between <information> and "
    "</information>. Search as often as you need. Once you know, write only the answer, without an explanation, inside "
    "<answer> </answer>, like this: <answer> Beijing </answer>."
)
_SEARCH_R1_HINT = (
    "My previous action is invalid. To search, I put the query between <search> and </search>. To answer, I put the "
    "answer between <answer> and </answer>. I try again."
)
# Anything that a model may read as a tag of the block, including tags with attributes or with invisible characters.
# Matching takes linear time, since no character is skipped from two start positions.
_INFORMATION_TAG = re.compile("<(?=" + "".join(rf"[^\w<]*{letter}" for letter in "information") + ")", re.IGNORECASE)


def observation_text(prompt_spec: PromptSpec, observation: str, info: Info, *, first: bool) -> str:
    """Return the observation as the agent reads it: without the banner, on one line, with the task repeated.

    The task is repeated at every turn, because a small model copies well over short distances only. This costs about
    ten tokens.
    """
    text = " ".join(observation.replace(prompt_spec.banner, "").split()) if prompt_spec.banner else observation.strip()
    task = info["task"]
    if prompt_spec.told_by_observation or first or not task:
        return text
    return f"{text} Task: {task}" if task.endswith("?") else f"{text} Task: {task}."


def harmless(documents: str) -> str:
    """Escape documents for `information_text`, so that they can neither close the block nor open another."""
    return _INFORMATION_TAG.sub("< ", documents.strip())


def information_text(found: str, info: Info) -> str:
    """Return `harmless` documents as Search-R1's information block, or a hint after a turn that is not valid."""
    return f"<information>{found}</information>" if info["valid"] else _SEARCH_R1_HINT


def instructions(prompt_spec: PromptSpec, form: str) -> str:
    """Return the instructions of an `instruct` prompt, for one of `parsing.FORMS`."""
    return _SEARCH_R1 if form == "search_r1" else f"{prompt_spec.role}\n{_FORM}{prompt_spec.example}"


def reminder(*, after_malformed: bool) -> str:
    """The end of every prompt for a model that was not trained on the format, with a hint after a malformed turn."""
    return "\n" + (_MALFORMED if after_malformed else "") + _REMINDER


def admissible_text(commands: Sequence[str], mark: str = "") -> str:
    """Return the list of admissible commands, one per line, and a line with the mark; empty without commands."""
    return "\n".join(["\nCommands you can give now:", *commands, *([mark] if mark else [])]) if commands else ""


def grammar_text(prompt_spec: PromptSpec) -> str:
    """Return the forms of the commands, one per line; empty if the environment does not give them."""
    return "" if not prompt_spec.commands else "\nForms of commands:\n" + "\n".join(prompt_spec.commands)


def history_text(turns: Sequence[tuple[str, str]], steps_before: int, *, marked: bool = False) -> str:
    """Return the earlier (observation, action) pairs of a `per_turn` prompt; `steps_before` are outside the window.

    `marked` marks what follows as the current observation, for a model that was not trained on the format.
    """
    if not turns:
        return ""
    lines = [f"Steps taken so far: {steps_before + len(turns)}. The last {len(turns)}:"]
    for number, (observation, action) in enumerate(turns, start=steps_before + 1):
        lines.append(f"[{number}] saw: {observation} did: {action or '(nothing readable)'}")
    return "\n".join(lines) + ("\nNow: " if marked else "\n")
