"""The options of an environment, checked in one place: by a recipe, by `empg play` and by the constructor."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import AfterValidator, BeforeValidator, StrictStr, ValidationError

from empg.errors import UserError
from empg.validation import Checked, OptionError, explained

MOST_STEPS = 1_000_000  # of an episode, in every environment that has no lower limit


class OptionSection(Checked):
    """A group of options: immutable, hashable where its values are, no unknown keys."""


class EnvironmentOptions(OptionSection):
    """The keyword arguments of an environment's constructor, beside `split` and `max_steps`.

    A subclass has one field per argument, each with a default and a description that gives the meaning and the unit.
    Values must survive a round trip through JSON, because the resolved recipe stores them.
    """

    def check_form(self, form: str) -> None:
        """Make sure that an environment with these options takes turns of that form (`agent.form` in a recipe).

        Raises:
            UserError: it does not.
        """
        if form != "react":
            raise UserError(
                f"agent.form={form} has no turns but search and answer: it needs an environment that takes them, such "
                "as environment.id=deepsearch with environment.options.observation=passages"
            )

    def resolved(self) -> EnvironmentOptions:
        """Return these options with the values that depend on the machine replaced by those used on this one."""
        return self

    @property
    def slow_steps(self) -> str:
        """Why a step takes long enough for `environment.workers` to pay off; empty where it does not."""
        return ""


Options = TypeVar("Options", bound=OptionSection)


def read_options(model: type[Options], given: Mapping[str, Any], within: str = "") -> Options:
    """Check options against their model, and fill in the defaults.

    Args:
        model: the model.
        given: the options.
        within: the path of the key that holds them in a recipe, for the messages; empty elsewhere.

    Raises:
        OptionError: an option is unknown, or has a wrong value.
    """
    beside = () if within or not issubclass(model, EnvironmentOptions) else ("split", "max_steps")
    if own := [name for name in beside if name in given and name not in model.model_fields]:
        reason = "is an argument of its own, not an option. Give it beside the options"
        raise OptionError([f"{name}: {reason}" for name in own])
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise OptionError(explained(error, model, within, beside)) from None


def check_max_steps(max_steps: Any, highest: int = MOST_STEPS) -> int:
    """Return the limit of steps that a constructor was given.

    Raises:
        OptionError: it is not a whole number from 1 to `highest`.
    """
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or not 1 <= max_steps <= highest:
        raise OptionError([f"max_steps: expected a whole number from 1 to {highest:,}, got {max_steps!r:.80}"])
    return max_steps


def check_task(task: Any, tasks: int, split: str) -> int:
    """Return the number of a task that a caller gave to `reset` or `task_id`; numpy's integers are accepted.

    Args:
        task: what the caller gave.
        tasks: the number of tasks in the split.
        split: the name of the split.

    Raises:
        UserError: it is not a whole number.
        IndexError: the split has no such task.
    """
    # True == 1 and 2.0 == 2, so as keys of a cache they would stand for the tasks 1 and 2. Old versions of numpy take
    # its booleans for whole numbers.
    try:
        number = None if isinstance(task, bool | np.bool_) else operator.index(task)
    except TypeError:
        number = None
    if number is None:
        raise UserError(f"task: expected a whole number from 0 to {tasks - 1}, got {task!r:.80}")
    if not 0 <= number < tasks:
        raise IndexError(f"task {number}: {split} has tasks 0 to {tasks - 1}")
    return number


def concerns_split(error: BaseException) -> bool:
    """Return whether a constructor refused its `split`: then the message begins with the name of the argument."""
    return re.match(r"split\b", str(error)) is not None


def in_home(path: str) -> str:
    """Return a path with the home folder in place of a `~` at its beginning; any other text is unchanged."""
    return os.path.expanduser(path) if path.startswith("~") else path


def named_path(path: str) -> str:
    """Return a path with the home folder in place of a `~` at its beginning.

    Raises:
        UserError: it is empty, which would mean the current folder.
    """
    if path == "":
        raise UserError("expected a path, got an empty text")
    return in_home(path)


def _given_path(value: Any) -> Any:
    return named_path(os.fspath(value)) if isinstance(value, str | Path) else value


def _filled(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise UserError("expected at least one entry, got an empty list")
    return value


Item = TypeVar("Item")
HomePath = Annotated[StrictStr, AfterValidator(in_home)]
"""A path or another text; a `~` at its beginning is the home folder."""
PathText = Annotated[StrictStr, AfterValidator(named_path)]
"""The text of a path; `~` is the home folder."""
FilePath = Annotated[Path, BeforeValidator(_given_path)]
"""A file or folder, given as a text or a path; `~` is the home folder."""
Several = Annotated[tuple[Item, ...], AfterValidator(_filled)]
"""A list that is not empty, kept as a tuple."""
