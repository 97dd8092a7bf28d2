"""ALFWorld: household tasks in text.

`world.py` defines a game, `rules.py` and `words.py` implement its rules and texts, `generator.py` generates games,
`gamefile.py` reads official ones, `expert.py` is the expert and `env.py` is the gymnasium environment.
"""

from empg.environments.alfworld.env import ALFWorldEnv

__all__ = ["ALFWorldEnv"]
