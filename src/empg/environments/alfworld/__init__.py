"""ALFWorld: household tasks in text.

`world.py` says what a game is, `rules.py` and `words.py` how it is played, `generator.py` makes games and
`gamefile.py` reads official ones, `expert.py` plays them, `env.py` is the gymnasium environment.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from empg.environments.alfworld.env import ALFWorldEnv

__all__ = ["ALFWorldEnv"]


def __getattr__(name: str) -> Any:
    """Import the environment when it is asked for: its options are known without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from empg.environments.alfworld.env import ALFWorldEnv

    return ALFWorldEnv
