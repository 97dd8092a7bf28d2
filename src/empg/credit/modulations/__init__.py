"""The credit modulations, one module each, and `MODULATIONS`, the one table of them.

The recipe, its error messages, the trainer and the tests read this table. A module of this package that defines
`MODULATION` is in it: adding a modulation takes one new file here, its test and its place in the docs.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from empg.credit.checks import require_choice
from empg.credit.modulations.base import Modulation, ModulationInputs, StepCredit

__all__ = ["MODULATIONS", "Modulation", "ModulationInputs", "StepCredit", "modulated"]


def _discover() -> dict[str, Modulation[Any]]:
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    found = (getattr(module, "MODULATION", None) for module in modules)
    return {modulation.name: modulation for modulation in found if isinstance(modulation, Modulation)}


MODULATIONS: dict[str, Modulation[Any]] = _discover()
"""The modulations by name, in alphabetical order of their modules."""


def modulated(inputs: ModulationInputs, name: str | None, options: Any = None) -> StepCredit:
    """Return the credit of each step under the rule `name`; None is the base algorithm alone.

    Without a rule, the final advantage is the base advantage plus the process reward, and there are no intermediates.

    Raises:
        ValueError: as `Modulation`; there is no such rule, or it needs what the inputs do not have.
    """
    if name is None:
        return StepCredit(advantage=inputs.steps.plus_process_reward(inputs.steps.advantage))
    require_choice("name", name, list(MODULATIONS))
    return MODULATIONS[name](inputs, options)
