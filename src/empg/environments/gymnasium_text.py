"""Any gymnasium environment of text as a `TextEnvironment`: its tasks are seeds, and it has no expert."""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Text
from pydantic import ConfigDict

from empg.environments.base import Expert, Info, PromptSpec, TextEnvironment
from empg.environments.options import EnvironmentOptions, check_max_steps, check_task
from empg.environments.spec import EnvironmentSpec
from empg.errors import UserError, described, failures_as

SPLITS = {"train": range(100_000), "valid": range(1_000_000, 1_001_000), "test": range(2_000_000, 2_001_000)}
"""The seeds of each split; no seed is in two of them."""
MAX_STEPS = 50  # where neither the recipe nor the registration of the id gives a limit
_WON = ("won", "success", "is_success")  # keys of an info that say whether the task is done

PROMPT = PromptSpec(
    role="You act in an environment by text commands. Finish your task in as few steps as you can.",
    example="<think>I look around first.</think><action>look</action>",
)


class GymnasiumOptions(EnvironmentOptions):
    """Options that go to `gymnasium.make` unchanged; the environment's constructor checks them."""

    model_config = ConfigDict(extra="allow")


def gymnasium_spec(id_: str) -> EnvironmentSpec | None:
    """Return the spec of a gymnasium id, or None if gymnasium does not have it.

    Raises:
        UserError: the id names a module that cannot be imported.
    """
    if _registration(id_) is None:
        return None
    return EnvironmentSpec(
        id=id_, entry_point=None, options=GymnasiumOptions, prompt=PROMPT, panels=("valid",), gymnasium_id=id_
    )


def open_gymnasium(id_: str, split: str, options: Mapping[str, Any], max_steps: int | None) -> TextEnvironment:
    """Make the environment of a gymnasium id: a `TextEnvironment`, or any other in a `GymnasiumText`.

    Args:
        id_: the id.
        split: passed on to a constructor that takes it; else one of `SPLITS`.
        options: passed on to the constructor.
        max_steps: turns per episode; None takes the limit of the environment, of its registration, or `MAX_STEPS`.

    Raises:
        UserError: the environment is not registered in this process, cannot be made, takes no such option, has no
            such split, or is not text.
    """
    registered = _registration(id_)
    if registered is None:  # in a worker process: only the parent process has registered it
        raise UserError(f"environment {id_!r} is not registered in this process: write the id as package.module:Id-v0")
    with _explained(id_):
        maker = _maker(id_, registered.entry_point)
    native = isinstance(maker, type) and issubclass(maker, TextEnvironment)
    own = {"split": split} | ({} if max_steps is None else {"max_steps": max_steps})
    arguments = {**(own if native else _taken(maker, own)), **options}
    _require_signature(id_, maker, {**registered.kwargs, **arguments})
    limit = registered.max_episode_steps if max_steps is None else max_steps
    limit = check_max_steps(MAX_STEPS if limit is None else limit)

    def make() -> gymnasium.Env[Any, Any]:
        with _explained(id_):
            # Without a limit here, gymnasium would end the episodes at the limit of the registration.
            return gymnasium.make(id_, max_episode_steps=limit, disable_env_checker=True, **arguments)

    made = make()
    if isinstance(made.unwrapped, TextEnvironment):
        return made.unwrapped
    if split not in SPLITS:
        raise UserError(f"split: expected {', '.join(SPLITS)}, got {split!r:.80}; the tasks of {id_} are seeds")
    with _explained(id_):
        _require_text(id_, made)
    return GymnasiumText(made, make, id_, split, limit, options)


