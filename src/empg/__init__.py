"""Reinforcement learning for long-horizon LLM agents, with credit that follows the agent's own certainty.

The method in three lines: `advantages = empg.modulate_advantages(advantages, entropies, step_ids)`, where the step ids
come from your trainer or from `empg.step_ids_from_mask(mask)`. Everything else is in the submodules.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from empg import credit
    from empg.credit import modulate_advantages, step_ids_from_mask

__version__ = "0.1.0"
__all__ = ["__version__", "credit", "modulate_advantages", "step_ids_from_mask"]


def __getattr__(name: str) -> Any:
    """Load torch only when the method is asked for, so that `empg --help` answers at once."""
    if name not in __all__:
        raise AttributeError(f"module 'empg' has no attribute {name!r}")
    credit = importlib.import_module("empg.credit")
    return credit if name == "credit" else getattr(credit, name)
