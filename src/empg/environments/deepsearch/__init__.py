"""Deep Search: multi-hop questions, a search tool, pages to read.

`world.py` says what documents and questions are, `actions.py` and `pages.py` what an agent says and reads, `expert.py`
plays, `env.py` is the gymnasium environment. `sources.py` puts a world together: the questions and pages of a generated
`encyclopaedia.py` or of files (`datasets.py`, `corpus.py`), one of the `retrievers.py`, and how answers are scored
(`scoring.py`, `judge.py`).
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
