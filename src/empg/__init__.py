"""Entropy-Modulated Policy Gradients for long-horizon language-model agents.

The method is one call: `advantages = empg.modulate_advantages(advantages, entropies, step_ids)`. The step ids come from
your trainer or from `empg.step_ids_from_mask(mask)`. Everything else is in the submodules.
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
    """Load torch only when the method is used, so that `empg --help` is fast."""
    if name not in __all__:
        raise AttributeError(f"module 'empg' has no attribute {name!r}")
    credit = importlib.import_module("empg.credit")
    return credit if name == "credit" else getattr(credit, name)


def __dir__() -> list[str]:
    """List the public names, also those that are not loaded yet."""
    return sorted(__all__)
