"""Packages of other people, made in a temporary folder: what they need to add an environment, and nothing here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium

from empg.environments import registry
from tests import ROOT

LAMPROOM = '''
"""A fourth environment: rooms of lamps."""

import os
import sys

from pydantic import Field

from empg.environments.base import PromptSpec
from empg.environments.options import EnvironmentOptions, FilePath, read_options
from empg.environments.spec import EnvironmentSpec
from empg.errors import UserError
from lamproom.lamps import Lamps

TASKS = {"train": 40, "night": 6}


class LampOptions(EnvironmentOptions):
    """Options of the lamps."""

    presses: int = Field(2, ge=1, le=3, description="right presses that win, at most")
    log: FilePath | None = Field(None, description="a file that notes where environments are made")


class LampRoom(Lamps):
    """Press what is lit."""

    def __init__(self, split="train", max_steps=4, **options):
        chosen = read_options(LampOptions, options)
        if split not in TASKS:
            raise UserError(f"split: expected one of {', '.join(TASKS)}, got {split!r}")
        super().__init__(*[f"press:{1 + task % chosen.presses}" for task in range(TASKS[split])], max_steps=max_steps)
        self.split = split
        if chosen.log is not None:
            with chosen.log.open("a") as log:
                heavy = [name for name in ("torch", "empg.recipe") if name in sys.modules]
                log.write(f"{os.getpid()} {' '.join(heavy)}\\n")


SPEC = EnvironmentSpec(
    id="lamproom",
    entry_point="lamproom:LampRoom",
    options=LampOptions,
    prompt=PromptSpec(role="You press lamps.", example="<think>1 is lit.</think><action>press 1</action>"),
    panels=("night",),
    gymnasium_id="lamproom/LampRoom-v0",
)
'''

ECHO = '''
"""A gymnasium environment of text that knows nothing of empg: say the number that you read."""

import threading

import gymnasium
from gymnasium.spaces import Discrete, Text


class Echo(gymnasium.Env):
    def __init__(self, rounds=2, flag=""):
        self.observation_space, self.action_space = Text(50), Text(50)
        self.rounds, self.flag = rounds, flag

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn, self.number = 0, int(self.np_random.integers(3))
        return f"Round 0. Say {self.number}.", {"task": "repeat the number", **self.commands()}

    def step(self, action):
        right = action == f"say {self.number}"
        self.turn += 1
        self.number = int(self.np_random.integers(3))
        over = self.turn == self.rounds
        info = {**self.commands(), **({self.flag: right} if self.flag else {})}
        return f"Round {self.turn}. Say {self.number}.", 0.75 * right, over, False, info

    def commands(self):
        return {"admissible": ["say 0", "say 1", "say 2"]}


class Buttons(Echo):
    def __init__(self):
        super().__init__()
        self.action_space = Discrete(3)


class Pictures(Echo):
    def __init__(self):
        super().__init__()
        self.observation_space = Discrete(3)

    def reset(self, *, seed=None, options=None):
        return 1, {}


class Open(Echo):
    """Spaces left open; what it says is text."""

    def __init__(self):
        super().__init__()
        del self.observation_space, self.action_space


class Closing(Echo):
    """It cannot be played when it has been closed."""

    closed = False

    def reset(self, *, seed=None, options=None):
        if self.closed:
            raise RuntimeError("closed")
        return super().reset(seed=seed)

    def close(self):
        self.closed = True


class Locked(Echo):
    """It has a lock, so it cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Needy(Echo):
    def __init__(self):
        raise gymnasium.error.DependencyNotInstalled("pip install it")


class Flooded(Echo):
    def reset(self, *, seed=None, options=None):
        raise RuntimeError("the pump failed")


for kind in (Echo, Buttons, Pictures, Open, Closing, Locked, Needy, Flooded):
    name = kind.__name__
    gymnasium.register(f"{name}-v0", entry_point=kind, max_episode_steps=3 if name == "Open" else None)
'''


@contextmanager
def importable(folder: Path) -> Iterator[Path]:
    """A folder in which packages can be installed for a while; nothing of them stays."""
    path, modules, registered, ids = (
        list(sys.path),
        set(sys.modules),
        dict(registry._registered),
        set(gymnasium.registry),
    )
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield folder
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]
        registry._registered.clear()
        registry._registered.update(registered)
        for id_ in set(gymnasium.registry) - ids:
            del gymnasium.registry[id_]


def install(folder: Path, name: str, modules: dict[str, str], entry_points: dict[str, str]) -> None:
    """Lay a distribution out as an installer does: modules, and a *.dist-info with its entry points."""
    for path, text in modules.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    info = folder / f"{name}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    lines = [f"{id_} = {place}" for id_, place in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[empg.environments]", *lines, ""]))


def install_lamproom(folder: Path) -> None:
    """The package `lamproom`, whose environment is that of `tests/lamps.py`."""
    lamps = (ROOT / "tests" / "lamps.py").read_text(encoding="utf-8")
    modules = {"lamproom/__init__.py": LAMPROOM, "lamproom/lamps.py": lamps}
    install(folder, "lamproom", modules, {"lamproom": "lamproom:SPEC"})
