"""ALFWorld as a `gymnasium` environment: generated games, or official ones; our engine, or the real one."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium

from empg.environments.alfworld import generator, textworld
from empg.environments.alfworld.expert import HouseholdExpert
from empg.environments.alfworld.gamefile import find_games, read_game
from empg.environments.alfworld.generator import generate
from empg.environments.alfworld.progress import progress
from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.spec import ALFWorldOptions, RoomSize
from empg.environments.alfworld.world import State, TaskType
from empg.environments.base import AnyText, Expert, Info, SetByReset, TextEnvironment
from empg.environments.options import check_max_steps, check_task, read_options
from empg.errors import UserError

ENGINES_KEPT = 256  # the games of an iteration are played by a whole group each


class ALFWorldEnv(TextEnvironment):
    """Household tasks in text, exactly as alfworld 0.4.2 tells them. Reward 1 on success, else 0.

    Args:
        split: "train", "valid_seen" or "valid_unseen".
        max_steps: turns until the episode is truncated.
        options: see `spec.ALFWorldOptions`.

    Raises:
        UserError: an argument is wrong; the message names it.
        MissingFileError: official games are wanted and not there.
    """

    _engine = SetByReset[Engine]()
    _state = SetByReset[State]()

    def __init__(self, split: str = "train", max_steps: int = 50, **options: Any) -> None:
        chosen = read_options(ALFWorldOptions, options)
        if split not in generator.SPLIT_SIZES:
            raise UserError(f"split: expected one of {', '.join(generator.SPLIT_SIZES)}, got {split!r:.80}")
        self.split, self.max_steps = split, check_max_steps(max_steps)
        self.rooms, self.backend = chosen.rooms, chosen.backend
        own = chosen.train_task_types if split == "train" else None
        wanted = own or chosen.task_types or tuple(TaskType)
        self.task_types = tuple(task_type for task_type in TaskType if task_type in wanted)
        self._files: tuple[Path, ...] | None = None
        if chosen.games is not None:
            self._files = _found(chosen.games.absolute(), split, self.task_types)
        self.observation_space = AnyText(100_000)
        self.action_space = AnyText(1_000)
        self._real: textworld.RealGame | None = None
        if chosen.backend == "textworld":
            textworld.memoise()
        self._commands: list[str] = []

    @property
    def num_tasks(self) -> int:
        """The number of games in this split."""
        return len(self._files) if self._files is not None else generator.SPLIT_SIZES[self.split]

    def task_id(self, index: int) -> str:
        """Return what is asked for, in which room, and a fingerprint of the game."""
        return self._load(index).game.task_id

    def reset(  # type: ignore[override]  # Info is a typed dict
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Begin the game `options["task"]`, or one that `seed` draws."""
        gymnasium.Env.reset(self, seed=seed)
        index = (options or {}).get("task")
        if index is None:
            index = int(self.np_random.integers(self.num_tasks))
        self._engine = self._load(index)
        self._state = self._engine.start()
        self._commands = []
        observation = self._engine.opening(self._state)
        if self.backend == "textworld":
            if self._real is not None:
                self._real.close()
            self._real = textworld.RealGame(self._engine.game)
            self._real.reset()
            observation = self._real.observation
        return observation, self._info(valid=True)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:  # type: ignore[override]
        """Obey a command; one that cannot be obeyed costs a step and "Nothing happens."."""
        # Our engine goes along with the real one: the expert looks at its state.
        observation, valid = self._engine.step(self._state, action)
        if self._real is not None:
            self._commands.append(action)
            valid = self._real.step(action)
            observation = self._real.observation
        won = self._real.won if self._real is not None else self._state.won
        return observation, float(won), won, self._state.steps >= self.max_steps and not won, self._info(valid=valid)

    def clone(self) -> ALFWorldEnv:
        """Return an independent environment in the same state; the real engine replays the episode for it."""
        twin = object.__new__(ALFWorldEnv)
        twin.__dict__.update(self.__dict__)
        twin._np_random = copy.deepcopy(self._np_random)
        twin._state = self._state.clone()
        twin._commands = list(self._commands)
        if self._real is not None:
            twin._real = textworld.RealGame(self._engine.game)
            twin._real.reset()
            for command in self._commands:
                twin._real.step(command)
        return twin

    def expert(self) -> Expert:
        """Return a fresh expert for the episode that was just reset."""
        return HouseholdExpert(self._engine, self._state)

    def close(self) -> None:
        """Hand the real engine back, if there is one."""
        if self._real is not None:
            self._real.close()
            self._real = None

    def _load(self, task: Any) -> Engine:
        index = check_task(task, self.num_tasks, self.split)
        if self._files is not None:
            return _official(self._files[index])
        return _generated(self.split, index, self.rooms, self.task_types)

    def _info(self, *, valid: bool) -> Info:
        game = self._engine.game
        won = self._real.won if self._real is not None else self._state.won
        return Info(
            task=game.task,
            task_id=game.task_id,
            task_type=game.goal.task_type.value,
            won=won,
            score=float(won),
            admissible=self._real.admissible if self._real is not None else self._engine.admissible(self._state),
            valid=valid,
            progress=float(won) if won else progress(self._engine, self._state),
        )


@lru_cache(16)  # reading a tree of thousands of files takes seconds, and every slot of a rollout asks for it
def _found(root: Path, split: str, task_types: tuple[TaskType, ...]) -> tuple[Path, ...]:
    return tuple(find_games(root, split, task_types))


@lru_cache(ENGINES_KEPT)
def _generated(split: str, index: int, rooms: RoomSize, task_types: tuple[TaskType, ...]) -> Engine:
    return Engine(generate(split, index, rooms, task_types))


@lru_cache(ENGINES_KEPT)
def _official(path: Path) -> Engine:
    return Engine(read_game(path))
