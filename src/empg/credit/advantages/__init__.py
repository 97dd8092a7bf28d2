"""The advantage estimators, one module each, and `ADVANTAGES`, the one table of them.

The recipe, its error messages, the trainer and the tests read this table. A module of this package that defines
`ESTIMATOR` is in it: adding an estimator takes one new file here, its test and its place in the docs.
"""

from __future__ import annotations

import importlib
import pkgutil

from empg.credit.advantages.base import AdvantageEstimator, AdvantageInputs, Weighting

__all__ = ["ADVANTAGES", "AdvantageEstimator", "AdvantageInputs", "Weighting"]


def _discover() -> dict[str, AdvantageEstimator]:
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    found = (getattr(module, "ESTIMATOR", None) for module in modules)
    return {estimator.name: estimator for estimator in found if isinstance(estimator, AdvantageEstimator)}


ADVANTAGES: dict[str, AdvantageEstimator] = _discover()
"""The estimators by name, in alphabetical order of their modules."""
