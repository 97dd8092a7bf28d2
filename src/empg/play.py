"""A person plays a world in the terminal, or watches its expert."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO, get_args

import gymnasium
import yaml

from empg.environments.base import Decision, Info, TextEnvironment
from empg.errors import MissingExtraError, UserError
from empg.recipe import EnvironmentSection, RecipeError, parse_recipe
from empg.rollout.env_pool import make_environment

Ask = Callable[[str, Sequence[str]], str]
"""Given a prompt and the commands that would do something now, the next line; raises EOFError to leave."""

HELP = "Type what to do. ? lists the commands that do something now, Tab completes them, Ctrl-D leaves."


def open_world(name: str, split: str, options: Sequence[str] = ()) -> TextEnvironment:
    """The world of that name: a recipe's (`alfworld`) or any registered gymnasium id (`empg/ALFWorld-v1`).

    Args:
        name: of the world.
        split: which tasks.
        options: `key=value` arguments of its constructor; values are YAML.

    Raises:
        UserError: there is no such world, or it takes no such option.
    """
    import empg.environments  # registers the ids

    assert empg.environments
    arguments = _arguments(options)
    if name not in gymnasium.registry:
        known = get_args(EnvironmentSection.model_fields["id"].annotation)
        if name not in known:
            raise UserError(f"there is no world {name!r}: say {', '.join(known)}, or a registered gymnasium id")
        steps = {"max_steps": arguments.pop("max_steps")} if "max_steps" in arguments else {}
        section = {"id": name, "options": arguments, **steps}
        return make_environment(parse_recipe({"environment": section}, "play").environment, split)
    try:
        made = gymnasium.make(name, disable_env_checker=True, split=split, **arguments).unwrapped
    except TypeError as error:
        raise UserError(f"{name}: {str(error).partition(' was raised')[0]}") from None
    if not isinstance(made, TextEnvironment):
        raise UserError(f"{name} is not a world of text; it is a {type(made).__name__}")
    return made


def play(
    environment: TextEnvironment,
    task: int | None = None,
    *,
    expert: bool = False,
    ask: Ask | None = None,
    out: TextIO | None = None,
) -> bool:
    """Play one episode; returns whether it was won.

    Args:
        environment: the world.
        task: which of its split; None draws one.
        expert: the expert plays, and says what it thinks.
        ask: where commands come from; None is the terminal, or standard input where there is none.
        out: where the world speaks; None is standard output.

    Raises:
        UserError: there is no such task.
    """
    out = out or sys.stdout
    task = random.randrange(environment.num_tasks) if task is None else task
    if not 0 <= task < environment.num_tasks:
        raise UserError(f"task {task}: {environment.split} has tasks 0 to {environment.num_tasks - 1}")
    observation, info = environment.reset(options={"task": task})
    _say(out, f"{environment.split}, task {task} ({info['task_type']}), {environment.max_steps} steps. {HELP}")
    _say(out, f"\n{observation}\n\nTask: {info['task']}")
    turn = _expert_turn(environment, out) if expert else _person_turn(ask or terminal(), out)
    steps = 0
    while True:
        try:
            action = turn(f"{steps + 1}> ", observation, info)
        except (EOFError, KeyboardInterrupt):
            _say(out, f"\nleft after {_count(steps)}")
            return False
        observation, _, terminated, truncated, info = environment.step(action)
        steps += 1
        _say(out, observation)
        if terminated or truncated:
            score = "" if info["score"] in (0.0, 1.0) else f", score {info['score']:.2f}"
            end = "won" if info["won"] else "lost" if terminated else "not won: the steps are used up"
            _say(out, f"\n{end} after {_count(steps)}{score}")
            return info["won"]


def show_in_browser(environment: TextEnvironment, port: int, record: Path | None) -> None:
    """Serve a shop as a web site on this machine, until Ctrl-C; finished episodes are added to the file `record`.

    Raises:
        UserError: the world has no web pages.
        MissingExtraError: what serves them is not installed; the message says how to.
        OSError: the port is taken, or the file cannot be written.
    """
    from empg.environments.webshop import WebShopEnv

    if not isinstance(environment, WebShopEnv):
        raise UserError("--web is for webshop; this world has no web pages")
    try:
        from empg.environments.webshop.site import serve
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} is not installed: pip install 'empg[server]'") from None
    serve(environment, port, record, ready=lambda address: print(f"{address}  (Ctrl-C ends it)", flush=True))


def terminal() -> Ask:
    """Lines from the person: with history and completion on a terminal, plain lines from a pipe."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _piped
    from prompt_toolkit import PromptSession

    return prompted(PromptSession())


def prompted(session: Any) -> Ask:
    """Lines of a prompt_toolkit session; Tab completes the commands that do something now."""
    from prompt_toolkit.completion import WordCompleter

    def ask(prompt: str, commands: Sequence[str]) -> str:
        completer = WordCompleter(sorted(commands), ignore_case=True, sentence=True)
        line: str = session.prompt(prompt, completer=completer, complete_while_typing=False)
        return line

    return ask


Turn = Callable[[str, str, Info], str]


def _person_turn(ask: Ask, out: TextIO) -> Turn:
    def turn(prompt: str, observation: str, info: Info) -> str:
        commands = info["admissible"] or []
        while True:
            line = ask(prompt, commands).strip()
            if line == "?":
                _say(out, "\n".join(f"  {command}" for command in commands) or "This world does not list its commands.")
            elif line:
                return line

    return turn


def _expert_turn(environment: TextEnvironment, out: TextIO) -> Turn:
    expert = environment.expert()

    def turn(prompt: str, observation: str, info: Info) -> str:
        decision: Decision = expert.act(observation, info)
        _say(out, f"\n({decision['thought']})\n{prompt}{decision['action']}")
        return decision["action"]

    return turn


def _piped(prompt: str, commands: Sequence[str]) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    print(prompt + line, end="", flush=True)
    return line


def _arguments(options: Sequence[str]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not key.isidentifier() or key == "split":
            raise RecipeError(f"option {option!r} is not of the form key=value, e.g. rooms=small")
        try:
            arguments[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"option {option!r}: {value!r} is not a YAML value") from None
    return arguments


def _count(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def _say(out: TextIO, text: str) -> None:
    """Text of a world may hold anything; nothing of it but line ends reaches the terminal as control."""
    out.write("".join(c if c.isprintable() or c == "\n" else " " for c in text) + "\n")
    out.flush()
