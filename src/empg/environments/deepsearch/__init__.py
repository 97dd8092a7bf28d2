"""Deep Search: multi-hop questions, a search tool, and pages to read.

`world.py` defines documents and questions; `actions.py` parses commands; `pages.py` renders observations; `expert.py`
is the expert; `env.py` is the gymnasium environment. `sources.py` combines the questions and pages of the generated
`encyclopaedia.py`, of `realworld.py` or of files (`datasets.py`, `corpus.py`) with one of the `retrievers.py` and a
score for answers (`scoring.py`, `judge.py`).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from empg.environments.deepsearch.env import DeepSearchEnv

__all__ = ["DeepSearchEnv"]


def __getattr__(name: str) -> Any:
    """Import the environment when it is asked for: its options are known without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from empg.environments.deepsearch.env import DeepSearchEnv

    return DeepSearchEnv
