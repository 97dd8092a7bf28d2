"""ALFWorld: household tasks in text.

`world.py` says what a game is, `rules.py` and `words.py` how it is played, `generator.py` makes games and
`gamefile.py` reads official ones, `expert.py` plays them, `env.py` is the gymnasium environment.
"""

from empg.environments.alfworld.env import ALFWorldEnv

__all__ = ["ALFWorldEnv"]
