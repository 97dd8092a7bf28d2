"""The console of what is shown while people wait."""

from __future__ import annotations

from rich.console import Console


def open_console(*, stderr: bool = False) -> Console:
    """Return a console on standard output, or on standard error, which draws only on a terminal that can move a cursor.

    rich alone would also draw into a pipe where FORCE_COLOR or TTY_COMPATIBLE is set, and nothing on a terminal
    without a cursor (`TERM=dumb`). There, lines are printed as into a file.
    """
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if console.is_terminal and not console.is_dumb_terminal and _is_terminal(console):
        return console
    return Console(stderr=stderr, highlight=False, soft_wrap=True, force_terminal=False)


def _is_terminal(console: Console) -> bool:
    try:
        return console.file.isatty()
    except ValueError:  # it is closed
        return False