class GymnasiumText(TextEnvironment):
    """A gymnasium environment of text. Task i of a split is the i-th of its seeds.

    Won is what the info says under `won`, `success` or `is_success`; else an episode that terminated with a positive
    return. The score is the return, clipped to [0, 1]. Every command counts as understood.

    Args:
        environment: it must play the same episode for the same seed.
        make: makes another one like it, for the ids of tasks.
        id: the name in task ids and messages.
        split: one of `SPLITS`.
        max_steps: turns until the episode is truncated.
        options: what the environment was made with; part of the task ids.
    """

    def __init__(
        self,
        environment: gymnasium.Env[Any, Any],
        make: Callable[[], gymnasium.Env[Any, Any]],
        id: str,
        split: str,
        max_steps: int,
        options: Mapping[str, Any],
    ) -> None:
        self.split, self.max_steps, self._id = split, check_max_steps(max_steps), id
        self.environment, self._make = environment, make
        self.observation_space = getattr(environment, "observation_space", Text(1_000_000))
        self.action_space = getattr(environment, "action_space", Text(1_000))
        self._options = json.dumps(dict(options), sort_keys=True, default=str)
        self._probe: gymnasium.Env[Any, Any] | None = None  # for task ids, so that no episode is disturbed
        self._return, self._steps = 0.0, 0
        self._task, self._task_id = "", ""

    @property
    def num_tasks(self) -> int:
        """The number of seeds in this split."""
        return len(SPLITS[self.split])

    def task_id(self, index: int) -> str:
        """Return the seed, and a fingerprint of the options and of how the episode begins."""
        if self._probe is None:
            self._probe = self._make()
        seed = self._seed(index)
        observation, info = self._probe.reset(seed=seed)
        return self._identify(seed, observation, info)

    def reset(  # type: ignore[override]  # Info is a typed dict
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Start the task `options["task"]`, or one that `seed` draws."""
        gymnasium.Env.reset(self, seed=seed)
        index = (options or {}).get("task")
        chosen = self._seed(int(self.np_random.integers(self.num_tasks)) if index is None else index)
        observation, info = self.environment.reset(seed=chosen)
        self._return, self._steps = 0.0, 0
        self._task = _text(info.get("task", ""))
        self._task_id = self._identify(chosen, observation, info)
        return self._observed(observation), self._info(info, over=False)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:  # type: ignore[override]
        """Pass a command on."""
        observation, reward, terminated, truncated, info = self.environment.step(action)
        self._return += float(reward)
        self._steps += 1
        truncated = (truncated or self._steps >= self.max_steps) and not terminated
        return self._observed(observation), float(reward), terminated, truncated, self._info(info, over=terminated)

    def clone(self) -> GymnasiumText:
        """Return an independent environment in the same state: a deep copy of what plays.

        Raises:
            UserError: the environment cannot be copied, because it has a lock, a socket, a pointer or the like.
        """
        twin = copy.copy(self)
        with failures_as(self._uncopied):  # the code that copies is the environment's own, and can raise anything
            twin.environment = copy.deepcopy(self.environment)
        twin._np_random = copy.deepcopy(self._np_random)
        twin._probe = None  # closing one must not close that of the other
        return twin

    def expert(self) -> Expert:
        """Raise an error: there is no expert.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self._id} has no expert, which warm_start and --expert need")

    def close(self) -> None:
        """Close the environment."""
        self.environment.close()
        if self._probe is not None:
            self._probe.close()

    def _uncopied(self, error: Exception) -> str:
        reason = described(error).removesuffix(":")  # many a NotImplementedError has no message
        return f"{self._id} cannot be cloned: {reason}. Give its class a __deepcopy__ method"

    def _seed(self, task: Any) -> int:
        return SPLITS[self.split][check_task(task, self.num_tasks, self.split)]

    def _observed(self, observation: Any) -> str:
        if not isinstance(observation, str):
            raise UserError(f"{self._id}: expected an observation that is text, got {type(observation).__name__}")
        return observation

    def _identify(self, seed: int, observation: Any, info: Mapping[str, Any]) -> str:
        content = "\n".join([self._options, _text(info.get("task", "")), self._observed(observation)])
        return f"{self._id}-{seed}-{hashlib.sha256(content.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"

    def _info(self, info: Mapping[str, Any], *, over: bool) -> Info:
        flags = [bool(info[key]) for key in _WON if key in info]
        listed = info.get("admissible")
        return Info(
            task=self._task,
            task_id=self._task_id,
            task_type=_text(info.get("task_type", self._id)),
            won=flags[0] if flags else over and self._return > 0,
            score=min(1.0, max(0.0, self._return)),
            admissible=[_text(command) for command in listed] if isinstance(listed, list | tuple) else None,
            valid=True,
        )


def _registration(id_: str) -> EnvSpec | None:
    """Return the registration of an id, after the import of the module that it names; None if there is none.

    Raises:
        UserError: the module cannot be imported.
    """
    module, _, name = id_.rpartition(":")
    if module:
        if not all(part.isidentifier() for part in module.split(".")):
            return None
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # the code of the module can raise anything
            reason = f"the module {module} cannot be imported: {described(error)}"
            raise UserError(f"environment {id_!r}: {reason}") from error
    return gymnasium.registry.get(name)


def _explained(id_: str) -> AbstractContextManager[None]:
    """Turn what an environment raises while it is made, such as for a missing package, into a `UserError`."""
    return failures_as(lambda error: f"environment {id_!r} cannot be made: {described(error)}")


def _maker(id_: str, entry_point: Any) -> Any:
    """Return the class or function behind a registration.

    Raises:
        UserError: it makes only vectors of environments.
    """
    if entry_point is None:
        raise UserError(f"{id_} cannot make a single environment: choose another id")
    if callable(entry_point):
        return entry_point
    module, _, name = str(entry_point).partition(":")
    return getattr(importlib.import_module(module), name)


def _taken(maker: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that the maker names."""
    named = inspect.signature(maker).parameters
    return {name: value for name, value in arguments.items() if name in named}


def _require_signature(id_: str, maker: Any, arguments: Mapping[str, Any]) -> None:
    try:
        inspect.signature(maker).bind(**arguments)
    except TypeError as error:
        raise UserError(f"{id_} cannot be made with these options: {error}") from None


def _require_text(id_: str, made: gymnasium.Env[Any, Any]) -> None:
    """Make sure that observations and actions are text; a space that was left open is no obstacle."""
    observation, action = (getattr(made, name, None) for name in ("observation_space", "action_space"))
    reads = isinstance(observation, Text) or (isinstance(action, Text | None) and _speaks(made))
    if not (reads and isinstance(action, Text | None)):
        raise UserError(
            f"{id_} is not a text environment: expected observations and actions that are text, got observations "
            f"{observation} and actions {action}. Choose an environment whose spaces are gymnasium.spaces.Text"
        )


def _speaks(made: gymnasium.Env[Any, Any]) -> bool:
    begun = made.reset(seed=0)
    return isinstance(begun, tuple) and isinstance(begun[0], str)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
