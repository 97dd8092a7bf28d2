"""ALFWorld: household tasks in text.

`world.py` defines a game, `rules.py` and `words.py` implement its rules and texts, `generator.py` generates games,
`gamefile.py` reads official ones, `expert.py` is the expert and `env.py` is the gymnasium environment.
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
