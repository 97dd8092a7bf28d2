"""A world for tests: lamps that want to be pressed, and tasks whose fate is written down beforehand.

The fate of a task is `kind` or `kind:n`:

    press:n   real play: n right presses win, a wrong one changes nothing
    win:n     won at the n-th turn, whatever is done;   lose:n   likewise, lost
    endless   continues until `max_steps`
    raise:n   raises at the n-th turn (0: at reset);    die:n    ends its process
    shout:n   observations of n words from the first turn on
"""

from __future__ import annotations

import copy
import os
import re
from typing import Any

from empg.environments.base import Decision, Expert, Info, TextEnvironment

LAMPS = 5


class Presser:
    """The expert: presses the lamp that is lit."""

    def act(self, observation: str, info: Info) -> Decision:
        lit = re.findall(r"Lamp (\d)", observation)[-1]
        return {"thought": f"{lit} is lit.", "action": f"press {lit}"}


class Lamps(TextEnvironment):
    """Task i has the fate `fates[i]`."""

    def __init__(self, *fates: str, max_steps: int = 6) -> None:
        self.fates, self.max_steps, self.split = fates, max_steps, "train"
        self.task, self.turns, self.pressed = 0, 0, 0

    @property
    def num_tasks(self) -> int:
        return len(self.fates)

    def task_id(self, index: int) -> str:
        return f"{index}-{self.fates[index]}"

    def reset(  # type: ignore[override]  # as in TextEnvironment
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        self.task, self.turns, self.pressed = (options or {})["task"], 0, 0
        self._meet_fate()
        return self._observation(), self._info(won=False, valid=True)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:  # type: ignore[override]
        self.turns += 1
        self._meet_fate()
        kind, count = self._fate()
        right = action == f"press {self._lit()}"
        self.pressed += right
        won = (kind == "win" and self.turns == count) or (kind == "press" and self.pressed == count)
        lost = kind == "lose" and self.turns == count
        info = self._info(won=won, valid=action in self._commands())
        over = won or lost
        return self._observation(), float(won), over, not over and self.turns >= self.max_steps, info

    def clone(self) -> Lamps:
        return copy.copy(self)

    def expert(self) -> Expert:
        return Presser()

    def _fate(self) -> tuple[str, int]:
        kind, _, count = self.fates[self.task].partition(":")
        return kind, int(count or -1)

    def _meet_fate(self) -> None:
        kind, count = self._fate()
        if kind == "raise" and count == self.turns:
            raise RuntimeError(f"the lamps went out\nat turn {self.turns}")
        if kind == "die" and count == self.turns:
            os._exit(3)

    def _lit(self) -> int:
        return (self.task * 3 + self.pressed * 2) % LAMPS

    def _observation(self) -> str:
        kind, count = self._fate()
        shout = "on " * count if kind == "shout" and self.turns else ""
        return f"{shout}Lamp {self._lit()} is lit."

    def _commands(self) -> list[str]:
        return [f"press {lamp}" for lamp in range(LAMPS)]

    def _info(self, *, won: bool, valid: bool) -> Info:
        return {
            "task": "press lamps",
            "task_id": self.task_id(self.task),
            "task_type": self._fate()[0],
            "won": won,
            "score": float(won),
            "admissible": self._commands(),
            "valid": valid,
        }
