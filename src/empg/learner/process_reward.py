"""Process rewards that a recipe names: progress of the task, a judge, or a function of your own."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import reprlib
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from empg.credit.checks import LARGEST
from empg.errors import UserError, message_of
from empg.recipe.process_reward import JudgeReward, ProgressReward, StepReward
from empg.rollout.types import Episode

if TYPE_CHECKING:
    from empg.learner.step_judge import StepJudge

StepRewards = Callable[[Episode], Sequence[float]]
"""From an episode to one finite number per turn, in order. Called once for each episode that is trained on."""


@functools.cache
def load_step_rewards(name: str) -> StepRewards:
    """Load the function that `credit.process_reward` names, `package.module:function`.

    Raises:
        UserError: there is no such function of one argument; the message says why in one line.
    """
    module, separator, attribute = name.partition(":")
    key = f"credit.process_reward={name}"
    if not separator or not module or not attribute.isidentifier():
        raise UserError(f"{key}: expected the form package.module:function")
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise UserError(f"{key}: {error}; install it, or add its folder to PYTHONPATH") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"{key}: {module} cannot be imported: {_last_line(error)}") from error
    if not callable(function):
        raise UserError(f"{key}: {module} has no function {attribute}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # functions written in C may have none
        return function  # type: ignore[no-any-return]
    try:
        signature.bind(None)
    except TypeError as error:
        raise UserError(f"{key}: expected a function of one argument, got {attribute}{signature} ({error})") from None
    return function  # type: ignore[no-any-return]


def process_rewards(episodes: Sequence[Episode], chosen: StepReward | None) -> list[list[float]]:
    """Return the process reward of each turn of each episode, with its weight; zeros if nothing is chosen.

    Raises:
        UserError: the function is wrong (`step_rewards`), or the judge is unavailable.
    """
    if chosen is None:
        return [[0.0] * len(episode.turns) for episode in episodes]
    if isinstance(chosen, ProgressReward):
        given = [progress_rewards(episode, chosen.gamma) for episode in episodes]
    elif isinstance(chosen, JudgeReward):
        given = _judge(chosen).rate_all(episodes)
    else:
        given = [step_rewards(episode, chosen.name) for episode in episodes]
    return [[chosen.weight * reward for reward in rewards] for rewards in given]


def check_process_reward(chosen: StepReward) -> None:
    """Load what gives the rewards, without asking it.

    Raises:
        UserError: as `load_step_rewards`; or the URL or the key of the judge is wrong.
        ModuleNotFoundError: a package that the judge needs is not installed.
    """
    if isinstance(chosen, JudgeReward):
        _judge(chosen)
    elif not isinstance(chosen, ProgressReward):
        load_step_rewards(chosen.name)


def progress_rewards(episode: Episode, gamma: float) -> list[float]:
    """Return gamma * progress after the turn - progress before it, for each turn.

    With gamma = 1 they add up to the progress of the whole episode, so no detour earns anything.
    """
    known = [episode.progress, *(turn.progress for turn in episode.turns)]
    return [gamma * after - before for before, after in itertools.pairwise(known)]


@functools.cache
def _judge(options: JudgeReward) -> StepJudge:
    from empg.learner.step_judge import StepJudge  # needs httpx

    return StepJudge(options)


def step_rewards(episode: Episode, name: str) -> list[float]:
    """Return the reward that the function named `name` gives each turn of an episode.

    Raises:
        UserError: as `load_step_rewards`; or the function raises, or does not return one finite number per turn, at
            most `checks.LARGEST` in size.
    """
    function = load_step_rewards(name)
    key = f"credit.process_reward={name}: task {episode.task_id}"
    try:
        given = function(episode)
        if inspect.isgenerator(given):
            given = list(given)  # only this runs the function
    except (Exception, SystemExit) as error:
        raise UserError(f"{key}: {_last_line(error)}") from error
    try:
        # A tensor first becomes a list: the conversion of an element that requires grad is a warning of torch.
        listed = given.tolist() if hasattr(given, "tolist") else list(given)
        text = any(isinstance(value, (str, bytes)) for value in (given, *listed))
        rewards = [] if text else [float(reward) for reward in listed]
    except Exception:  # of any class, for an object of the user's own
        rewards = []
    if len(rewards) != len(episode.turns) or not all(abs(reward) <= LARGEST for reward in rewards):
        wanted = f"expected {len(episode.turns)} finite numbers of at most {LARGEST:g}, one per turn"
        raise UserError(f"{key}: {wanted}, got {reprlib.repr(given)}")
    return rewards


def _last_line(error: BaseException) -> str:
    """Return what a traceback of a user's function would end with, and the place that it would name last."""
    raised = traceback.TracebackException.from_exception(error)
    file, line = raised.stack[-1].filename, raised.stack[-1].lineno
    if isinstance(error, SyntaxError):
        file, line = error.filename or file, error.lineno
    said = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
    return f"{message_of(said, 500)} ({file}, line {line})"
