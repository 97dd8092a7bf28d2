"""Play an environment in the terminal, or watch its expert."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from empg.environments import registry
from empg.environments.base import Decision, Info, PlayableInBrowser, TextEnvironment
from empg.errors import UserError
from empg.plain_text import visible
from empg.yaml_text import read_yaml

Ask = Callable[[str, Sequence[str]], str]
"""Return the next line, given a prompt and the valid commands; raise EOFError to quit."""

HELP = "Type a command; ? lists the valid ones, Tab completes them, Ctrl-D quits."


def open_environment(id_: str, split: str, options: Sequence[str] = ()) -> TextEnvironment:
    """Open an environment as a recipe does.

    Args:
        id_: a registered environment (`alfworld`), or a gymnasium id of text (`empg/ALFWorld-v1`).
        split: the split of its tasks.
        options: `key=value` arguments of its constructor; values are YAML.

    Raises:
        UserError: the environment or an option does not exist.
    """
    arguments = arguments_of(options)
    max_steps = arguments.pop("max_steps", None)
    return registry.make(id_, split, arguments, max_steps)


def play(
    environment: TextEnvironment,
    task: int | None = None,
    *,
    expert: bool = False,
    ask: Ask | None = None,
    out: TextIO | None = None,
) -> bool:
    """Play one episode; return whether it was solved.

    Args:
        environment: the environment.
        task: index of the task in the split; None draws one at random.
        expert: let the expert play and print its thoughts.
        ask: source of commands; None is the terminal, or standard input without a terminal.
        out: output for observations; None is standard output.

    Raises:
        UserError: the task does not exist.
    """
    out = out or sys.stdout
    task = random.randrange(environment.num_tasks) if task is None else task
    if not 0 <= task < environment.num_tasks:
        raise UserError(f"task {task} does not exist: expected 0 to {environment.num_tasks - 1} in {environment.split}")
    observation, info = environment.reset(options={"task": task})
    _say(
        out,
        f"{environment.split}, task {task} ({info['task_type']}), {environment.max_steps} steps. "
        f"{'The expert plays.' if expert else HELP}",
    )
    _say(out, f"\n{observation}" + (f"\n\nTask: {info['task']}" if info["task"] else ""))
    turn = _expert_turn(environment, out) if expert else _person_turn(ask or terminal(), out)
    steps = 0
    while True:
        try:
            action = turn(f"{steps + 1}> ", observation, info)
        except (EOFError, KeyboardInterrupt):
            _say(out, f"\nquit after {_count(steps)}")
            return False
        observation, _, terminated, truncated, info = environment.step(action)
        steps += 1
        _say(out, observation)
        if terminated or truncated:
            score = "" if info["score"] in (0.0, 1.0) else f", score {info['score']:.2f}"
            end = "solved" if info["won"] else "failed" if terminated else "not solved: step limit reached"
            solution = "" if info["won"] else environment.solution()
            _say(out, f"\n{end} after {_count(steps)}{score}" + (f"\nright answer: {solution}" if solution else ""))
            return info["won"]


def show_in_browser(environment: TextEnvironment, port: int, record: Path | None) -> None:
    """Serve the web pages of an environment on this machine, until Ctrl-C.

    Args:
        environment: an environment that is `PlayableInBrowser`.
        port: the port; 0 picks a free one.
        record: file to which finished episodes are appended; None records nothing.

    Raises:
        UserError: the environment has no web pages, the port is unavailable, or the file cannot be written.
        MissingExtraError: the web server is not installed; the message has the command that installs it.
    """
    if not isinstance(environment, PlayableInBrowser):
        raise UserError("this environment has no web pages: remove --web")
    environment.serve(port, record, lambda address: print(f"{address}  (press Ctrl-C to stop)", flush=True))


def terminal() -> Ask:
    """Return the source of commands: with history and completion on a terminal, plain lines from a pipe."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _piped
    from prompt_toolkit import PromptSession

    return prompted(PromptSession())


def prompted(session: Any) -> Ask:
    """Return the lines of a prompt_toolkit session; Tab completes the valid commands."""
    from prompt_toolkit.completion import WordCompleter

    def ask(prompt: str, commands: Sequence[str]) -> str:
        shown = {command: visible(command) for command in commands}
        completer = WordCompleter(sorted(commands), ignore_case=True, sentence=True, display_dict=shown)
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
                _say(
                    out,
                    "\n".join(f"  {command}" for command in commands) or "This environment does not list its commands.",
                )
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


def arguments_of(options: Sequence[str]) -> dict[str, Any]:
    """Return `key=value` arguments of an environment's constructor; values are YAML.

    Raises:
        UserError: an argument has another form.
    """
    arguments: dict[str, Any] = {}
    for option in options:
        key, separator, value = option.partition("=")
        if separator and key == "split":
            raise UserError(f"wrong option {option!r:.80}: the split is chosen with --split {value:.60}")
        if not separator or not key.isidentifier():
            expected = "key=value, e.g. rooms=small or 'requests={per_second: 2}'"
            raise UserError(f"wrong option: expected {expected}, got {option!r}")
        arguments[key] = read_yaml(value, f"option {option!r:.80}")
    return arguments


def _count(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def _say(out: TextIO, text: str) -> None:
    """Print text; observations may contain any character."""
    out.write(visible(text) + "\n")
    out.flush()
